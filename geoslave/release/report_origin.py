"""Where the figures of a report come from: versions, model, imagery, thresholds, tables with their digests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from html import escape
from typing import Any

from geoslave import __version__

Record = Mapping[str, Any]


def provenance_of(records: Sequence[Record], written: date | None, layer: Mapping[str, Any], precise: bool) -> str:
    """The table at the end.

    Args:
        layer: what the detections on the map say of their origin.
        precise: scenes are named; their names are places.
    """
    origins = [dict(record.get("provenance") or {}) for record in records]
    files = {
        (one.get("sha256"), one.get("role")): one for origin in origins for one in origin.get("inputs") or ()
    }.values()
    models = [layer, *files]
    when = written.isoformat() if written else ""
    rows = [("Report written", f"{when} by geoslave {__version__}".strip())]
    rows += _lines("Estimates made", (_made(r["kind"], o) for r, o in zip(records, origins, strict=True) if o))
    rows += _lines("Model", (_model(one) for one in models))
    rows += _lines("Imagery", (_imagery(one, precise) for one in models))
    rows += _lines("Thresholds", (_thresholds(one) for one in models))
    rows += _lines("Confidence", (str(one["confidence"]) for one in models if one.get("confidence")))
    reviewed = [_reviewed(origin) for origin in origins]
    rows += _lines("Reviewed", reviewed)
    rows += _lines("Tables", (f"{one['role']}: {one['file']}, SHA-256 {one['sha256']}" for one in files))
    shown = "".join(f"<tr><th>{escape(name)}</th><td>{value}</td></tr>" for name, value in rows)
    return f'<h2>Provenance</h2><table class="provenance">{shown}</table>'


def _lines(name: str, values: Iterable[str]) -> list[tuple[str, str]]:
    """One row of the provenance; what is said twice is said once."""
    known = list(dict.fromkeys(value for value in values if value))
    return [(name, "<br>".join(escape(value) for value in known))] if known else []


def _made(kind: str, origin: Mapping[str, Any]) -> str:
    told = [f"{kind}: {origin.get('made', 'date not known')}, geoslave {origin.get('geoslave_version', 'not known')}"]
    told += [f"{key.replace('_', ' ')} {origin[key]}" for key in ("method", "level", "seed") if key in origin]
    return ", ".join(told)


def _model(told: Mapping[str, Any]) -> str:
    if not told.get("model_id"):
        return ""
    digest = f", SHA-256 {told['model_sha256']}" if told.get("model_sha256") else ""
    return f"{told['model_id']}{digest}"


def _imagery(told: Mapping[str, Any], precise: bool) -> str:
    scenes = told.get("scenes") or ()
    if not scenes and not told.get("first_date"):
        return ""
    dates = " to ".join(dict.fromkeys(str(told[k]) for k in ("first_date", "last_date") if told.get(k)))
    named = ": " + ", ".join(str(scene) for scene in scenes) if precise else ""
    count = f"{len(scenes):,} scene{'' if len(scenes) == 1 else 's'}{named}" if scenes else ""
    return ", ".join(part for part in (count, dates or "day of the image not known") if part)


def _thresholds(told: Mapping[str, Any]) -> str:
    names = {"threshold_high": "score", "threshold_low": "outline down to", "min_confidence": "confidence from"}
    return ", ".join(
        f"{words_} {told[key]:g}" for key, words_ in names.items() if isinstance(told.get(key), int | float)
    )


def _reviewed(origin: Mapping[str, Any]) -> str:
    if "n_reviewed" not in origin:
        return ""
    people = f", by {origin['n_reviewers']:,} people" if origin.get("n_reviewers") else ""
    return f"{origin['n_reviewed']:,} tiles{people}"
