#!/usr/bin/env bash
# Checks licences, sources, duplicates and (where the advisory database can be reached) known faults of all
# dependencies with cargo-deny, which it installs into the cache on first use.
set -euo pipefail

version=0.20.2
cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}
deny=$cache/cargo-deny-$version/bin/cargo-deny
if [ ! -x "$deny" ]; then
  echo "lint: installing cargo-deny $version into $cache"
  # Unoptimised: it looks at some hundred crates, and is built more slowly than it runs.
  CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    cargo install --quiet --locked --root "$cache/cargo-deny-$version" "cargo-deny@$version"
fi
"$deny" --log-level error check bans licenses sources
