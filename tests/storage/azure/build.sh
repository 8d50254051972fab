#!/usr/bin/env bash
# Installs Azurite, Microsoft's emulator of Azure's storage, with what it needs from npm, as package-lock.json pins it, into the
# cache: once for each content of this folder, a minute with 190 MB on the disk. No package's own script is run. Says what it does
# on standard error; the last line on standard output is the folder with the program `azurite`, which runs without a network.
set -euo pipefail

cd "$(dirname "$0")"
. ../../built.sh
sources=(package.json package-lock.json build.sh)

# Node, and npm where Node comes without it. Needs root and apt, or says what to install.
tools() {
  local missing=()
  for tool in node npm; do
    command -v "$tool" >/dev/null || missing+=("${tool/%node/nodejs}")
  done
  [ ${#missing[@]} -eq 0 ] && return
  echo "$1: installing ${missing[*]}" >&2
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null && return
  fi
  echo "$1: install ${missing[*]} (Debian, Ubuntu: sudo apt-get install ${missing[*]}), then run this again" >&2
  exit 1
}

programs() {
  cp package.json package-lock.json "$work/"
  npm ci --prefix "$work" --omit=dev --ignore-scripts --no-audit --no-fund --no-update-notifier
  cat > "$work/azurite" <<'PROGRAM'
#!/bin/sh
exec node "$(dirname "$0")/node_modules/azurite/dist/src/blob/main.js" "$@"
PROGRAM
  chmod 755 "$work/azurite"
}
built azurite "Azurite"
