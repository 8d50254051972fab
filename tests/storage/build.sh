#!/usr/bin/env bash
# Builds the servers that tests read from and write to, from Go modules, into the cache: Versity's gateway (S3 over a folder),
# fake-gcs-server (Google Cloud Storage), and a web server over a folder. Once for each content of this folder: minutes with
# cold caches, then nothing. Says what it does on standard error; the last line on standard output is the folder with the
# programs.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}

cd "$here"
key=$(cat go.mod go.sum build.sh cmd/*/*.go | sha256sum | cut -c1-12)
home=$cache/storage-$key
if [ ! -d "$home" ]; then
  command -v go >/dev/null || { echo "storage: Go 1.26 or newer is needed to build the servers: https://go.dev/doc/install" >&2; exit 1; }
  mkdir -p "$cache"
  # Tests run in parallel: the first one builds, the others wait for it.
  exec 9> "$cache/storage.lock"
  flock 9
fi
if [ ! -d "$home" ]; then
  echo "storage: building versitygw, fake-gcs-server and a web server into $home (some minutes, once)" >&2
  work=$(mktemp -d "$cache/storage.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  # No cgo: no C compiler, and the program runs anywhere.
  CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$work/" \
    github.com/versity/versitygw/cmd/versitygw github.com/fsouza/fake-gcs-server ./cmd/files >&2
  chmod 755 "$work"
  mv -T "$work" "$home"
  trap - EXIT
  echo "storage: built in $SECONDS s" >&2
fi
echo "$home"
