#!/usr/bin/env bash
# Debian packages with all that they need and this machine lacks, unpacked into a folder without installing anything:
# tests/unpack.sh FOLDER PACKAGE…   The folder appears when it is whole.
set -euo pipefail
folder=$1
shift
rm -rf "$folder" "$folder.tmp"
mkdir -p "$folder.tmp/archives/partial" "$folder.tmp/root"
archives=$(cd "$folder.tmp/archives" && pwd)

download() {
  timeout 300 apt-get install -y -qq --no-install-recommends --download-only \
    -o Debug::NoLocking=1 -o Dir::Cache::archives="$archives/" "$@" >/dev/null 2>&1
}

download "$@" || { apt-get update -qq && download "$@"; }
for package in "$archives"/*.deb; do
  dpkg -x "$package" "$folder.tmp/root"
done
mv "$folder.tmp/root" "$folder"
rm -rf "$folder.tmp"
