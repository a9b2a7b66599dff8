#!/usr/bin/env bash
# Runs a command that takes long, and tells every 15 seconds that it is still at work, and at what; what it printed is shown if
# it fails.
#
# Usage: alive.sh WHAT command…
set -euo pipefail
what=$1
shift
log=$(mktemp)
start=$SECONDS
echo "mimeo: $what" >&2
"$@" >"$log" 2>&1 &
command=$!
trap 'kill "$command" 2>/dev/null || true; rm -f "$log"' EXIT
told=$SECONDS
while kill -0 "$command" 2>/dev/null; do
    sleep 0.2
    if [ $((SECONDS - told)) -ge 15 ]; then
        told=$SECONDS
        last=$(tail -c 400 "$log" | tr '\r' '\n' | sed 's/\x1b\[[0-9;]*[A-Za-z]//g; s/^[[:space:]]*//; /^$/d' | tail -n 1 | cut -c 1-80)
        echo "mimeo:   $((SECONDS - start)) s: ${last:-…}" >&2
    fi
done
status=0
wait "$command" || status=$?
if [ $status != 0 ]; then
    cat "$log" >&2
    echo "mimeo: $what failed" >&2
fi
exit $status
