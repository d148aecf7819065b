"""Leave one region out: a network for each region that has not seen it, measured there.

    recipe -> a fold a region: train without it -> package -> look at its scenes -> held-out detections
                                                                                        |
                              one layer, verdicts by the labels, figures by region  <---+

It joins the rooms and holds no science of its own. On disk, each file whole or absent:

    crossvalidate.json           which recipe, which regions, whether it is complete
    without-REGION/              the package; without-REGION-training/ its log and checkpoint
    held-out-REGION.gpkg         what it found in REGION; with it a region is done
    searched-REGION.geojson      the ground it looked at
    held_out.gpkg, held_out_verdicts.csv, report/    only when all regions are done
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from geoslave import __version__, charts
from geoslave.calibration import CROSS_VALIDATED
from geoslave.detect import Request, detect_scenes, provenance
from geoslave.detections import pixels
from geoslave.detections.assess import assess, refuse_elsewhere, weights
from geoslave.detections.elsewhere import assess_elsewhere
from geoslave.detections.evaluate import Comparison, compare
from geoslave.detections.export import (
    combine,
    merge_overlapping,
    read_detections,
    read_provenance,
    write_detections,
)
from geoslave.errors import GeoslaveError, OutputError
from geoslave.evaluation import Report, Searched, looked_at, rules_for, write_report
from geoslave.files import atomic_file, scratch_folder
from geoslave.imagery.names import scene_ids
from geoslave.imagery.scenefolder import SceneOnDisk
from geoslave.model.checkpoint import NAME as CHECKPOINT
from geoslave.model.package import open_package
from geoslave.model.predict import load_network
from geoslave.model.publish import publish
from geoslave.model.recipe import TrainConfig
from geoslave.model.regions import read_regions, slugs, without
from geoslave.model.train import OnStep, Tell, TrainResult, train

STATE = "crossvalidate.json"
LAYER, VERDICTS, REPORT = "held_out.gpkg", "held_out_verdicts.csv", "report"
"""What there is when all regions are done."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Fold:
    """A region, and the recipe without it."""

    region: str
    config: TrainConfig
    scenes: tuple[Path, ...]
    """Of the region."""
    package: Path
    detections: Path
    searched: Path

    @property
    def training(self) -> Path:
        """The folder of the training's log, picture and checkpoint."""
        return self.package.with_name(f"{self.package.name}-training")

    @property
    def trained(self) -> bool:
        return (self.package / "model.json").is_file()

    @property
    def done(self) -> bool:
        """Trained, and the region was looked at by this very network."""
        if not (self.trained and self.detections.is_file()):
            return False
        return read_provenance(self.detections).get("model_sha256") == open_package(self.package).checksum


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """All folds of a recipe, and the sites they are measured by."""

    config: TrainConfig
    folder: Path
    folds: tuple[Fold, ...]
    """By falling number of scenes."""
    sites: gpd.GeoDataFrame
    n_without: int
    """Scenes of no region."""

    @property
    def left(self) -> list[str]:
        """Regions that are not done."""
        return [fold.region for fold in self.folds if not fold.done]


def lay_out(config: TrainConfig, folder: Path) -> CrossValidation:
    """The folds of a recipe; nothing is written.

    Raises:
        GeoslaveError: if the recipe's scenes have no regions, or fewer than two.
        MissingExtra: without matplotlib.
    """
    charts.require()
    regions = read_regions(config)
    named = slugs(list(regions.scenes))
    folds = tuple(
        Fold(
            region=region,
            config=without(config, region, named[region]),
            scenes=scenes,
            package=folder / f"without-{named[region]}",
            detections=folder / f"held-out-{named[region]}.gpkg",
            searched=folder / f"searched-{named[region]}.geojson",
        )
        for region, scenes in regions.scenes.items()
    )
    return CrossValidation(config, folder, folds, regions.sites, regions.n_without)


def begin(whole: CrossValidation, only: Sequence[str] = (), *, restart: bool = False) -> list[Fold]:
    """Make the folder ready, and say which folds are to be done.

    What was summed up over all regions is taken away as soon as there is one to do, so that a run
    that stops half-way never looks whole.

    Args:
        only: regions; none: all.
        restart: do those anew; results of another recipe are removed.

    Raises:
        GeoslaveError: if a region is unknown, or the folder holds other things or another recipe's results.
    """
    there = [fold.region for fold in whole.folds]
    unknown = [region for region in only if region not in there]
    if unknown:
        raise GeoslaveError(f"there is no region '{unknown[0]}': choose of {', '.join(there)} for --only")
    before = _state(whole.folder)
    same = before is None or (before.get("recipe"), before.get("regions")) == (_recipe(whole.config), _names(whole))
    if not same and not restart:
        raise OutputError(
            f"{whole.folder} holds the cross-validation of another recipe or of other regions: choose another folder, "
            "or let --restart remove it and begin anew"
        )
    chosen = [fold for fold in whole.folds if not only or fold.region in only]
    if restart:
        gone = list(_names(whole).values()) if same else list((before or {}).get("regions", {}).values())
        _remove(whole.folder, [name for name in gone if not same or name in {f.package.name for f in chosen}])
    to_do = [fold for fold in chosen if not fold.done]
    if to_do:
        _remove_sums(whole.folder)
        _write_state(whole, complete=False)
    return to_do


def train_fold(fold: Fold, on_step: OnStep | None = None, tell: Tell = lambda line: None) -> TrainResult | None:
    """Train without a region and write the package; goes on where it was broken off. None if it is there already."""
    if fold.trained:
        return None
    result = train(fold.config, fold.training, on_step=on_step, tell=tell)
    publish(result, fold.package)
    (fold.training / CHECKPOINT).unlink(missing_ok=True)
    return result


def look(fold: Fold, progress: Progress = lambda *_: None) -> int:
    """Look at a region with the network that has not seen it, as `geoslave detect` does. Returns the detections."""
    package = open_package(fold.package)
    network = load_network(package, "auto", fold.config.threads)
    paths, request = [str(path) for path in fold.scenes], Request()
    scenes = [SceneOnDisk(path, "", fold.region) for path in paths]
    with scratch_folder(fold.detections) as work:
        found, results = detect_scenes(
            paths,
            package,
            network,
            fold.detections,
            request,
            scores=work / "scores",
            progress=_by_scene(fold, progress),
        )
        _, ground = looked_at(scenes, results, work / "scores")
    with atomic_file(fold.searched, overwrite=True) as draft:
        ground.to_file(draft, driver="GeoJSON")
    noted = provenance(package, results, request, held_out_region=fold.region)
    write_detections(found.assign(region=fold.region), fold.detections, provenance=noted, overwrite=True)
    return len(found)


def sum_up(whole: CrossValidation) -> Report:
    """All regions together: the layer, the verdicts of the labels, the report. Every fold must be done.

    Raises:
        GeoslaveError: if no label lies where was searched.
    """
    spec = open_package(whole.folds[0].package).spec
    operating = spec.confidence.operating
    searched = _searched(whole, Request().reading(spec))
    rules = searched.rules
    comparison = compare(searched.detections, whole.sites, searched.footprints, operating, **rules)
    refuse_elsewhere(comparison)
    report = Report(comparison, _facts(whole, comparison, searched.footprints), searched)
    write_detections(searched.detections, whole.folder / LAYER, provenance=_provenance(whole), overwrite=True)
    _write_verdicts(comparison, whole.folder / VERDICTS)
    write_report(report, whole.folder / REPORT, overwrite=True)
    _write_state(whole, complete=True)
    return report


def _by_scene(fold: Fold, progress: Progress) -> Progress:
    """Scenes done rather than a bar for each, where there are several."""
    n, done = len(fold.scenes), 0
    if n == 1:
        return progress

    def step(stage: str, part: int, of: int) -> None:
        nonlocal done
        done += stage.endswith("outlining") and part == of
        progress(f"looking at {fold.region}", done, n)

    return step


# ---------------------------------------------------------------- figures


def _searched(whole: CrossValidation, reading: Any) -> Searched:
    """What all folds found, and where they looked; scenes of one name in two regions are told apart."""
    paths = [str(path) for fold in whole.folds for path in fold.scenes]
    ids = dict(zip(paths, scene_ids(paths), strict=True))
    tables, grounds, scenes = [], [], []
    for fold in whole.folds:
        own = [str(path) for path in fold.scenes]
        renamed = {name: ids[path] for name, path in zip(scene_ids(own), own, strict=True)}
        by_id = {ids[path]: path for path in own}
        table, ground = read_detections(fold.detections), gpd.read_file(fold.searched)
        tables.append(table.assign(scene_id=table["scene_id"].map(renamed)))
        ground = ground.assign(scene_id=ground["scene_id"].map(renamed))
        grounds.append(ground)
        scenes += [SceneOnDisk(by_id[name], name, fold.region) for name in ground["scene_id"]]
    found = merge_overlapping(combine(tables), whole.config.sought)
    if found.empty:
        found = found.assign(region=pd.Series(dtype=object))
    footprints = gpd.GeoDataFrame(pd.concat(grounds, ignore_index=True), crs=4326)
    name = f"{whole.config.name}, each region held out"
    return Searched(found, footprints, tuple(scenes), reading, name, rules_for(whole.config.sought))


def _facts(whole: CrossValidation, comparison: Comparison, footprints: gpd.GeoDataFrame) -> dict[str, Any]:
    facts = assess(comparison, (), footprints)
    by = facts["by"]
    return {
        "name": whole.config.name,
        "models": _models(whole),
        "n_scenes": len(footprints),
        **facts,
        "by": {"region": by["scene_group"], **{key: value for key, value in by.items() if key != "scene_group"}},
        "threshold_from_other_regions": assess_elsewhere(comparison, footprints),
        "pixel": pixels.by_outline(
            comparison.found[comparison.shown], whole.sites, comparison.ground, weights(comparison)
        ),
    }


def _write_verdicts(c: Comparison, path: Path) -> None:
    """What the labels say about each counted detection, as `geoslave calibrate --verdicts` takes it."""
    judged = c.detections[c.counted]
    table = pd.DataFrame(
        {
            "detection_id": judged["detection_id"].to_numpy(object),
            "answer": np.where(c.hit[c.counted], "yes", "no"),
            "region": judged["region"].to_numpy(object),
        }
    )
    with atomic_file(path, overwrite=True) as draft:
        table.sort_values("detection_id").to_csv(draft, index=False)


def _models(whole: CrossValidation) -> dict[str, str]:
    return {fold.region: open_package(fold.package, verify=False).model_id for fold in whole.folds}


def _provenance(whole: CrossValidation) -> dict[str, Any]:
    """Of the layer of all regions: `cross_validated` lets the model trained on all of them be calibrated with it."""
    notes = [read_provenance(fold.detections) for fold in whole.folds]
    spec = open_package(whole.folds[0].package, verify=False).spec
    shared = ("target", "threshold_high", "threshold_low", "confidence", "calibrated", "operating_confidence")
    return {
        "geoslave_version": __version__,
        CROSS_VALIDATED: spec.likeness(),
        "recipe": whole.config.name,
        "recipe_sha256": _recipe(whole.config),
        "models": _models(whole),
        "scenes": [scene for note in notes for scene in note.get("scenes", ())],
        **{name: notes[0].get(name) for name in shared},
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


# ---------------------------------------------------------------- on disk


def _recipe(config: TrainConfig) -> str:
    """SHA-256 of what decides weights and detections."""
    said = config.publication
    parts = (config.digest(), said.thresholds.model_dump_json(), said.confidence.model_dump_json())
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _names(whole: CrossValidation) -> dict[str, str]:
    return {fold.region: fold.package.name for fold in whole.folds}


def _state(folder: Path) -> Mapping[str, Any] | None:
    """What a folder's cross-validation says of itself; None for a folder that is empty or not there.

    Raises:
        OutputError: if the folder holds anything else.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file: give a folder to --out")
    if not folder.exists() or not any(folder.iterdir()):
        return None
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise OutputError(f"{folder} holds other things than a cross-validation: choose another folder") from None
    return state if isinstance(state, dict) else {}


def _write_state(whole: CrossValidation, *, complete: bool) -> None:
    state = {
        "geoslave_version": __version__,
        "name": whole.config.name,
        "recipe": _recipe(whole.config),
        "regions": _names(whole),
        "complete": complete,
    }
    with atomic_file(whole.folder / STATE, overwrite=True) as draft:
        draft.write_text(json.dumps(state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _remove(folder: Path, packages: Sequence[str]) -> None:
    """What folds have left, by the names of their packages."""
    for name in packages:
        if not name.startswith("without-") or "/" in name:
            continue
        region = name.removeprefix("without-")
        (folder / f"held-out-{region}.gpkg").unlink(missing_ok=True)
        (folder / f"searched-{region}.geojson").unlink(missing_ok=True)
        for part in (name, f"{name}-training"):
            shutil.rmtree(folder / part, ignore_errors=True)


def _remove_sums(folder: Path) -> None:
    for name in (LAYER, VERDICTS):
        (folder / name).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        shutil.rmtree(folder / REPORT)
