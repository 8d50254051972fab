#!/usr/bin/env python3
"""Says what is in an image: `sbom.py PACKAGE LIST OUT` writes SPDX 2.3 as JSON.

The crates are those that cargo resolved for PACKAGE by Cargo.lock, the files those of LIST, which trainer-image/rootfs/rootfs.sh assembles: each with
the Debian package or the wheel that it comes from. The same sources make the same bytes.
"""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

root = pathlib.Path(__file__).resolve().parent.parent.parent


def crates(package):
    """The package's own crate and those that it is built from, without what only tests need."""
    said = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"],
        cwd=root, check=True, capture_output=True,
    ).stdout
    metadata = json.loads(said)
    known = {crate["id"]: crate for crate in metadata["packages"]}
    needs = {
        node["id"]: [dep["pkg"] for dep in node["deps"] if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])]
        for node in metadata["resolve"]["nodes"]
    }
    rest = [crate["id"] for crate in known.values() if crate["name"] == package and crate["source"] is None]
    if not rest:
        sys.exit(f"sbom: this workspace has no package {package}")
    own, found = rest[0], set()
    while rest:
        crate = rest.pop()
        if crate not in found:
            found.add(crate)
            rest += needs[crate]
    return known[own], sorted((known[crate] for crate in found), key=lambda crate: (crate["name"], crate["version"]))


def wheels():
    """Versions of the wheels that the trainer's scripts fetch, by their names."""
    shorts = {"torch": "torch", "cudart": "nvidia-cuda-runtime", "cupti": "nvidia-cuda-cupti"}
    line = re.search(r"^torch=.*$", (root / "trainer-image/libtorch.sh").read_text(), re.M)[0]
    found = {shorts[name]: version for name, version in (word.split("=") for word in line.split())}
    cuda = (root / "trainer-image/cuda-libraries.sh").read_text()
    return found | dict(re.findall(r"(nvidia-[a-z0-9-]+)==([0-9.]+)", cuda))


# Which wheel a library is from, by how the library's name begins; torch's own if no line fits.
WHEELS = [
    ("libcudart", "nvidia-cuda-runtime"), ("libcupti", "nvidia-cuda-cupti"), ("libcublas", "nvidia-cublas"),
    ("libcudnn", "nvidia-cudnn-cu13"), ("libcufft", "nvidia-cufft"), ("libcufile", "nvidia-cufile"), ("libcurand", "nvidia-curand"),
    ("libcusparseLt", "nvidia-cusparselt-cu13"), ("libcusparse", "nvidia-cusparse"), ("libnccl", "nvidia-nccl-cu13"),
    ("libnvJitLink", "nvidia-nvjitlink"), ("libnvrtc", "nvidia-cuda-nvrtc"), ("libnvshmem", "nvidia-nvshmem-cu13"),
]


# What Debian's copyright files say of the few packages that images have files of.
DEBIAN_LICENSES = {
    "libc6": "LGPL-2.1-or-later", "libgcc-s1": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "libstdc++6": "GPL-3.0-or-later WITH GCC-exception-3.1", "ca-certificates": "GPL-2.0-or-later AND MPL-2.0",
}
# NVIDIA's terms have no identifier of SPDX.
NVIDIA = "LicenseRef-NVIDIA"
NVIDIA_TEXT = (
    "NVIDIA's terms for this library, as the wheel it is from carries them; those of CUDA: https://docs.nvidia.com/cuda/eula/"
)


def wheel_license(name):
    """The licence of a wheel, by its own metadata."""
    return NVIDIA if name.startswith("nvidia-") else {"torch": "BSD-3-Clause"}[name]


def wheel_of(library):
    """The wheel that a library is from; GNU's own libgomp comes within torch's."""
    return next((wheel for begin, wheel in WHEELS if library.startswith(begin)), "torch")


def sources(listed):
    """The sources of the files that a list has, in its order."""
    lines = (line.split() for line in pathlib.Path(listed).read_text().splitlines())
    return [words[2] for words in lines if len(words) > 2 and not words[0].startswith("#")]


def is_of_wheel(source):
    return source.startswith(("{libtorch}", "{cuda}", "{torchcuda}"))


def debian(path):
    """Name and version of the Debian package that a file belongs to."""
    # What lies in /usr/lib may be known as of /lib.
    names = [name for path in (path, os.path.realpath(path)) for name in (path, path.removeprefix("/usr"))]
    for name in names:
        found = subprocess.run(["dpkg-query", "--search", name], capture_output=True, text=True)
        if found.returncode == 0:
            return version(found.stdout.split(": ")[0])
    # Made on the machine by the package's own script, from its files.
    return version("ca-certificates") if "ca-certificates" in path else None


def version(package):
    said = subprocess.run(["dpkg-query", "-f", "${Version}", "-W", package], capture_output=True, text=True)
    return package.split(":")[0], said.stdout


def described(name, version, purl, license="NOASSERTION"):
    mangled = re.sub(r"[^A-Za-z0-9.-]", "-", f"{purl.split(':', 1)[1].split('/')[0]}-{name}-{version}".strip("-"))
    package = {
        "SPDXID": f"SPDXRef-{mangled}", "name": name, "downloadLocation": "NOASSERTION", "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION", "licenseDeclared": license, "copyrightText": "NOASSERTION",
        "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}],
    }
    return package | ({"versionInfo": version} if version else {})


def main():
    package, listed, out = sys.argv[1:]
    own, built_from = crates(package)
    packages = []
    for crate in built_from:
        # Some crates still write MIT/Apache-2.0 where SPDX has OR.
        license = (crate["license"] or "NOASSERTION").replace("/", " OR ")
        packages.append(described(crate["name"], crate["version"], f"pkg:cargo/{crate['name']}@{crate['version']}", license))
    others = {}
    for source in sources(listed):
        library = source.rsplit("/", 1)[1]
        if is_of_wheel(source) and library.startswith("libgomp"):
            license = DEBIAN_LICENSES["libgcc-s1"]
            others["libgomp"] = described("libgomp", "", f"pkg:generic/libgomp?wheel=torch-{wheels()['torch']}", license)
        elif is_of_wheel(source):
            name = wheel_of(library)
            version = wheels()[name]
            others[name] = described(name, version, f"pkg:pypi/{name}@{version}", wheel_license(name))
        elif source.startswith("/"):
            found = debian(source)
            if not found:
                sys.exit(f"sbom: no Debian package has {source}")
            name, version = found
            purl = f"pkg:deb/debian/{name}" + (f"@{version}" if version else "")
            others[name] = described(name, version, purl, DEBIAN_LICENSES.get(name, "NOASSERTION"))
    packages += [others[name] for name in sorted(others)]
    about = next(each["SPDXID"] for each in packages if each["name"] == own["name"])
    relations = [
        {"spdxElementId": about, "relatedSpdxElement": each["SPDXID"], "relationshipType": "CONTAINS"}
        for each in packages if each["SPDXID"] != about
    ]
    digest = hashlib.sha256(json.dumps(packages, sort_keys=True).encode()).hexdigest()
    document = {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": f"trainyard-{own['name']}",
        "documentNamespace": f"https://github.com/trainyard/trainyard/sbom/{own['name']}-{own['version']}-{digest[:32]}",
        "creationInfo": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", "0")))),
            "creators": ["Tool: trainyard-images-sbom"],
        },
        "packages": packages,
        "hasExtractedLicensingInfos": [
            {"licenseId": NVIDIA, "name": "NVIDIA's terms", "extractedText": NVIDIA_TEXT}
            for needed in [any(each["licenseDeclared"] == NVIDIA for each in packages)] if needed
        ],
        "relationships": [{"spdxElementId": "SPDXRef-DOCUMENT", "relatedSpdxElement": about, "relationshipType": "DESCRIBES"}]
        + relations,
    }
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, separators=(",", ":")) + "\n"
    # A file that is as it was keeps its time: nothing has to be made anew from it.
    if not os.path.exists(out) or pathlib.Path(out).read_text() != text:
        pathlib.Path(out).write_text(text)


if __name__ == "__main__":
    main()
