"""Where a figure comes from: a detection, a layer, a count or a release led back to model, imagery, thresholds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from geoslave.detections.export import FORMATS, read_detections, read_provenance
from geoslave.errors import GeoslaveError
from geoslave.estimate.record import read_record
from geoslave.release import exportlog
from geoslave.release.lint import ABOUT


def of_layer(layer: Path) -> dict[str, Any]:
    """What a layer says of its origin.

    Raises:
        GeoslaveError: if it is missing, no detections layer, or says nothing.
    """
    detections = read_detections(layer)
    origin = read_provenance(layer)
    if not origin:
        raise GeoslaveError(f"{layer} does not say where it comes from: write it with geoslave detect or region export")
    return {"kind": "layer", "layer": layer.name, "n_detections": len(detections), **origin}


def of_detection(detection_id: str, layers: Iterable[Path]) -> dict[str, Any]:
    """What is known of one detection, from the first layer that holds it.

    Raises:
        GeoslaveError: if no layer holds it.
    """
    looked = []
    for layer in layers:
        looked.append(layer.name)
        detections = read_detections(layer)
        found = detections[detections["detection_id"] == detection_id]
        if len(found):
            origin = read_provenance(layer)
            own = _plain(found.iloc[0].drop("geometry"))
            if "confidence" in origin:  # the layer's is what the word means, the detection's a number
                own["confidence_means"] = origin.pop("confidence")
            return {
                "kind": "detection",
                "layer": layer.name,
                **{k: v for k, v in origin.items() if k != "scenes"},
                **own,
            }
    where = f"none of {', '.join(looked)} holds it" if looked else "there is no layer here"
    raise GeoslaveError(f"no detection {detection_id}: {where}, say the layer with --in LAYER")


def _plain(row: Any) -> dict[str, Any]:
    """A row's values that are there, as JSON knows them."""
    plain = {str(key): value.item() if hasattr(value, "item") else value for key, value in row.items()}
    return {
        key: value if isinstance(value, (bool, int, float)) else str(value)
        for key, value in plain.items()
        if value is not None and value == value
    }


def of_release(folder: Path, log: Path | None = None) -> dict[str, Any]:
    """A release led back through the log, which holds what the release itself must not tell.

    Args:
        log: default: the log beside the folder, if there is one.

    Raises:
        GeoslaveError: if the folder is no release, or the log's chain is broken.
    """
    about = _json(folder / ABOUT)
    release_id = about.get("release_id")
    beside = folder.absolute().parent / exportlog.NAME
    if log is None and beside.is_file():
        log = beside
    told = {key: value for key, value in about.items() if key not in ("provenance", "statement")}
    origin = dict(about.get("provenance") or {})
    if log is not None:
        entries = [entry for entry in exportlog.read(log) if entry.get("release_id") == release_id]
        if not entries:
            raise GeoslaveError(f"{log} knows no release {release_id}: give the log it was written to with --log")
        origin |= entries[-1]["provenance"]
        told["logged"] = entries[-1]["logged"]
    return {**told, **origin, "kind": f"{about.get('kind')} release"}


def of_figures(path: Path) -> dict[str, Any]:
    """What a file of `geoslave estimate ... --out` (or --counts) says of its figures.

    Raises:
        EstimateError: if it is no such file.
    """
    told = read_record(path)
    headline = told.get("total") or told.get("overall") or {}
    return {"kind": told["kind"], "file": path.name, **headline, **dict(told.get("provenance") or {})}


def trace(what: str, layers: Iterable[Path] = (), log: Path | None = None) -> dict[str, Any]:
    """Lead a layer, a release's folder, a file of figures or a detection's id back to its origin.

    Raises:
        GeoslaveError: as of_layer, of_detection, of_release and of_figures.
    """
    path = Path(what)
    if path.is_dir():
        return of_release(path, log)
    if path.suffix.lower() in FORMATS:
        return of_layer(path)
    if path.suffix.lower() == ".json":
        return of_figures(path)
    return of_detection(what, layers)


def layers_in(folder: Path) -> list[Path]:
    """The layers of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in FORMATS)


def _json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise GeoslaveError(f"{path} cannot be read ({type(error).__name__}): give a release or a count") from error
    if not isinstance(told, dict):
        raise GeoslaveError(f"{path} is neither a release nor a count: check the name")
    return told
