#!/usr/bin/env bash
# Builds what the chart, its alerts and the workflows are checked with (Helm, Prometheus' own parser of rules, actionlint) from Go
# modules into the cache, with the Prometheus operator's definitions, once for each content of go.sum: some minutes with cold
# caches, then nothing. Says what it does on standard error; the last line on standard output is the folder with the programs.
set -euo pipefail

# The module of the Prometheus operator, for the files of its definitions alone, and its sum as go.sum would have it.
monitoring=github.com/prometheus-operator/prometheus-operator@v0.85.0
monitoring_sum=h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=

here=$(cd "$(dirname "$0")" && pwd)
cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}

cd "$here"
key=$(cat go.mod go.sum build.sh cmd/*/main.go | sha256sum | cut -c1-12)
home=$cache/checkers-$key
if [ ! -d "$home" ]; then
  command -v go >/dev/null || { echo "checkers: Go 1.26 or newer is needed to build Helm: https://go.dev/doc/install" >&2; exit 1; }
  mkdir -p "$cache"
  # Tests run in parallel: the first one builds, the others wait for it.
  exec 9> "$cache/checkers.lock"
  flock 9
fi
if [ ! -d "$home" ]; then
  echo "checkers: building Helm, actionlint and Prometheus' parser into $home (some minutes, once)" >&2
  work=$(mktemp -d "$cache/checkers.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  # No cgo: no C compiler, and the programs run anywhere.
  CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$work/" \
    helm.sh/helm/v4/cmd/helm github.com/rhysd/actionlint/cmd/actionlint ./cmd/rules >&2
  fetched=$(cd "$work" && GOFLAGS= go mod download -json "$monitoring")
  grep -q "\"Sum\": \"$monitoring_sum\"" <<< "$fetched" || { echo "checkers: $monitoring is not what it was: $fetched" >&2; exit 1; }
  source=$(sed -n 's/.*"Dir": "\(.*\)".*/\1/p' <<< "$fetched")
  mkdir "$work/crds"
  for kind in servicemonitors podmonitors prometheusrules; do
    install -m 644 "$source/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" "$work/crds/"
  done
  chmod 755 "$work"
  mv -T "$work" "$home"
  trap - EXIT
  echo "checkers: built in $SECONDS s" >&2
fi
echo "$home"
