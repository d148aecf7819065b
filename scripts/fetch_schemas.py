"""Bring the JSON schemas of the STAC extensions that geoslave writes into .tools/schemas, for the tests.

    uv run --with pip scripts/fetch_schemas.py        (--check: only say whether they are there)

They are third parties' files (Apache-2.0, stac-extensions.github.io) and not kept in git. Source packages of
pystac's extensions hold them, as answers recorded for their own tests: pip downloads those, and each schema is
checked by its hash. MLM v1.5.2 is in no such package; `geoslave.model.mlm` states its rules.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

PLACE = Path(__file__).resolve().parent.parent / ".tools" / "schemas"
_EXTENSION = "https://stac-extensions.github.io/{}/schema.json"
_PROJJSON = "https://proj.org/schemas/v0.7/projjson.schema.json"
SCHEMAS = {
    _EXTENSION.format("file/v2.1.0"): "b20d7808416ac6a76b8a03372a62f84224c987df939a13ff6d081cfd87f06a6d",
    _EXTENSION.format("projection/v2.0.0"): "e7c49e5b86a5fa7d96541f01c9c19ea696b7f2ee077d27134392f7842531c6fa",
    _EXTENSION.format("raster/v1.1.0"): "3cb0679afaae5f763758fbfd8716e5a140087143abd11b1c14bc54ab795396c1",
    _EXTENSION.format("table/v1.2.0"): "3f929da135a38c601238302ebab3c88cc67f29a815da1fd4bcce237669bbb98b",
    _EXTENSION.format("eo/v1.1.0"): "37b4862eb5712ad056c8a7868d4bde713dd9bd11d12de02d1d3c80aa0d0d993b",
    _PROJJSON: "69c2c194466508bfefc2459479922b4b13087534ef38e84f20abb61924328766",
}
"""Address -> SHA-256 of its content, keys sorted."""
PACKAGES = (
    "pystac-ext-file==2.1.1", "pystac-ext-projection==2.0.1", "pystac-ext-raster==1.1.1",
    "pystac-ext-table==1.2.1", "pystac-ext-eo==1.1.1",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether they are there")
    missing = [url for url in SCHEMAS if not _kept(url).is_file()]
    if not missing or parser.parse_args().check:
        print(f"{len(SCHEMAS) - len(missing)} of {len(SCHEMAS)} schemas are in {PLACE.name}/")
        return 1 if missing else 0
    with TemporaryDirectory() as scratch:
        command = ["pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", scratch, *PACKAGES]
        if subprocess.run([sys.executable, "-m", *command]).returncode:
            print("the schemas could not be fetched: tests that need them are left out", file=sys.stderr)
            return 1
        found = dict(_recorded(Path(scratch)))
    PLACE.mkdir(parents=True, exist_ok=True)
    for url, expected in SCHEMAS.items():
        text = json.dumps(found.get(url), sort_keys=True)
        if hashlib.sha256(text.encode()).hexdigest() != expected:
            print(f"{url} is not the schema it was: {'absent' if url not in found else 'changed'}", file=sys.stderr)
            return 1
        _kept(url).write_text(text + "\n", encoding="utf-8")
    print(f"{len(SCHEMAS)} schemas are in {PLACE}")
    return 0


def _kept(url: str) -> Path:
    return PLACE / url.split("://", 1)[1].replace("/", "_")


def _recorded(folder: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Schemas, by their own address, in the recorded answers of source packages."""
    for path in sorted(folder.glob("*.tar.gz")):
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member) if "/cassettes/" in member.name else None
                if file is None:
                    continue
                for exchange in yaml.load(file.read(), Loader=yaml.CSafeLoader)["interactions"]:
                    schema = _schema(exchange["response"]["body"].get("string"))
                    if "$id" in schema:
                        yield str(schema["$id"]).rstrip("#"), schema


def _schema(body: str | bytes | None) -> dict[str, object]:
    if isinstance(body, bytes):
        body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
    try:
        told = json.loads(body or "")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
