#!/bin/sh
# The first process of a node: `node.sh FOLDER NAME`. It gives the node places of its own where containerd and the kubelet write by
# fixed names, says that it is up, and reaps what is orphaned. When it is killed, so is all that runs on the node.
set -eu
folder=$1 name=$2

mount --make-rprivate /
hostname "$name"
for place in /var/lib /var/log /run; do
  mount -t tmpfs tmpfs "$place"
done
# What outlives a power cut.
for place in /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers; do
  mkdir -p "$place" "$folder/disk$place"
  mount --bind "$folder/disk$place" "$place"
done
mount --make-shared /var/lib/kubelet
mkdir /run/netns /run/containerd
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
touch "$folder/up"
while :; do sleep 3600; done
