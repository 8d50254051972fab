#!/usr/bin/env bash
# Assembles the files of an image: `rootfs.sh LIST OUT NAME=VALUE...`. LIST has, in sections that become layers, lines of
#   MODE PATH [SOURCE [stripped]]
# A PATH that ends with / is a folder. A SOURCE is a file of this machine, one of the repository if it does not begin with /, or one
# below the folder that NAME=VALUE names: {NAME}/file. OUT gets a folder for each section. A file of OUT that is not older than its
# source is left as it is. The containers' builds and the tests run this same script.
set -euo pipefail

list=$(realpath "$1") out=$2
shift 2
declare -A places
for setting in "$@"; do places[${setting%%=*}]=${setting#*=}; done
wrong() { echo "rootfs: $list: $*" >&2; exit 1; }

# What is no longer listed must not be shipped.
if [ -e "$out" ] && ! cmp -s "$list" "$out/list"; then rm -rf "$out"; fi
mkdir -p "$out"
out=$(realpath "$out")
cd "$(dirname "$0")/../.."
layer=
while read -r mode path source how rest; do
  case $mode in
    '' | '#'*) continue ;;
    '['*']')
      layer=${mode:1:-1}
      install -d -m 755 "$out/$layer"
      continue ;;
  esac
  [ -n "$layer" ] || wrong "$path stands before the first section"
  [ -z "$rest" ] || wrong "too many words about $path"
  target=$out/$layer$path
  if [[ $path == */ ]]; then
    install -d -m "$mode" "$target"
    continue
  fi
  if [[ $source == '{'*'}'* ]]; then
    place=${source%%\}*} place=${place#\{}
    source=${places[$place]:?"rootfs: $list: say where $place is: $place=FOLDER"}${source#*\}}
  fi
  [ -f "$source" ] || wrong "$source is no file: it is to become $path"
  [ "$target" -nt "$source" ] && continue
  (umask 022 && mkdir -p "$(dirname "$target")")
  install -m "$mode" "$source" "$target.new"
  case $how in
    '') ;;
    stripped) strip --strip-unneeded "$target.new" ;;
    *) wrong "$path: $how is no way to treat a file" ;;
  esac
  mv "$target.new" "$target"
done < "$list"
cp "$list" "$out/list"
