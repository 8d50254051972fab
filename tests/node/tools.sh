#!/usr/bin/env bash
# Installs what nodes of tests need beside what is built here, where it is missing: a container runtime with its network plug-ins,
# and what sets up networks. Needs root and apt, or says what to install.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

missing=()
while read -r program package; do
  command -v "$program" >/dev/null || missing+=("$package")
done <<'TOOLS'
containerd containerd
runc runc
/usr/lib/cni/ptp containernetworking-plugins
ip iproute2
nft nftables
conntrack conntrack
unshare util-linux
TOOLS
[ ${#missing[@]} -eq 0 ] && exit 0
echo "node: installing ${missing[*]}" >&2
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null && exit 0
fi
echo "node: install ${missing[*]} (Debian, Ubuntu: sudo apt-get install ${missing[*]}), then run this again" >&2
exit 1
