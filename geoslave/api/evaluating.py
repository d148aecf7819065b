"""How good it is, in a notebook: figures with intervals, and what became of each object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import geopandas as gpd
import numpy as np
import pandas as pd

from geoslave import display
from geoslave.api.findings import read_layer
from geoslave.detect import Request
from geoslave.detections.assess import outcomes
from geoslave.errors import GeoslaveError
from geoslave.evaluation import Report, evaluate_model, read_area, write_report
from geoslave.evaluation import evaluate_layer as compare_layer
from geoslave.imagery.scenefolder import find_scenes
from geoslave.labels.formats import read_labels
from geoslave.model.package import ModelPackage, open_package
from geoslave.model.predict import load_network
from geoslave.targets import get_target

Sites: TypeAlias = str | Path | gpd.GeoDataFrame
"""Sites with their outlines, or a file of labels in any of the formats that geoslave reads."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """How good a model or a layer is where sites are known."""

    report: Report = field(repr=False)

    @property
    def facts(self) -> dict[str, Any]:
        """Every figure, as `evaluation.json` of `geoslave evaluate --out` holds it."""
        return self.report.facts

    @property
    def figures(self) -> pd.DataFrame:
        """The main figures with 95 % intervals: columns value, low, high."""
        return pd.DataFrame(
            {
                title: [_rate(self.facts, path, end) for end in ("", "_low", "_high")]
                for title, path in _FIGURES.items()
            },
            index=["value", "low", "high"],
        ).T

    @property
    def errors(self) -> gpd.GeoDataFrame:
        """What became of each object: column `outcome` is hit, miss, false_alarm, ..."""
        return outcomes(self.report.comparison)

    def by(self, name: str) -> pd.DataFrame:
        """Figures for each group of a way to take sites apart (`facts["by"]` lists them).

        Raises:
            GeoslaveError: if there is no such way.
        """
        groups = self.facts["by"]
        if name not in groups:
            raise GeoslaveError(f"figures were not taken apart by '{name}': there are {', '.join(groups) or 'none'}")
        return pd.DataFrame(groups[name]).T

    def save(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write figures, charts, a contact sheet and the layer of errors, as `geoslave evaluate --out` does.

        Raises:
            OutputError: if they are there and `overwrite` is false, or cannot be written.
            MissingExtra: without matplotlib.
        """
        return write_report(self.report, Path(folder), overwrite)

    def _repr_html_(self) -> str:
        facts = self.facts
        told = (
            f"{facts['n_hits']} of {facts['n_sites']} sites found, {facts['n_false_alarms']} false alarms, on "
            f"{facts['counted_area_km2']:,.1f} km², at a confidence of {facts['min_confidence']:.2f}"
        )
        shares = self.figures.loc[list(_SHARES)].dropna(subset=["value"])
        bars = [display.Bar(str(name), *_ends(row)) for name, row in shares.iterrows()]
        others = self.figures.drop(index=list(_SHARES))
        rows = [
            (name, display.number(row["value"], 2), display.number(row["low"], 2), display.number(row["high"], 2))
            for name, row in others.iterrows()
        ]
        return display.page(
            told,
            display.intervals(bars, 2, top=1.0),
            display.table(("", "value", "low", "high"), rows),
            small="95 % intervals from a bootstrap over spatial blocks",
        )


_FIGURES = {
    "precision": ("precision",),
    "recall": ("recall",),
    "F1": ("f1",),
    "average precision": ("average_precision",),
    "calibration error (ECE)": ("reliability", "ece"),
    "false alarms per 100 km²": ("false_alarms_per_100km2",),
    "count error (relative)": ("count", "relative_error"),
}
_SHARES = ("precision", "recall", "F1", "average precision")


def evaluate(
    model: str | Path,
    scenes: str | Path,
    labels: Sites,
    *,
    by: Sequence[str] = (),
    min_confidence: float | None = None,
    bands: Mapping[str, int] | None = None,
    threads: int | None = None,
) -> Evaluated:
    """Measure a model against labelled sites, as `geoslave evaluate` does.

    Args:
        scenes: a scene, or a folder of scenes, all of them labelled.
        labels: the known sites, none missing where was searched.
        by: columns of the labels to take figures apart by.
        min_confidence: the operating point. None: the model's.

    Raises:
        GeoslaveError: if a scene cannot be used, or no label lies in any.
    """
    package = open_package(model)
    operating = package.spec.confidence.operating if min_confidence is None else min_confidence
    network = load_network(package, "onnx", threads)
    sites = _sites(labels, package)
    return Evaluated(
        evaluate_model(package, network, find_scenes(Path(scenes)), sites, operating, Request(numbers=bands), by=by)
    )


def evaluate_layer(
    detections: Sites,
    area: str | Path | gpd.GeoSeries,
    labels: Sites,
    *,
    by: Sequence[str] = (),
    min_confidence: float = 0.5,
) -> Evaluated:
    """Measure a layer of detections against labelled sites, as `geoslave evaluate --detections` does.

    Args:
        area: the polygons that were searched, all of them labelled.

    Raises:
        GeoslaveError: if no label lies in the area.
    """
    layer = read_layer(detections) if isinstance(detections, str | Path) else detections
    meant = layer.attrs.get("provenance", {}).get("target")
    target = None if meant is None else get_target(meant)
    searched = read_area(Path(area)) if isinstance(area, str | Path) else area
    sites = read_labels(labels, target=target) if isinstance(labels, str | Path) else labels
    name = Path(detections).stem if isinstance(detections, str | Path) else "layer"
    return Evaluated(compare_layer(layer, name, searched, sites, min_confidence, by=by, target=target))


def _sites(given: Sites, package: ModelPackage) -> gpd.GeoDataFrame:
    return read_labels(given, target=package.spec.sought) if isinstance(given, str | Path) else given


def _rate(facts: Mapping[str, Any], path: Sequence[str], end: str) -> float:
    for part in path[:-1]:
        facts = facts[part]
    value = facts.get(path[-1] + end)
    return float("nan") if value is None else float(value)


def _ends(row: pd.Series) -> tuple[float, float, float]:
    """Value, low and high; an interval that is not defined shrinks to the value."""
    value = float(row["value"])
    low, high = (value if np.isnan(row[name]) else float(row[name]) for name in ("low", "high"))
    return value, low, high
