"""A whole calibration: judged detections, the curve through them, and the new model with its card and plot.

It joins the rooms and holds no science of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geoslave.charts import draw_reliability
from geoslave.detect import Request, detect_scenes
from geoslave.detections.evaluate import compare
from geoslave.detections.export import read_detections, read_provenance
from geoslave.detections.verdicts import read_verdicts
from geoslave.errors import GeoslaveError, LabelError, MissingExtra, ModelError
from geoslave.imagery.scenefolder import find_scenes
from geoslave.labels.formats import read_labels
from geoslave.model.calibrate import (
    FEWEST_TO_CLAIM,
    Calibration,
    Outcome,
    Samples,
    calibrate,
    move_operating,
    with_share,
)
from geoslave.model.package import Confidence, ModelPackage, recalibrate
from geoslave.model.predict import load_network

FEWEST_SCENES = 3
"""With fewer scenes, strips of the map are held out instead."""
N_STRIPS = 10

CROSS_VALIDATED = "cross_validated"
"""In the provenance of a layer that networks of a cross-validation made: their likeness (`ModelSpec.likeness`)."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Judged:
    """Detections somebody judged, and under which name that is remembered."""

    samples: Samples
    data: str
    notes: tuple[str, ...]


def judged_by_verdicts(package: ModelPackage, detections: Path, verdicts: Path, group: str | None = None) -> Judged:
    """Detections of a layer with what people said about them.

    Args:
        group: a column of the layer or of the verdicts; None takes the scenes, or with fewer than
            FEWEST_SCENES strips from west to east.

    Raises:
        GeoslaveError: if a file cannot be used, no verdict is on a detection of the layer, or another
            model made the layer.
    """
    layer = read_detections(detections)
    _refuse_another_model(package, layer, detections)
    answers = read_verdicts(verdicts)
    both = layer.merge(answers, on="detection_id", how="inner", suffixes=("", "_verdict"), validate="one_to_one")
    if both.empty:
        raise LabelError(
            f"{verdicts}: none of its {len(answers)} verdicts (yes or no) is on a detection of {detections}: "
            "check that they belong together"
        )
    notes = []
    if len(both) < len(answers):
        notes.append(f"{len(answers) - len(both)} verdicts are on detections that {detections.name} does not hold")
    groups = _given_groups(both, group) if group else _usual_groups(both)
    return Judged(_samples(package, both, both["probability"], groups), verdicts.name, (*notes, *_few(both)))


def judged_by_labels(
    package: ModelPackage,
    scenes: Path,
    labels: Path,
    group: str | None,
    reading: Mapping[str, Any],
    threads: int | None,
    progress: Progress,
) -> Judged:
    """Detections of labelled scenes, each a hit or a false alarm by the rules of `geoslave evaluate`.

    Args:
        group: a column of the labels, e.g. region: a detection belongs to that of the nearest label.
        reading: numbers, crs and nodata, as the user gave them.

    Raises:
        GeoslaveError: if scenes or labels cannot be used, or nothing was found to judge.
    """
    sites = read_labels(labels, target=package.spec.sought)
    if group is not None and group not in sites:
        there = ", ".join(str(name) for name in sites.columns if name != sites.active_geometry_name)
        raise LabelError(f"{labels} has no column '{group}': choose one of {there} for --group")
    nodata = reading["nodata"]
    request = Request(
        numbers=reading["numbers"],
        crs=reading["crs"],
        nodata=None if nodata == "none" else nodata,
        trust_all=nodata == "none",
    )
    network = load_network(package, "onnx", threads)
    found, results = detect_scenes(
        [scene.path for scene in find_scenes(scenes)], package, network, request=request, progress=progress
    )
    footprints = gpd.GeoSeries([result.footprint for result in results], crs="EPSG:4326")
    c = compare(found, sites, footprints, package.spec.confidence.operating)
    if not c.site_counted.any():
        raise LabelError(f"no label of {labels} lies inside the scenes: check that both are of the same place")
    if not c.counted.any():
        raise GeoslaveError(f"the model found nothing in {scenes} to calibrate with: give more scenes")
    judged = c.detections[c.counted].reset_index(drop=True)
    if group is None:
        groups = _usual_groups(judged)
    else:
        nearest = shapely.STRtree(c.labelled).nearest(shapely.point_on_surface(c.found[c.counted]))
        groups = c.sites[group].astype(str).to_numpy(object)[nearest]
    hits = pd.Series(c.hit[c.counted].astype(float))
    return Judged(_samples(package, judged, hits, groups), labels.name, tuple(_few(judged)))


def calibrated(package: ModelPackage, judged: Judged, share: float | None = None) -> tuple[Confidence, Outcome]:
    """The model's new confidence, and what held-out groups say about it.

    With fewer than FEWEST_TO_CLAIM verdicts the confidence moves but is not called calibrated, unless
    the model was calibrated before.
    """
    present = _present(package)
    outcome = calibrate(judged.samples, present, judged.data, datetime.now(UTC).date())
    new = outcome.calibration
    operating = move_operating(package.spec.confidence.operating, present, new, judged.samples)
    claim = new.n >= FEWEST_TO_CLAIM or (package.spec.confidence.calibrated and bool(new.builds_on))
    confidence = _confidence(package.spec.confidence, new, operating, claim)
    return (_shared(confidence, share) if share is not None else confidence), outcome


def moved(package: ModelPackage, share: float) -> Confidence:
    """The confidence of a calibrated model where another share of detections is true.

    Raises:
        ModelError: if the model is not calibrated.
    """
    if package.spec.confidence.calibration is None:
        raise ModelError(
            f"{package.spec.name} is not calibrated, so there is nothing to move: give --detections with --verdicts, "
            "or --scenes with --labels"
        )
    return _shared(package.spec.confidence, share)


def write(
    package: ModelPackage, confidence: Confidence, outcome: Outcome | None, folder: Path, *, overwrite: bool = False
) -> tuple[Path, bool]:
    """Write the new model. Returns its folder, and whether a reliability plot could be drawn for its card."""
    picture = None if outcome is None else _plot(package, outcome)
    digest = hashlib.sha256(confidence.model_dump_json().encode()).hexdigest()
    # two calibrations of one day must not share a model_id
    version = f"{package.spec.version.split('+')[0]}+cal{datetime.now(UTC):%Y%m%d}.{digest[:6]}"
    return recalibrate(package, folder, confidence, version, picture, overwrite=overwrite), picture is not None


def _present(package: ModelPackage) -> Calibration:
    """The model's calibration so far; the identity where it has none."""
    length, width = package.spec.sought.typical_m
    plain = Calibration(reference_area_m2=length * width, reference_elongation=length / width)
    return package.spec.confidence.calibration or plain


def _confidence(before: Confidence, calibration: Calibration, operating: float, claim: bool) -> Confidence:
    source = calibration.origin if claim else f"not calibrated, but moved ({calibration.origin})"
    changes = {"calibration": calibration, "operating": operating, "calibrated": claim, "source": source}
    return before.model_copy(update=changes)


def _shared(confidence: Confidence, share: float) -> Confidence:
    assert confidence.calibration is not None
    try:
        new = with_share(confidence.calibration, share)
    except ValueError as error:
        raise GeoslaveError(f"--share {share:g}: {error}") from error
    operating = move_operating(confidence.operating, confidence.calibration, new)
    return _confidence(confidence, new, operating, confidence.calibrated)


def _samples(package: ModelPackage, table: gpd.GeoDataFrame, hit: pd.Series, groups: NDArray[np.object_]) -> Samples:
    mean, top = table["score_mean"].to_numpy(float), table["score_max"].to_numpy(float)
    return Samples(
        confidence=package.spec.confidence.before_calibration(mean, top),
        score_mean=mean,
        area_m2=table["area_m2"].to_numpy(float),
        elongation=table["length_m"].to_numpy(float) / np.maximum(table["width_m"].to_numpy(float), 1e-3),
        hit=hit.to_numpy(float),
        group=groups,
    )


def _given_groups(table: pd.DataFrame, column: str) -> NDArray[np.object_]:
    if column not in table:
        raise LabelError(f"neither the layer nor the verdicts have a column '{column}': choose another for --group")
    values: NDArray[np.object_] = table[column].astype(str).to_numpy(object)
    return values


def _usual_groups(table: gpd.GeoDataFrame) -> NDArray[np.object_]:
    """Scenes; with fewer than FEWEST_SCENES strips of like many detections from west to east."""
    scenes: NDArray[np.object_] = table["scene_id"].astype(str).to_numpy(object)
    if len(set(scenes)) >= FEWEST_SCENES:
        return scenes
    points = shapely.point_on_surface(np.asarray(table.geometry.to_crs(4326).array, dtype=object))
    rank = np.argsort(np.argsort(shapely.get_x(points), kind="stable"), kind="stable")
    strip = rank * min(N_STRIPS, len(table)) // max(len(table), 1)
    return np.array([f"strip {k}" for k in strip], dtype=object)


def _few(table: pd.DataFrame) -> list[str]:
    if len(table) >= FEWEST_TO_CLAIM:
        return []
    return [
        f"{len(table)} judged detections are few: the confidence moves a little, and is called calibrated "
        f"from {FEWEST_TO_CLAIM} on"
    ]


def _refuse_another_model(package: ModelPackage, layer: gpd.GeoDataFrame, path: Path) -> None:
    """Scores of another network would calibrate nothing; the hash at the end of a model_id tells.

    A cross-validation's networks are others, but trained by the same recipe, each without the region it looked at:
    their scores stand for those of the model in a region that it does not know.
    """
    others = {str(name) for name in layer["model_id"].unique() if not str(name).endswith(package.checksum[:8])}
    if others:
        recipe = read_provenance(path).get(CROSS_VALIDATED)
        if recipe == package.spec.likeness():
            return
        if recipe is not None:
            raise ModelError(
                f"{path} is the cross-validation of another recipe than the one {package.model_id} was trained by "
                "(another network, scaling, target or thresholds): train the model by that recipe, and calibrate it"
            )
        raise ModelError(
            f"{path} was made by {sorted(others)[0]}, not by {package.model_id}: "
            "calibrate that model, or make the layer again with  geoslave detect"
        )


def _plot(package: ModelPackage, outcome: Outcome) -> bytes | None:
    """The reliability plot as PNG; None without matplotlib."""
    calibration = outcome.calibration
    held = f"{calibration.n_groups} held-out groups" if calibration.n_groups > 1 else "held-out rows"
    with TemporaryDirectory(prefix="geoslave-") as scratch:
        path = Path(scratch) / "reliability.png"
        try:
            draw_reliability(
                path,
                {"before": outcome.before.bins, "after": outcome.after.bins},
                f"{package.spec.name}: reliability of the confidence",
                subtitle=f"{calibration.n} judged detections in {held}; "
                f"error {outcome.before.ece:.3f} before, {outcome.after.ece:.3f} after",
            )
        except MissingExtra:
            return None
        return path.read_bytes()
