#!/usr/bin/env bash
# Builds what test clusters are made of (etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok, kubelet, kube-proxy)
# from Go modules into the cache, once for each content of go.sum and the mains: minutes with cold caches, then nothing.
set -euo pipefail
cd "$(dirname "$0")"
. ../built.sh

kubernetes=v1.37.2
programs() {
  local number=${kubernetes#v} version=k8s.io/component-base/version
  # One setting for all, so that they share what is compiled.
  go build -trimpath -buildvcs=false -o "$work/" -ldflags "-s -w
    -X $version.gitVersion=$kubernetes -X $version.gitMajor=${number%%.*} -X $version.gitMinor=$(cut -d. -f2 <<< "$number")" \
    ./cmd/... sigs.k8s.io/kwok/cmd/kwok
}
built cluster "Kubernetes $kubernetes, its etcd and KWOK"
