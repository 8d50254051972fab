#!/usr/bin/env bash
# Builds what the chart, its alerts and the workflows are checked with (Helm, Prometheus' own parser of rules, actionlint) from Go
# modules into the cache, with the Prometheus operator's definitions, once for each content of go.sum: some minutes with cold
# caches, then nothing. Says what it does on standard error; the last line on standard output is the folder with the programs.
set -euo pipefail

# The module of the Prometheus operator, for the files of its definitions alone, and its sum as go.sum would have it.
monitoring=github.com/prometheus-operator/prometheus-operator@v0.85.0
monitoring_sum=h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=

cd "$(dirname "$0")"
. ../built.sh

programs() {
  go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$work/" \
    helm.sh/helm/v4/cmd/helm github.com/rhysd/actionlint/cmd/actionlint ./cmd/rules
  local fetched source kind
  fetched=$(cd "$work" && GOFLAGS= go mod download -json "$monitoring")
  grep -q "\"Sum\": \"$monitoring_sum\"" <<< "$fetched" || { echo "checkers: $monitoring is not what it was: $fetched" >&2; exit 1; }
  source=$(sed -n 's/.*"Dir": "\(.*\)".*/\1/p' <<< "$fetched")
  mkdir "$work/crds"
  for kind in servicemonitors podmonitors prometheusrules; do
    install -m 644 "$source/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" "$work/crds/"
  done
}
built checkers "Helm, actionlint and Prometheus' parser"
