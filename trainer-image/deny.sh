#!/usr/bin/env bash
# Checks licences, sources, duplicates and known faults of all dependencies with cargo-deny, which it installs into the cache on first
# use. Known faults are RustSec's: where its database can't be fetched that is said, and is an error if ADVISORIES=required.
set -euo pipefail

version=0.20.2
cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}
deny=$cache/cargo-deny-$version/bin/cargo-deny
cd "$(dirname "$0")/.."

# A fault that is ignored has a day by which it is gone.
today=$(date -u +%F)
while IFS= read -r ignored; do
  [[ $ignored =~ reason\ =\ \".*until\ ([0-9]{4}-[0-9]{2}-[0-9]{2})\" ]] ||
    { echo "deny: deny.toml: the reason must end with \"until YEAR-MONTH-DAY\": $ignored" >&2; exit 1; }
  [[ ${BASH_REMATCH[1]} > $today ]] ||
    { echo "deny: deny.toml: its day has come: find out what is left to do, and do it: $ignored" >&2; exit 1; }
done < <(grep -E '^[^#]*"RUSTSEC-' "${DENY_CONFIG:-deny.toml}")

if [ ! -x "$deny" ]; then
  echo "lint: installing cargo-deny $version into $cache"
  # Unoptimised: it looks at some hundred crates, and is built more slowly than it runs.
  CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    cargo install --quiet --locked --root "$cache/cargo-deny-$version" "cargo-deny@$version"
fi
checks=(bans licenses sources)
if "$deny" --log-level off --locked fetch db 2> /dev/null; then
  checks+=(advisories)
elif [ "${ADVISORIES:-}" = required ]; then
  echo "deny: RustSec's database can't be fetched from https://github.com/RustSec/advisory-db: known faults can't be checked" >&2
  exit 1
else
  echo "deny: RustSec's database can't be fetched: known faults are not checked here; continuous integration does" >&2
fi
"$deny" --log-level error --locked check "${checks[@]}"
