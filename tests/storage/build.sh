#!/usr/bin/env bash
# Builds the S3 server that tests read from and write to (Versity's gateway over a folder) from Go modules into the cache,
# once for each content of go.sum: minutes with cold caches, then nothing. Says what it does on standard error; the last
# line on standard output is the folder with the program.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}

cd "$here"
key=$(cat go.mod go.sum build.sh | sha256sum | cut -c1-12)
home=$cache/storage-$key
if [ ! -d "$home" ]; then
  command -v go >/dev/null || { echo "storage: Go 1.26 or newer is needed to build the S3 server: https://go.dev/doc/install" >&2; exit 1; }
  mkdir -p "$cache"
  # Tests run in parallel: the first one builds, the others wait for it.
  exec 9> "$cache/storage.lock"
  flock 9
fi
if [ ! -d "$home" ]; then
  echo "storage: building the S3 server versitygw into $home (a minute or two, once)" >&2
  work=$(mktemp -d "$cache/storage.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  # No cgo: no C compiler, and the program runs anywhere.
  CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$work/" \
    github.com/versity/versitygw/cmd/versitygw >&2
  chmod 755 "$work"
  mv -T "$work" "$home"
  trap - EXIT
  echo "storage: built in $SECONDS s" >&2
fi
echo "$home"
