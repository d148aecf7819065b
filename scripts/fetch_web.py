#!/usr/bin/env python3
"""Fetches OpenLayers for the review page: one npm package, checked by its hash, with Python alone (no Node).

    python3 scripts/fetch_web.py            into geoslave/review/web/vendor/, once; nothing third-party is in git
    python3 scripts/fetch_web.py --check    says whether it is there, and fetches nothing

Run by scripts/setup.sh, and by hatch when a wheel is built. The registry is the one npm would use
(npm_config_registry, or `registry=` in .npmrc), else the public one. The hash is of the package, not of its place.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

VERSION = "10.11.0"
INTEGRITY = "sha512-OJ+lrx7kx/1O7Xx18Ff9QkVnwZIEL0OuhJQSy2sYgzzDvyZ2qHvuZEGAajbSstUyBwaS1OtQ4RWnY84tRMDdqg=="
"""Of the package as npm publishes it (`npm view ol dist.integrity`)."""
FILES = {
    "package/dist/ol.js": ("ol.js", "a4e607e98b56846d543e2131161720845c7a80170d5f00aa2bc8b6c4e0f9194a"),
    "package/ol.css": ("ol.css", "abc8afd72cc10bd29cc143f443bae4a6804bd3cb3fb262e6b6a6bc6c924ea34f"),
    "package/LICENSE.md": ("ol.LICENSE.md", "6c4347b83a8c9feef18d57b18e3b6c44cf901b3c344a4a1fbd837e421555ab8e"),
}
"""Member of the package -> name on disk, SHA-256 of the file."""
PUBLIC = "https://registry.npmjs.org"
PATIENCE_S = 30


class FetchError(Exception):
    """One line: what failed and what to do."""


def fetch(folder: Path) -> bool:
    """Have the files in `folder`: False if they were there already, True if they were fetched.

    Raises:
        FetchError: if they cannot be fetched, or are not the files that were reviewed.
    """
    if is_there(folder):
        return False
    package = _download(f"{registry()}/ol/-/ol-{VERSION}.tgz")
    found = f"sha512-{b64encode(hashlib.sha512(package).digest()).decode()}"
    if found != INTEGRITY:
        raise FetchError(f"the registry's ol-{VERSION}.tgz is not the package that was reviewed: nothing was kept")
    _unpack(package, folder)
    return True


def is_there(folder: Path) -> bool:
    """Whether every file is there and whole."""
    return all(_digest(folder / name) == digest for name, digest in FILES.values())


def registry() -> str:
    """The npm registry in use here."""
    named = os.environ.get("npm_config_registry") or os.environ.get("NPM_CONFIG_REGISTRY")  # noqa: SIM112 - npm's own
    return (named or _configured() or PUBLIC).rstrip("/")


def _configured() -> str | None:
    for file in (Path(".npmrc"), Path.home() / ".npmrc"):
        if not file.is_file():
            continue
        for line in file.read_text("utf-8", errors="replace").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "registry" and value.strip():
                return value.strip()
    return None


def _download(address: str) -> bytes:
    if not address.startswith(("https://", "http://")):
        raise FetchError("the npm registry's address does not begin with https://: set npm_config_registry")
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:
            return bytes(answer.read())
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise FetchError(
            f"OpenLayers {VERSION} for the review page could not be fetched from npm ({reason}): "
            "run  python3 scripts/fetch_web.py  again with a connection; all else works without it"
        ) from error


def _unpack(package: bytes, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        for member, (name, digest) in FILES.items():
            file = archive.extractfile(member)
            content = file.read() if file else b""
            if hashlib.sha256(content).hexdigest() != digest:
                raise FetchError(f"{member} of ol-{VERSION} is not the file that was reviewed: nothing was kept of it")
            draft = folder / f".~{os.getpid()}-{name}"
            draft.write_bytes(content)
            draft.replace(folder / name)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def main() -> int:
    folder = Path(__file__).resolve().parent.parent / "geoslave" / "review" / "web" / "vendor"
    if "--check" in sys.argv[1:]:
        there = is_there(folder)
        print(f"OpenLayers {VERSION} is {'there' if there else 'absent: run  python3 scripts/fetch_web.py'}")
        return 0 if there else 1
    try:
        if fetch(folder):
            print(f"OpenLayers {VERSION} fetched for the review page", file=sys.stderr)
    except FetchError as error:
        print(f"Note: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
