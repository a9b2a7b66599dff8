#!/usr/bin/env bash
# A Debian in a folder, beside the one of this machine; as root.
#
# Usage: system.sh make SUITE DIR [package,…]      by debootstrap, from the mirror that this machine's own apt uses
#        system.sh experimental DIR SOURCE        what this source package has in experimental, and nothing else of it, is for that sid, too
#        system.sh run DIR [FROM:TO …] -- command…  with folders of this machine mounted into it; its processes and mounts end with
#                                                   the command, whatever happens. Of the environment it gets what $PASS names.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

mirror() {
    apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Identifier: Packages' | sed -n 's/^Debian //p' | head -n 1
}

case $1 in
make)
    suite=$2 dir=$3 packages=${4:-}
    [ -x /usr/sbin/debootstrap ] || { apt-get update -qq && apt-get install -y -qq --no-install-recommends debootstrap >/dev/null; }
    # What apt knows of an archive comes with its first update.
    [ -n "$(mirror)" ] || apt-get update -qq
    from=$(mirror)
    [ -n "$from" ] || { echo "mimeo: apt knows no archive of Debian on this machine, from which $suite could come" >&2; exit 1; }
    # A suite that is newer than this machine's debootstrap is made as sid is.
    script=/usr/share/debootstrap/scripts/$suite
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    "$here/alive.sh" "making a Debian ($suite)" debootstrap --variant=minbase ${packages:+--include="$packages"} "$suite" "$dir" "$from" "$script"
    ;;
experimental)
    # Other packages of experimental may be newer, too, and do not go together with the rest of sid (a perl, for one).
    sed -n 's/ sid / experimental /p' "$2/etc/apt/sources.list" >"$2/etc/apt/sources.list.d/experimental.list"
    printf 'Package: src:%s\nPin: release a=experimental\nPin-Priority: 500\n' "$3" >"$2/etc/apt/preferences.d/experimental"
    ;;
run)
    root=$2
    shift 2
    binds=()
    while [ "$1" != -- ]; do
        binds+=("$1")
        shift
    done
    shift
    cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
    environment=(HOME=/root "TERM=${TERM:-dumb}" LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
    for name in ${PASS:-}; do environment+=("$name=${!name-}"); done
    # A mount namespace of its own: it ends with its last process.
    exec unshare --mount --pid --fork --kill-child bash -euo pipefail -c '
        root=$1 binds=$2
        shift 2
        mount --make-rprivate /
        while [ "$binds" -gt 0 ]; do
            mkdir -p "$root${1#*:}"
            mount --bind "${1%%:*}" "$root${1#*:}"
            binds=$((binds - 1))
            shift
        done
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm" 2>/dev/null || true
        exec chroot "$root" /usr/bin/env -i "$@"
    ' bash "$root" "${#binds[@]}" "${binds[@]}" "${environment[@]}" "$@"
    ;;
esac
