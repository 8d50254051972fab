#!/usr/bin/env bash
# Builds the servers that tests read from and write to, from Go modules, into the cache: Versity's gateway (S3 over a folder),
# Google Cloud Storage by fake-gcs-server's library, and a web server over a folder. Once for each content of this folder: minutes with
# cold caches, then nothing. Says what it does on standard error; the last line on standard output is the folder with the
# programs.
set -euo pipefail

cd "$(dirname "$0")"
. ../built.sh

programs() {
  go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$work/" \
    github.com/versity/versitygw/cmd/versitygw ./cmd/gcs ./cmd/files
}
built storage "versitygw, Google Cloud Storage and a web server"
