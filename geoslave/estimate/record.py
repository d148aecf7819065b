"""Figures on disk: one JSON object that says what was estimated, how, and from which files.

    {"kind": "count", "total": {...}, "by": {...}, "provenance": {"geoslave_version": ..., "inputs": [...]}}

Every input is named with its SHA-256 (never with its folder), so that a figure in a paper can be led back
to the tables it came from: `geoslave provenance count.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from geoslave import __version__
from geoslave.errors import EstimateError
from geoslave.estimate.result import Estimate
from geoslave.estimate.reviewed import Sample
from geoslave.files import atomic_file

KINDS = ("design", "count", "accuracy", "comparison", "change", "registry")
"""What geoslave estimate writes."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file that an estimate rests on."""

    role: str
    """What it was: frame, reviews, votes, layer."""
    path: Path
    told: Mapping[str, Any] = field(default_factory=dict)
    """What it says of its own origin: model, dates, thresholds."""


def origin(inputs: Iterable[Input], **told: Any) -> dict[str, Any]:
    """Where figures come from.

    Args:
        told: how they were made: method, level, seed. What is None is left out.
    """
    files = [
        {"role": one.role, "file": one.path.name, "sha256": sha256(one.path), **one.told}
        for one in inputs
        if one.path.is_file()
    ]
    made = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    known = {key: value for key, value in told.items() if value is not None}
    return {"geoslave_version": __version__, "made": made, **known, "inputs": files}


def count_record(
    total: Estimate,
    by: Mapping[str, Mapping[str, Estimate]],
    rates: Mapping[str, Estimate],
    sample: Sample | None,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """A count with its parts, the detector's rates and the sample it rests on."""
    told: dict[str, Any] = {
        "kind": "count",
        "total": total.to_dict(),
        "by": {name: {key: part.to_dict() for key, part in groups.items()} for name, groups in by.items()},
        **{name: rate.to_dict() for name, rate in rates.items()},
    }
    if sample is not None:
        told["sample"] = sample.to_dict()
    return {**told, "provenance": dict(provenance)}


def sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_record(path: Path, facts: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write figures with their kind and provenance.

    Raises:
        OutputError: if `path` exists and `overwrite` is false, or it cannot be written.
    """
    with atomic_file(path, overwrite=overwrite) as draft:
        draft.write_text(json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def read_record(path: Path) -> dict[str, Any]:
    """Figures that `write_record` wrote.

    Raises:
        EstimateError: if they cannot be read, or are none.
    """
    try:
        told = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise EstimateError(f"{path} cannot be read ({error.strerror}): check the name") from error
    except ValueError as error:
        raise EstimateError(f"{path} is no JSON: give what geoslave estimate wrote with --out or --counts") from error
    if not isinstance(told, dict) or told.get("kind") not in KINDS:
        raise EstimateError(
            f"{path} holds no figures of geoslave estimate: give what count, change, accuracy or compare wrote"
        )
    return told
