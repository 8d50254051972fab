# Sourced by the build.sh of each Go module beside it, in the module's folder: `built NAME WHAT` has the function `programs` build
# into $work and keeps the outcome in the cache, once for each content of the module. It says what it does on standard error; the
# last line on standard output is the folder with the programs. What is no Go module has other `sources`, and another `tools`.

sources=(go.mod go.sum build.sh cmd/*/*.go)

# Sees to it that what builds is there.
tools() {
  command -v go >/dev/null && return
  echo "$1: Go 1.26 or newer is needed to build $2: https://go.dev/doc/install" >&2
  exit 1
}

built() {
  local name=$1 what=$2 cache key home
  cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}
  key=$(cat "${sources[@]}" | sha256sum | cut -c1-12)
  home=$cache/$name-$key
  if [ ! -d "$home" ]; then
    mkdir -p "$cache"
    # Tests run in parallel: the first one builds, the others wait for it.
    exec 9> "$cache/$name.lock"
    flock 9
  fi
  if [ ! -d "$home" ]; then
    tools "$name" "$what"
    echo "$name: building $what into $home (some minutes, once)" >&2
    work=$(mktemp -d "$cache/$name.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # No cgo: no C compiler, and the programs run anywhere.
    export CGO_ENABLED=0 GOFLAGS=-mod=readonly
    programs >&2
    chmod 755 "$work"
    mv -T "$work" "$home"
    trap - EXIT
    echo "$name: built in $SECONDS s" >&2
  fi
  echo "$home"
}
