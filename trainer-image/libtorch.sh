#!/usr/bin/env bash
# Fetches the CPU half of libtorch 2.11.0 (headers and the five libraries that a CPU machine needs) from the PyTorch
# wheel on PyPI, into a cache, and links it as `.libtorch` in the repository's root. Says what it does; does it once.
# The same wheel carries the CUDA half, so a CUDA image adds libraries and changes none of these.
set -euo pipefail

torch=2.11.0 cudart=13.0.96 cupti=13.0.85
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${TRAINYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/trainyard}
home=$cache/libtorch-$torch-cpu

if [ ! -e "$home/complete" ]; then
  echo "libtorch: fetching torch $torch (545 MB) from PyPI into $home"
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/libtorch.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  # What is not the wheel that it was when this was written is refused.
  python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
    --dest "$work/wheels" --require-hashes --requirement /dev/stdin <<WHEELS
torch==$torch --hash=sha256:7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
nvidia-cuda-runtime==$cudart --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cupti==$cupti --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
WHEELS
  echo "libtorch: unpacking headers and libraries"
  python3 - "$work" <<'PYTHON'
import pathlib, sys, zipfile
work = pathlib.Path(sys.argv[1])
(work / "home/lib").mkdir(parents=True)
wanted = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcupti.so.13", "libcudart.so.13"}
for wheel in (work / "wheels").glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            path = pathlib.PurePosixPath(member.filename)
            if path.parts[:2] == ("torch", "include"):
                member.filename = str(pathlib.PurePosixPath(*path.parts[1:]))
                archive.extract(member, work / "home")
            elif path.name in wanted:
                member.filename = path.name
                archive.extract(member, work / "home/lib")
                wanted.discard(path.name)
            elif path.parts[0].endswith(".dist-info") and path.name.upper().startswith(("LICENSE", "NOTICE")):
                # For the images' list of licences.
                member.filename = "-".join([path.parts[0].split("-")[0], *path.parts[1:]])
                archive.extract(member, work / "home/licenses")
if wanted:
    sys.exit(f"libtorch: the wheels lack {sorted(wanted)}")
PYTHON
  # Link names: torch-sys asks for libtorch.so and libgomp.so; a linker script says what they stand for here.
  ln -s libgomp.so.1 "$work/home/lib/libgomp.so"
  echo 'INPUT(libtorch_cpu.so)' > "$work/home/lib/libtorch.so"
  touch "$work/home/complete"
  rm -rf "$home"
  mv "$work/home" "$home"
fi
ln -sfn "$home" "$root/.libtorch"
