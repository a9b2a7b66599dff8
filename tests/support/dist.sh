#!/usr/bin/env bash
# What PGXN takes: the committed sources and a META.json, in a zip.
#
# Usage: dist.sh [OUT_DIR]        prints the path of the archive
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-target/dist}
version=$(sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1)
description=$(sed -n 's/^description *= *"\(.*\)"/\1/p' Cargo.toml)
mkdir -p "$out"
meta=$(mktemp -d)
trap 'rm -rf "$meta"' EXIT
cat >"$meta/META.json" <<J
{
   "name": "mimeo",
   "abstract": "$description",
   "version": "$version",
   "maintainer": "the authors of mimeo",
   "license": "postgresql",
   "provides": {
      "mimeo": {
         "abstract": "$description",
         "file": "sql/tables.sql",
         "docfile": "README.md",
         "version": "$version"
      }
   },
   "prereqs": {
      "runtime": { "requires": { "PostgreSQL": "15.0.0" } },
      "test": { "requires": { "pgTAP": "1.2.0" } }
   },
   "meta-spec": { "version": "1.0.0" },
   "tags": [ "replication", "snapshot", "copy", "etl", "foreign data" ]
}
J
python3 -m json.tool "$meta/META.json" >/dev/null 2>&1 || perl -MJSON::PP -0777 -ne 'decode_json($_)' "$meta/META.json"
git archive --format=zip --prefix="mimeo-$version/" --add-file="$meta/META.json" -o "$out/mimeo-$version.zip" HEAD
echo "$out/mimeo-$version.zip"
