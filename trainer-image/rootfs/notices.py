#!/usr/bin/env python3
"""Writes the licences of what is in an image: `notices.py PACKAGE LIST OUT [FOLDER...]`, as text.

Crates and files are those that sbom.py lists. Texts are those that crates' packages and Debian's /usr/share/doc have, and those that
the scripts that fetch wheels have left in a FOLDER. Each text stands once. The same sources make the same bytes.
"""

import pathlib
import re
import sys

import sbom

NAMES = re.compile(r"(licen[cs]e|copying|notice|unlicense|copyright)", re.I)


def read(path):
    return path.read_text(errors="replace").replace("\r\n", "\n").strip("\n")


def of_crate(crate):
    """The texts that a crate's package has."""
    folder = pathlib.Path(crate["manifest_path"]).parent
    named = [folder / crate["license_file"]] if crate["license_file"] else []
    found = sorted(path for path in folder.iterdir() if path.is_file() and NAMES.match(path.name))
    return [read(path) for path in dict.fromkeys(named + found) if path.is_file()]


def of_wheel(name, folders):
    """The texts that a wheel brought along, where the script that fetched it has kept them."""
    mangled = name.replace("-", "_")
    paths = [path for folder in folders for path in pathlib.Path(folder).glob(f"{mangled}-*")]
    return [read(path) for path in sorted(paths)]


def of_debian(package):
    path = pathlib.Path("/usr/share/doc") / package / "copyright"
    return [read(path)] if path.is_file() else []


def parts(package, listed, folders):
    """What is in the image: name, version, licence and texts of each."""
    for crate in sbom.crates(package)[1]:
        if crate["source"] is not None:
            license = (crate["license"] or "see its text").replace("/", " OR ")
            yield f"{crate['name']} {crate['version']}", license, of_crate(crate)
    versions, seen = sbom.wheels(), set()
    for source in sbom.sources(listed):
        library = source.rsplit("/", 1)[-1]
        if sbom.is_of_wheel(source) and library.startswith("libgomp"):
            part = "libgomp (GCC), in torch's wheel", sbom.DEBIAN_LICENSES["libgcc-s1"], of_debian("libgcc-s1")
        elif sbom.is_of_wheel(source):
            name = sbom.wheel_of(library)
            part = f"{name} {versions[name]}", sbom.wheel_license(name), of_wheel(name, folders)
        elif source.startswith("/"):
            name, version = sbom.debian(source)
            part = f"{name} {version} (Debian)", sbom.DEBIAN_LICENSES.get(name, "see its text"), of_debian(name)
        else:
            continue
        if part[0] not in seen:
            seen.add(part[0])
            yield part


def main():
    package, listed, out, *folders = sys.argv[1:]
    texts, lines = {}, []
    for name, license, own in parts(package, listed, folders):
        numbers = [texts.setdefault(text, len(texts) + 1) for text in own]
        where = ", ".join(f"[{number}]" for number in numbers) or "no text comes with it"
        lines.append(f"{name}: {license}; {where}")
    head = f"What comes with Trainyard, which itself is under the Apache License 2.0: {len(lines)} parts."
    bodies = [f"[{number}] {'-' * 100}\n\n{text}" for text, number in texts.items()]
    said = "\n\n".join([head, "\n".join(lines), *bodies]) + "\n"
    path = pathlib.Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file that is as it was keeps its time: nothing has to be made anew from it.
    if not path.exists() or path.read_text() != said:
        path.write_text(said)


if __name__ == "__main__":
    main()
