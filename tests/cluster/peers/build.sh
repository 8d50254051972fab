#!/usr/bin/env bash
# Builds what the operator's benchmark compares it with (JobSet and Kubeflow Trainer) from Go modules into the cache, once
# for each content of the go.mod and go.sum: minutes with cold caches, then nothing. Their definitions and webhooks lie
# beside the programs, from the same modules. Says what it does on standard error; the last line on standard output is the
# folder: in it `jobset` and `trainer`, each with `manager`, `definitions`, `webhooks.yaml` and patches named by kind.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}

cd "$here"
key=$(cat build.sh */go.mod */go.sum | sha256sum | cut -c1-12)
home=$cache/peers-$key
if [ ! -d "$home" ]; then
  command -v go >/dev/null || { echo "peers: Go 1.26 or newer is needed to build JobSet: https://go.dev/doc/install" >&2; exit 1; }
  mkdir -p "$cache"
  exec 9> "$cache/peers.lock"
  flock 9
fi
if [ ! -d "$home" ]; then
  echo "peers: building JobSet and Kubeflow Trainer into $home (some minutes, once)" >&2
  work=$(mktemp -d "$cache/peers.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  export CGO_ENABLED=0 GOFLAGS=-mod=readonly

  # A module has one tool, the manager, as its image has it.
  (cd jobset && go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$work/jobset/manager" tool >&2)
  (cd trainer && go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$work/trainer/manager" tool >&2)

  jobset=$(cd jobset && go list -m -f '{{.Dir}}' sigs.k8s.io/jobset)/config/components
  install -m 644 -Dt "$work/jobset/definitions" "$jobset"/crd/bases/*.yaml
  install -m 644 "$jobset/webhook/manifests.yaml" "$work/jobset/webhooks.yaml"
  install -m 644 "$jobset/webhook/patches/mutating-patch.yaml" "$work/jobset/MutatingWebhookConfiguration.yaml"
  install -m 644 "$jobset/webhook/patches/validating-patch.yaml" "$work/jobset/ValidatingWebhookConfiguration.yaml"

  trainer=$(cd trainer && go list -m -f '{{.Dir}}' github.com/kubeflow/trainer/v2)/manifests/base
  install -m 644 -Dt "$work/trainer/definitions" "$trainer"/crds/trainer.kubeflow.org_*.yaml
  install -m 644 "$trainer/webhook/manifests.yaml" "$work/trainer/webhooks.yaml"
  install -m 644 "$trainer/webhook/patch.yaml" "$work/trainer/ValidatingWebhookConfiguration.yaml"

  chmod 755 "$work"
  mv -T "$work" "$home"
  trap - EXIT
  echo "peers: built in $SECONDS s" >&2
fi
echo "$home"
