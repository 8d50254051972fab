#!/usr/bin/env bash
# Builds the test control plane (etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok) from Go modules into
# the cache, once for each content of go.sum and the mains: minutes with cold caches, then nothing. Says what it does on
# standard error; the last line on standard output is the folder with the programs.
set -euo pipefail

kubernetes=v1.37.2
here=$(cd "$(dirname "$0")" && pwd)
cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}

cd "$here"
key=$(cat go.mod go.sum build.sh cmd/*/main.go | sha256sum | cut -c1-12)
home=$cache/cluster-$key
if [ ! -d "$home" ]; then
  command -v go >/dev/null || { echo "cluster: Go 1.26 or newer is needed to build Kubernetes: https://go.dev/doc/install" >&2; exit 1; }
  mkdir -p "$cache"
  # Tests run in parallel: the first one builds, the others wait for it.
  exec 9> "$cache/cluster.lock"
  flock 9
fi
if [ ! -d "$home" ]; then
  echo "cluster: building Kubernetes $kubernetes, its etcd and KWOK into $home (some minutes, once)" >&2
  work=$(mktemp -d "$cache/cluster.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  number=${kubernetes#v}
  version=k8s.io/component-base/version
  # One setting for all, so that they share what is compiled. No cgo: no C compiler, and the programs run anywhere.
  CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false -o "$work/" -ldflags "-s -w
    -X $version.gitVersion=$kubernetes -X $version.gitMajor=${number%%.*} -X $version.gitMinor=$(cut -d. -f2 <<< "$number")" \
    ./cmd/... sigs.k8s.io/kwok/cmd/kwok >&2
  chmod 755 "$work"
  mv -T "$work" "$home"
  trap - EXIT
  echo "cluster: built in $SECONDS s" >&2
fi
echo "$home"
