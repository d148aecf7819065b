"""A release as a folder: it appears whole, and a public one only if the linter finds nothing in it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd

from geoslave import __version__
from geoslave.detections.export import clean_provenance, write_detections
from geoslave.detections.schema import STATEMENT
from geoslave.errors import GeoslaveError, OutputError
from geoslave.files import refuse_existing, scratch_folder
from geoslave.release import exportlog
from geoslave.release.cells import Counts, Row, h3_module
from geoslave.release.lint import ABOUT, SUMS, lint_folder

COLUMNS = ("level", "h3_cell", "resolution", "area_km2", "n_detections", "estimate", "low", "high")
_PUBLIC_PROVENANCE = (
    "model_id",
    "model_sha256",
    "target",
    "threshold_high",
    "threshold_low",
    "min_confidence",
    "calibrated",
    "first_date",
    "last_date",
    "geoslave_version",
)
"""What a public release says of its origin: no scenes, whose names are places; the log keeps those."""
LICENCE = """Creative Commons Attribution 4.0 International (CC BY 4.0)

You may share and adapt these counts, also commercially, if you name their source (see CITATION.cff), link to
the licence and say what you changed. The full text: https://creativecommons.org/licenses/by/4.0/legalcode

Asked of you besides: do not use these counts to find, or to harm, the people or places they are about.
"""


@dataclass(frozen=True, slots=True)
class Paper:
    """What people read on a release."""

    title: str
    authors: tuple[str, ...]
    released: date


def write_public(
    folder: Path,
    counts: Counts,
    provenance: Mapping[str, Any],
    paper: Paper,
    *,
    log: Path,
    secrets: Iterable[str] = (),
    user: str = "",
    overwrite: bool = False,
) -> str:
    """Write counts that anyone may have, and return the release's id.

    Args:
        provenance: of the layer; what names a place is left out of the folder and kept in the log.
        log: takes a line for the release, so that it leads back to the scenes.
        secrets: ids that must not be in it (see lint_folder).

    Raises:
        GeoslaveError: if the linter finds something in what was made.
        OutputError: if the folder is there already, or cannot be written.
    """
    origin = clean_provenance(provenance)
    about = _about("public", origin, paper) | _figures(counts)
    release_id = _release_id(about, counts)
    about = {"release_id": release_id, **about}
    files = {
        "cells.csv": _csv(counts.rows),
        "cells.geojson": _geojson(counts.rows),
        ABOUT: json.dumps(about, indent=1, ensure_ascii=False) + "\n",
        "README.md": _readme(counts, about, paper),
        "LICENCE.txt": LICENCE,
        "CITATION.cff": _citation(paper, release_id),
    }

    def fill(draft: Path) -> None:
        for name, text in files.items():
            (draft / name).write_text(text, encoding="utf-8", newline="\n")
        write_sums(draft)
        leaks = lint_folder(draft, secrets, user)
        if leaks:
            raise GeoslaveError(f"the release was not written, it would give places away: {leaks[0]}")
        exportlog.append(log, {"release_id": release_id, "kind": "public", "provenance": origin})

    _appear(folder, fill, overwrite)
    return release_id


def write_precise(
    folder: Path,
    detections: gpd.GeoDataFrame,
    provenance: Mapping[str, Any],
    *,
    purpose: str,
    recipient: str,
    log: Path,
    overwrite: bool = False,
) -> str:
    """Write exact places for one recipient, marked as such in every file, and return the export's id.

    The log has its line before the folder appears.

    Raises:
        GeoslaveError: if purpose or recipient say nothing, or the log's chain is broken.
        OutputError: if the folder is there already, or folder or log cannot be written.
    """

    def fill(draft: Path, marks: Mapping[str, Any]) -> None:
        for ending in (".gpkg", ".geojson"):
            write_detections(detections, draft / f"sites{ending}", provenance={**clean_provenance(provenance), **marks})

    ids = list(detections["detection_id"])
    return hand_over(folder, fill, ids, provenance, purpose=purpose, recipient=recipient, log=log, overwrite=overwrite)


def hand_over(
    folder: Path,
    fill: Callable[[Path, Mapping[str, Any]], None],
    ids: Sequence[str],
    provenance: Mapping[str, Any],
    *,
    purpose: str,
    recipient: str,
    log: Path,
    overwrite: bool = False,
) -> str:
    """A folder of exact places for one recipient: what `fill` writes, marks, checksums, and a line in the log first.

    Args:
        fill: writes files into the folder it is given; every one must hold the marks it is given.
        ids: of the detections.

    Raises:
        GeoslaveError: if purpose or recipient say nothing, or the log's chain is broken.
        OutputError: if the folder is there already, or folder or log cannot be written.
    """
    for name, value in (("purpose", purpose), ("recipient", recipient)):
        if len(value.strip()) < 3:
            raise GeoslaveError(f"a precise export needs a {name} that says something: give it with --{name}")
    origin = clean_provenance(provenance)
    marks = {
        "kind": "precise",
        "not_for_publication": f"Exact places, for {recipient} only. Do not publish, do not pass on.",
        "purpose": purpose,
        "recipient": recipient,
    }
    digest = hashlib.sha256("".join(sorted(ids)).encode()).hexdigest()
    release_id = hashlib.sha256(json.dumps([marks, origin, digest], sort_keys=True).encode()).hexdigest()[:12]
    about = {"release_id": release_id, **marks, "n_detections": len(ids), "provenance": origin}

    def complete(draft: Path) -> None:
        fill(draft, marks)
        (draft / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (draft / "README.md").write_text(_precise_readme(about), encoding="utf-8")
        write_sums(draft)
        sums = hashlib.sha256((draft / SUMS).read_bytes()).hexdigest()
        exportlog.append(log, {**about, "sha256_of_sums": sums})

    _appear(folder, complete, overwrite)
    return release_id


def write_sums(folder: Path) -> None:
    """List every file of a folder with its SHA-256, as `sha256sum -c` reads it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _appear(folder: Path, fill: Any, overwrite: bool) -> None:
    """Fill a hidden folder, then move it into place."""
    refuse_existing(folder, overwrite)
    if folder.exists() and not (folder / ABOUT).is_file():
        raise OutputError(f"{folder} holds no release: --overwrite replaces releases only, choose another --out")
    try:
        with scratch_folder(folder) as scratch:
            draft, old = scratch / folder.name, scratch / "old"
            draft.mkdir()
            fill(draft)
            for path in draft.rglob("*"):
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            if folder.exists():
                folder.replace(old)
            draft.replace(folder)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror or error}): choose another --out") from error


def _about(kind: str, origin: Mapping[str, Any], paper: Paper) -> dict[str, Any]:
    told = {key: origin[key] for key in _PUBLIC_PROVENANCE if origin.get(key) is not None}
    for key in ("threshold_high", "threshold_low", "min_confidence"):
        if isinstance(told.get(key), float):
            told[key] = round(told[key], 3)
    return {
        "kind": kind,
        "title": paper.title,
        "released": paper.released.isoformat(),
        "statement": STATEMENT,
        "provenance": {**told, "n_scenes": len(origin.get("scenes") or ()), "released_with": f"geoslave {__version__}"},
    }


def _figures(counts: Counts) -> dict[str, Any]:
    total = counts.total
    return {
        "k": counts.k,
        "resolution": counts.resolution,
        "n_cells": len(counts.cells),
        "n_detections": total.n_detections,
        "estimate": total.estimate,
        "low": total.low,
        "high": total.high,
        "level": counts.level,
        "method": counts.method,
        "n_reviewed": counts.n_reviewed,
        "n_reviewers": counts.n_reviewers,
        "warnings": list(counts.warnings),
        "share_in_published_cells": round(counts.share_in_cells, 2),
    }


def _release_id(about: Mapping[str, Any], counts: Counts) -> str:
    rows = [(row.cell, row.n_detections, row.estimate, row.low, row.high) for row in counts.rows]
    return hashlib.sha256(json.dumps([about, rows], sort_keys=True).encode()).hexdigest()[:12]


def _plain(row: Row) -> dict[str, Any]:
    return dict(
        zip(
            COLUMNS,
            (row.level, row.cell, row.resolution, row.area_km2, row.n_detections, row.estimate, row.low, row.high),
            strict=True,
        )
    )


def _csv(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_plain(row) for row in rows)
    return text.getvalue()


def _geojson(rows: Iterable[Row]) -> str:
    """The outlines of the published cells, which follow from their names alone."""
    h3 = h3_module()
    features = []
    for row in rows:
        if row.level != "cell":
            continue
        corners = [[round(lon, 5), round(lat, 5)] for lat, lon in h3.cell_to_boundary(row.cell)]
        ring = {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}
        features.append({"type": "Feature", "properties": _plain(row), "geometry": ring})
    lines = ",\n".join(json.dumps(feature, separators=(",", ":")) for feature in features)
    return '{"type": "FeatureCollection", "name": "cells", "features": [\n' + lines + "\n]}\n"


def _readme(counts: Counts, about: Mapping[str, Any], paper: Paper) -> str:
    total, origin = counts.total, about["provenance"]
    found = f"**{total.n_detections:,} detections** of the model {origin.get('model_id', '(not named)')}"
    if total.estimate is not None:
        found += (
            f"; from {counts.n_reviewed:,} reviewed tiles, **{total.estimate:,} sites** "
            f"({counts.level:.0%} interval {total.low:,} to {total.high:,})"
        )
    intervals = (
        "`estimate` corrects for what the model misses and for its false alarms; `low` to `high` is its interval. "
        f"{counts.method}."
        if total.estimate is not None
        else "No sample was reviewed: these are detections, with their misses and false alarms, and have no interval."
    )
    dates = " to ".join(sorted({str(origin[key]) for key in ("first_date", "last_date") if origin.get(key)}))
    return f"""# {paper.title}

{found}, counted in hexagons (H3, resolution {counts.resolution}).

> {STATEMENT}

## What is here

| file | what it holds |
|---|---|
| cells.csv | one row a hexagon (`cell`), one a larger hexagon around them (`parent`), one for all (`total`) |
| cells.geojson | the hexagons as a map layer: their outlines follow from their names and hold no place of a site |
| release.json | the same figures for programs, with their origin |
| SHA256SUMS | checksums; `sha256sum -c SHA256SUMS` tells whether all is as it was released |
| LICENCE.txt, CITATION.cff | what you may do, and how to cite |

Imagery from: {dates or "not known"}. {intervals}

## What is not here, and why

No place of a site, no image, no identifier. Exact places can bring violence, theft or raids to the people there.

* A hexagon is shown only if it holds at least {counts.k}. **A hexagon that is absent is not empty**: it holds
  none, or few, or is withheld so that subtracting the others from a total tells nothing. You cannot know which.
* Of all detections, {counts.share_in_cells:.0%} lie in a hexagon that is shown; the total holds all.
* A hexagon of this release covers about {_mean_area(counts):,} km². Its count says nothing of where in it.

## What it cannot tell

From space, a free worker cannot be told from an enslaved one. A count is a reason to look closer, with people who
know the place, and none to accuse. Do not compare hexagons by their detections alone where models see unevenly.

Release {about["release_id"]}, {paper.released.isoformat()}. Its makers can trace it to model, imagery
and thresholds with `geoslave provenance`.
"""


def _mean_area(counts: Counts) -> int:
    areas = [row.area_km2 or 0 for row in counts.cells]
    return round(sum(areas) / len(areas)) if areas else 0


def _citation(paper: Paper, release_id: str) -> str:
    authors = "".join(f"  - name: {json.dumps(name, ensure_ascii=False)}\n" for name in paper.authors)
    return (
        "cff-version: 1.2.0\n"
        "message: If you use these counts, please cite them as below.\n"
        "type: dataset\n"
        f"title: {json.dumps(paper.title, ensure_ascii=False)}\n"
        f"authors:\n{authors}"
        f"date-released: {paper.released.isoformat()}\n"
        f'version: "{release_id}"\n'
        "license: CC-BY-4.0\n"
    )


def _precise_readme(about: Mapping[str, Any]) -> str:
    return f"""# PRECISE EXPORT, NOT FOR PUBLICATION

{about["n_detections"]} exact places, given to **{about["recipient"]}** for this purpose alone: {about["purpose"]}

Do not publish, do not pass on, delete when the purpose is served. This export is on record as {about["release_id"]}.

> {STATEMENT}
"""


def today() -> date:
    """The day of a release, UTC."""
    return datetime.now(UTC).date()
