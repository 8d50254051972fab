#!/usr/bin/env bash
# Installs what building the trainer needs beside a C++ compiler, where it is missing: cmake and nasm, by which
# libjpeg-turbo is built with its vector code. Needs root and apt, or says what to install.
set -euo pipefail

missing=()
for tool in cmake nasm; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "tools: installing ${missing[*]}"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null && exit 0
fi
echo "tools: install ${missing[*]} (Debian, Ubuntu: sudo apt-get install ${missing[*]}), then run this again" >&2
exit 1
