#!/usr/bin/env bash
# Builds what nodes of tests are made of beside Kubernetes (CoreDNS, what holds a pod's namespaces, GPUs that are not there) from
# Go modules into the cache, once for each content of go.sum and the mains: a minute with cold caches, then nothing.
set -euo pipefail
cd "$(dirname "$0")"
. ../built.sh

programs() {
  go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$work/" ./cmd/...
}
built node "CoreDNS and what else nodes of tests run"
