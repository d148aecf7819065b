"""The linter against leaks of many kinds, planted one by one in a clean release."""

from __future__ import annotations

import base64
import gzip
import io
import json
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import h3
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from geoslave.release.folder import write_sums
from geoslave.release.lint import lint_folder
from geoslave.release.patterns import Known, in_text

LON, LAT = 80.41237, 26.30518
SITE = "3f9a0c5d2b7e4a18"
PICTURE = Image.new("RGB", (8, 8))


def png(**text: str) -> bytes:
    told, out = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, value in text.items():
        told.add_text(key, value, zip=True)
    PICTURE.save(out, "PNG", pnginfo=told)
    return out.getvalue()


def jpeg_with_gps() -> bytes:
    out, exif = io.BytesIO(), PICTURE.getexif()
    exif.get_ifd(0x8825).update({1: "N", 2: (26.0, 18.0, 18.6), 3: "E", 4: (80.0, 24.0, 44.5)})
    PICTURE.save(out, "JPEG", exif=exif)
    return out.getvalue()


def geopackage(folder: Path) -> None:
    gpd.GeoDataFrame({"n": [7]}, geometry=[shapely.Point(LON, LAT)], crs=4326).to_file(folder / "a.gpkg")


def hidden_table(folder: Path) -> None:
    with sqlite3.connect(folder / "a.sqlite") as database:
        database.execute("CREATE TABLE n (a)")
        database.execute("INSERT INTO n VALUES (?)", (LAT,))
    database.close()


def deleted_rows(folder: Path) -> None:
    database = sqlite3.connect(folder / "a.sqlite")
    database.execute("CREATE TABLE n (a)")
    database.executemany("INSERT INTO n VALUES (?)", [("x" * 900,)] * 50)
    database.commit()
    database.execute("DELETE FROM n")
    database.commit()
    database.close()


def geotiff(folder: Path) -> None:
    place = Affine(10, 0, 441_200, 0, -10, 2_909_800)
    with rasterio.open(
        folder / "a.tif", "w", driver="GTiff", width=8, height=8, count=1, dtype="uint8", crs=32644, transform=place
    ) as file:
        file.write(np.ones((1, 8, 8), np.uint8))


def zipped(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, data)
    return out.getvalue()


def tarred(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8") and None


def raw(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def table(content: dict[str, list]) -> Callable[[Path], None]:
    return lambda folder: pd.DataFrame(content).to_parquet(folder / "a.parquet")


def notebook(*outputs: dict) -> str:
    return json.dumps({"cells": [{"cell_type": "code", "source": ["1"], "outputs": list(outputs)}], "nbformat": 4})


LEAKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "property": (text("a.geojson", json.dumps({"properties": {"place": f"{LAT} {LON}"}})), "coordinate"),
    "coarse property": (text("a.json", '{"lat": 26.31, "lon": 80.41}'), "coordinate"),
    "escaped": (text("a.json", '{"note": "\\u0032\\u0036.30518"}'), "coordinate"),
    "exponent": (text("a.json", '{"a": 2.630518e1}'), "coordinate"),
    "geometry": (text("a.geojson", json.dumps({"type": "Point", "coordinates": [LON, LAT]})), "coordinate"),
    "projected": (text("a.txt", "the kiln at 441200 2909800"), "coordinate"),
    "degrees": (text("a.md", "seen at 26°18'18\"N"), "coordinate"),
    "two decimals": (text("a.md", "near 26.31, 80.41 they say"), "coordinate"),
    "comma decimals": (text("a.md", "bei 26,30518"), "coordinate"),
    "csv": (text("a.csv", "n,lon,lat\n7,80.41,26.31\n"), "coordinate"),
    "utf-16": (raw("a.txt", f"{LAT}".encode("utf-16")), "coordinate"),
    "plus code": (text("a.md", "7MP2854C+3X"), "coordinate"),
    "military grid": (text("a.md", "44RKQ 41207 09810"), "coordinate"),
    "link": (text("a.md", "https://www.google.com/maps/@26,80"), "coordinate"),
    "wkb in text": (text("a.csv", f"n,g\n7,{shapely.to_wkb(shapely.Point(LON, LAT), hex=True)}\n"), "coordinate"),
    "wkt": (text("a.csv", "n,g\n7,POINT (80 26)\n"), "coordinate"),
    "cell too fine": (text("a.csv", f"c\n{h3.latlng_to_cell(LAT, LON, 9)}\n"), "cell"),
    "cell as a number": (text("a.csv", f"c\n{int(h3.latlng_to_cell(LAT, LON, 9), 16)}\n"), "cell"),
    "geopackage": (geopackage, "coordinate"),
    "table of a database": (hidden_table, "coordinate"),
    "deleted rows": (deleted_rows, "unreadable"),
    "parquet": (table({"a": [LAT]}), "coordinate"),
    "scaled parquet": (table({"lat": [26305180]}), "coordinate"),
    "geometry in parquet": (table({"g": [shapely.to_wkb(shapely.Point(LON, LAT))]}), "coordinate"),
    "exif": (raw("a.jpg", jpeg_with_gps()), "coordinate"),
    "png text": (raw("a.png", png(Comment=f"kiln {LAT} {LON}")), "coordinate"),
    "after the end of a png": (raw("a.png", png() + f"lat={LAT}".encode()), "coordinate"),
    "geotiff": (geotiff, "coordinate"),
    "world file": (text("a.pgw", "10\n0\n0\n-10\n4\n2\n"), "coordinate"),
    "picture": (raw("a.png", png()), "picture"),
    "notebook": (text("a.ipynb", notebook({"text": [f"({LON}, {LAT})"]})), "coordinate"),
    "picture in a notebook": (
        text("a.ipynb", notebook({"data": {"image/png": base64.b64encode(png(Where=f"{LAT}")).decode()}})),
        "coordinate",
    ),
    "file name": (raw(f"kiln_{LAT}_{LON}.txt", b"x"), "coordinate"),
    "zip": (raw("a.zip", zipped("b.csv", f"n\n{LAT}\n".encode())), "coordinate"),
    "zip in a zip": (raw("a.zip", zipped("b.zip", zipped("c.txt", f"{LAT}".encode()))), "coordinate"),
    "name in a zip": (raw("a.zip", zipped(f"chip_{SITE}.txt", b"x")), "id"),
    "gzip": (raw("a.csv.gz", gzip.compress(f"n\n{LAT}\n".encode())), "coordinate"),
    "tar": (raw("a.tar", tarred("b.txt", f"{LAT}".encode())), "coordinate"),
    "id of a site": (text("a.md", f"see {SITE}"), "id"),
    "known id": (text("a.md", "see kiln-00017"), "id"),
    "scene": (text("a.md", "from S2A_MSIL2A_20250301T051651_N0511_R062_T44RKQ"), "id"),
    "block": (text("a.md", "block r003c017"), "id"),
    "local path": (text("a.json", '{"source": "/home/asha/kilns/all.gpkg"}'), "path"),
    "windows path": (text("a.json", json.dumps({"source": "C:\\Users\\asha\\kilns.gpkg"})), "path"),
    "reviewer": (text("a.csv", "n,reviewer\n7,Asha\n"), "person"),
    "user": (text("a.md", "made by ashakumar"), "person"),
    "link away": (lambda folder: (folder / "a.csv").symlink_to("/etc/hostname"), "path"),
    "unknown kind": (raw("a.bin", bytes(range(256))), "unreadable"),
    "broken zip": (raw("a.zip", zipped("b.txt", b"x" * 99)[:-30] + b"PK\5\6" + b"\0" * 18), "unreadable"),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_a_planted_leak_is_found(kind: str, release: Path) -> None:
    plant, told = LEAKS[kind]
    known = {"secrets": ["kiln-00017"], "user": "ashakumar"}
    assert lint_folder(release, **known) == []
    plant(release)
    write_sums(release)
    leaks = lint_folder(release, **known)
    assert told in {leak.kind for leak in leaks}, leaks
    assert all(leak.file.startswith(("a.", "kiln", "SHA256SUMS")) for leak in leaks), leaks


def test_what_was_changed_or_added_afterwards_is_found(release: Path) -> None:
    (release / "README.md").write_text("all is well")
    (release / "more.txt").write_text("x")
    (release / "LICENCE.txt").unlink()
    assert {(leak.file, leak.kind) for leak in lint_folder(release)} == {
        ("README.md", "damaged"),
        ("more.txt", "damaged"),
        ("LICENCE.txt", "damaged"),
    }


def test_small_counts_and_those_left_by_subtraction_are_found(release: Path) -> None:
    rows = pd.read_csv(release / "cells.csv", dtype=str, keep_default_na=False)
    total = rows["level"] == "total"
    outermost = rows["level"] == "parent"
    rows.loc[total, "n_detections"] = str(rows.loc[outermost, "n_detections"].astype(int).sum() + 3)
    rows.loc[rows.index[-1], "n_detections"] = "4"
    rows.to_csv(release / "cells.csv", index=False)
    write_sums(release)
    told = [leak.what for leak in lint_folder(release) if leak.kind == "small count"]
    assert any("is below 5" in what and "minus" not in what for what in told)
    assert any("of total minus its parts" in what for what in told)


def test_hexagons_in_any_format_are_let_through(release: Path) -> None:
    """Corners of named cells are no secret; the same corners of a cell that is not named are refused."""
    drawn = gpd.read_file(release / "cells.geojson")
    drawn.to_file(release / "cells.gpkg")
    drawn.to_parquet(release / "cells.parquet")
    drawn.to_file(release / "cells.fgb", driver="FlatGeobuf")
    write_sums(release)
    assert lint_folder(release) == []
    drawn.assign(h3_cell="(withheld)").to_parquet(release / "cells.parquet")
    write_sums(release)
    assert {leak.file for leak in lint_folder(release)} == {"cells.parquet"}


@given(st.binary(min_size=32, max_size=32))
def test_checksums_pass(checksum: bytes) -> None:
    assert list(in_text(f"{checksum.hex()}  cells.csv", Known())) == []


@given(st.floats(-60, 70), st.floats(-179, 179), st.integers(3, 8), st.sampled_from([", ", " ", ";", "/", "_"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_pair_of_precise_degrees_is_found(lat: float, lon: float, decimals: int, between: str) -> None:
    pair = f"{lat:.{decimals}f}1{between}{lon:.{decimals}f}1"
    assert any(kind == "coordinate" for kind, _ in in_text(f"at {pair} there", Known()))


@pytest.mark.parametrize(
    "harmless",
    [
        "version 0.1.0 of 2026-11-22",
        "252.9 km2, 1,770 km2 and 12,345 sites",
        "recall 0.85, 0.91",
        "ab" * 32,
        "a/b, 3/4",
    ],
)
def test_harmless_text_passes(harmless: str) -> None:
    assert list(in_text(harmless, Known())) == []
