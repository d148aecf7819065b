"""From a campaign's labels to a segmentation model, and from the model to what people should look at next.

Only what people answered is learned. The chips of a scene are laid side by side in one raster with a mask (0 no
site, 1 a site, 255 not known), beside a small copy of the whole scene, which is not learned but keeps the scene's
own statistics: the network is trained on the same scaling that it meets on the scene.

    <campaign>/training/      rasters and masks, the recipe, labels.gpkg
    <campaign>/model/         the model package
    <campaign>/detections.gpkg, unsure.json     what it found, and what it was unsure of
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import yaml
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from geoslave.errors import MissingExtra, ModelError
from geoslave.files import atomic_file
from geoslave.imagery.raster import Raster
from geoslave.imagery.scaling import Scaling
from geoslave.labels.importing import write_labels
from geoslave.model.package import ModelPackage, open_package
from geoslave.search import SearchError
from geoslave.search.index import ChipIndex
from geoslave.search.labels import Taught, counted
from geoslave.search.pictures import overview_of
from geoslave.targets import Target, target_yaml

FEWEST_SITES = 10
"""Placed sites below which a training is refused."""
FEWEST_NEGATIVES = 20
TO_MEASURE = 25
"""Sites from which on a fifth of them is put aside to measure the model."""
MOST_UNSURE = 200
UNSURE = "unsure.json"
SCRATCH = "none"
NOT_KNOWN, NOTHING, SITE = 255, 0, 1
_BLOCK_M = 3_000
_ARCHITECTURE = {"encoder": "tu-regnetx_002", "encoder_depth": 4, "decoder_channels": (96, 48, 32)}
OF_IMAGENET = {
    "pretrained": "imagenet",
    # its weights come with the extra 'train': geoslave.model.pretrained
    "architecture": {**_ARCHITECTURE, "encoder": "tu-tf_efficientnet_lite0", "upsample": 2},
    "learning_rate": 1e-3,
}
"""A recipe's settings for an encoder that has learned to see on ImageNet."""

Tell = Callable[[str], None]


class TooLittle(SearchError):
    """The campaign has not taught enough to train with."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training would learn from, and what is missing."""

    taught: Taught
    missing: tuple[str, ...]
    """Empty where it can go ahead."""
    measured: bool
    """Whether some sites are put aside to measure the model."""

    @property
    def ready(self) -> bool:
        return not self.missing


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training of a campaign gave."""

    model: Path
    taught: Taught
    start_from: str
    seconds: float
    held_out_f1: float | None
    """F1 of sites on chips put aside, the best of a curve; None where there were too few to put aside."""
    held_out_sites: int
    detections: int
    unsure: int
    """Chips that people are asked about next."""
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "model": str(self.model), "taught": asdict(self.taught)}


# ---------------------------------------------------------------- is it enough


def plan(labels: gpd.GeoDataFrame, sites: int = FEWEST_SITES, negatives: int = FEWEST_NEGATIVES) -> Plan:
    """Whether labels suffice, and what is missing if not."""
    taught = counted(labels)
    missing = []
    if taught.sites < sites:
        told = f"{sites - taught.sites} more sites with a place (there are {taught.sites}, at least {sites} are needed)"
        if taught.without_place:
            told += f"; {taught.without_place} chips with a site wait for a point or an outline"
        missing.append(told)
    if taught.negatives < negatives:
        missing.append(
            f"{negatives - taught.negatives} more chips without a site (there are {taught.negatives}, at least "
            f"{negatives} are needed)"
        )
    return Plan(taught, tuple(missing), taught.sites >= TO_MEASURE)


def refuse_too_little(planned: Plan) -> None:
    """
    Raises:
        TooLittle: that says what is missing.
    """
    if not planned.ready:
        raise TooLittle(
            f"too little to train with: {' and '.join(planned.missing)}; go on with  geoslave search review"
        )


# ---------------------------------------------------------------- what is learned from


def write_training_set(
    index: ChipIndex, labels: gpd.GeoDataFrame, target: Target, folder: Path, seed: int = 0
) -> tuple[int, int]:
    """Write rasters and masks of all answered chips: for training, and aside.

    Args:
        labels: of `search.labels.label_table`.
        folder: gets `train/`, `train_masks/`, and where there are enough sites `aside/`, `aside_masks/`.

    Returns:
        (sites learned from, sites put aside).
    """
    for part in ("train", "train_masks", "aside", "aside_masks"):
        shutil.rmtree(folder / part, ignore_errors=True)
    aside = _put_aside(labels, seed) if plan(labels).measured else set()
    sites = labels[labels["kind"].isin(("outline", "point"))]
    known = labels[(labels["presence"] != "unsure")]
    for part, chosen in (("train", set(known["chip_id"]) - aside), ("aside", aside)):
        chips = sorted(chosen & set(index.rows), key=index.rows.__getitem__)
        for scene_id, rows in _by_scene(index, chips):
            path = folder / part / f"{_plain(scene_id)}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{part}_masks").mkdir(exist_ok=True)
            with index.source(scene_id) as scene:
                _write_mosaic(index, scene_id, scene, rows, labels, target, path, folder / f"{part}_masks" / path.name)
    put = int(sites["chip_id"].isin(aside).sum())
    return len(sites) - put, put


def _by_scene(index: ChipIndex, chips: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    rows = [index.rows[chip] for chip in chips]
    names = index.chips["scene_id"].to_numpy()
    for name in dict.fromkeys(str(names[row]) for row in rows):
        yield name, [row for row in rows if str(names[row]) == name]


def _put_aside(labels: gpd.GeoDataFrame, seed: int) -> set[str]:
    """A fifth of the chips, by squares on the ground, so that what is measured was not seen from the next chip."""
    middles = shapely.get_coordinates(labels.to_crs("EPSG:6933").geometry.centroid.array)
    square = np.floor(middles / _BLOCK_M).astype(int)
    _, number = np.unique(square, axis=0, return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(number.max()) + 1)
    positive = labels["kind"].isin(("outline", "point")).to_numpy()
    wanted, taken = 0.2 * positive.sum(), 0
    chosen: set[int] = set()
    for one in order:
        here = int(positive[number.ravel() == one].sum())
        if taken + here > 1.5 * wanted:  # one dense square must not take all
            continue
        chosen.add(int(one))
        taken += here
        if taken >= wanted:
            break
    # a chip on the seam of two squares goes with its first label
    first = labels.assign(square=number.ravel()).groupby("chip_id")["square"].first()
    return set(first[first.isin(chosen)].index)


def _write_mosaic(
    index: ChipIndex,
    scene_id: str,
    scene: Any,
    rows: Sequence[int],
    labels: gpd.GeoDataFrame,
    target: Target,
    path: Path,
    mask_path: Path,
) -> None:
    """The chips of a scene side by side, the scene small below them, and the mask of the same size."""
    core = index.settings.core_px
    side = 2 * core
    across = ceil(sqrt(len(rows)))
    small = overview_of(index, scene_id, scene, max(side, min(512, across * side // 2)))
    down = ceil(len(rows) / across) * side
    height, width = down + small.valid.shape[0], max(across * side, small.valid.shape[1])
    pixels = np.zeros((small.pixels.shape[0], height, width), small.pixels.dtype)
    valid = np.zeros((height, width), bool)
    mask = np.full((height, width), NOT_KNOWN, np.uint8)
    by_chip = dict(tuple(labels.to_crs(scene.geobox.crs.to_wkt()).groupby("chip_id")))
    ids = index.chips["chip_id"].to_numpy()
    for number, row in enumerate(rows):
        cell = scene.read(index.window(row, side))
        top, left = number // across * side, number % across * side
        here = (slice(top, top + side), slice(left, left + side))
        pixels[(slice(None), *here)], valid[here] = cell.pixels, cell.valid
        mask[here] = chip_mask(cell, by_chip[ids[row]], core, target, index.facts["reading"]["gsd_m"])
    bottom = (slice(down, height), slice(0, small.valid.shape[1]))
    pixels[(slice(None), *bottom)], valid[bottom] = small.pixels, small.valid
    _write_raster(path, _storable(pixels), valid, scene)
    with rasterio.open(mask_path, "w", **_profile(mask[None], scene)) as file:
        file.write(mask, 1)


def chip_mask(cell: Raster, labels: gpd.GeoDataFrame, core: int, target: Target, gsd_m: float) -> NDArray[np.uint8]:
    """What is known on a chip and its surroundings [y, x]: 0, 1 or 255.

    A chip that says no holds no site in its frame. A drawn outline is a site. Of a point only the circle as wide as
    the site is narrow is surely one, whichever way the site lies; round it, as far as the site is long, nothing is
    learned. In a frame with a placed site the rest is empty; in one with a site that nobody placed nothing is known.

    Args:
        cell: the chip in the middle of a window of twice its size.
        labels: of this chip, in the cell's CRS.
    """
    mask: NDArray[np.uint8] = np.full(cell.valid.shape, NOT_KNOWN, np.uint8)
    edge = (cell.valid.shape[0] - core) // 2
    placed = labels[labels["kind"].isin(("outline", "point"))]
    if not len(placed) and (labels["presence"] != "no").any():
        return mask
    mask[edge : edge + core, edge : edge + core] = NOTHING
    points = placed[placed["kind"] == "point"].geometry.centroid
    columns, rows = ~cell.geobox.affine @ (points.x.to_numpy(), points.y.to_numpy())
    y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
    length, width = target.typical_m
    for value, reach in ((NOT_KNOWN, length / 2), (SITE, max(width / 2, 1.5 * gsd_m))):
        for row, column in zip(np.atleast_1d(rows), np.atleast_1d(columns), strict=True):
            mask[(y + 0.5 - row) ** 2 + (x + 0.5 - column) ** 2 <= (reach / gsd_m) ** 2] = value
    drawn = placed[placed["kind"] == "outline"].geometry
    if len(drawn):
        burnt = rasterize(list(drawn), mask.shape, transform=cell.geobox.affine, all_touched=True, dtype="uint8")
        mask[burnt == 1] = SITE
    mask[~cell.valid] = NOT_KNOWN
    return mask


def _storable(pixels: NDArray[Any]) -> NDArray[Any]:
    """Medians have fractions; what they are medians of are whole numbers, by which their unit is known."""
    if pixels.dtype.kind == "f" and np.nanmax(pixels) > 2:
        return np.clip(np.rint(np.nan_to_num(pixels)), 0, 65_535).astype(np.uint16)
    return pixels


def _write_raster(path: Path, pixels: NDArray[Any], valid: NDArray[np.bool_], scene: Any) -> None:
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **_profile(pixels, scene), compress="deflate") as file,
    ):
        file.write(pixels)
        file.write_mask(valid)
        file.descriptions = scene.bands
        file.scales = getattr(scene, "scales", (1.0,) * len(pixels))
        file.offsets = getattr(scene, "offsets", (0.0,) * len(pixels))


def _profile(layers: NDArray[Any], scene: Any) -> dict[str, Any]:
    """A GeoTIFF with the scene's pixel; its corner is the scene's, for what lies side by side has no place."""
    a = scene.geobox.affine
    return {
        "driver": "GTiff",
        "count": len(layers),
        "height": layers.shape[1],
        "width": layers.shape[2],
        "dtype": layers.dtype,
        "crs": scene.geobox.crs.to_wkt(),
        "transform": Affine(a.a, 0, a.c, 0, a.e, a.f),
    }


# ---------------------------------------------------------------- the recipe


def recipe(
    target: Target,
    folder: Path,
    index: ChipIndex,
    *,
    name: str,
    start_from: str | None = None,
    steps: int | None = None,
    measured: bool = False,
    n_sites: int = 0,
    seed: int = 0,
    threads: int | None = None,
) -> dict[str, Any]:
    """The settings of a training (see `model.recipe`): a search's own, over them the target's, over them the caller's.

    Args:
        start_from: a model by name or folder, "imagenet", or "none" (from scratch). None: the target's, else none.

    Raises:
        ModelError: if there is no such model.
    """
    reading = index.facts["reading"]
    start = start_from or str(target.training.get("start_from", SCRATCH))
    own = {key: value for key, value in target.training.items() if key != "start_from"}
    settings: dict[str, Any] = {
        "name": name,
        "target": target.name,
        "bands": tuple(reading["bands"]),
        "gsd_m": reading["gsd_m"],
        "architecture": _ARCHITECTURE,
        "scaling": Scaling(min_range=0.4).model_dump(),
        "scenes": [_source(folder, "train"), *([_source(folder, "aside", aside=True)] if measured else [])],
        "rendered": {"count": 0},
        "shares": {"site": 0.5, "scene": 0.5},
        "augmentation": {"blotches": 0},
        "outline_m": reading["gsd_m"],
        "chip": 48,
        "batch": 16,
        "steps": 400,
        "learning_rate": 2e-3,
        "warm_up": 50,
        "ema": 0.99,
        "mine_at": [],
        "workers": 0,
        "seed": seed,
        "validation": {"by": "list" if measured else "none", "every": 100, "edge_m": 0},
        "publication": {
            "title": f"{target.title}, trained in a search",
            "licence": "of whoever made the imagery and the labels",
            "data": f"{n_sites} sites placed by people in a search of their own imagery",
            "thresholds": {"high": 0.5, "low": 0.3},
            "card": _CARD,
        },
    }
    if target_is_own(target):
        settings["own_target"] = target.model_dump(mode="json")
    if start == "imagenet":
        settings |= OF_IMAGENET
    elif start != SCRATCH:
        settings |= _of_package(open_package(start), start)
    settings |= own
    if steps is not None:
        settings["steps"] = steps
    settings["warm_up"] = min(settings["warm_up"], settings["steps"] // 4)
    settings["validation"]["every"] = max(1, min(settings["validation"]["every"], settings["steps"] // 2))
    if threads is not None:
        settings["threads"] = threads
    return settings


def target_is_own(target: Target) -> bool:
    """Whether a target is no preset, or a preset that was changed."""
    from geoslave.targets import TARGETS

    return TARGETS.get(target.name) != target


def _of_package(package: ModelPackage, start: str) -> dict[str, Any]:
    """What has to be as it was for its weights to be of use."""
    spec = package.spec
    if "encoder" not in spec.architecture:
        raise ModelError(f"{start} names no architecture that could be built: start from another model, or from 'none'")
    return {
        "start_from": str(package.folder),
        "architecture": spec.architecture,
        "scaling": spec.scaling.model_dump(),
        "learning_rate": 1e-3,
    }


def _source(folder: Path, part: str, aside: bool = False) -> dict[str, Any]:
    return {
        "scenes": str((folder / part).absolute()),
        "masks": str((folder / f"{part}_masks").absolute()),
        "edge_m": 0,
        "aside": aside,
    }


_CARD = """\
Trained in a search (`geoslave search`), on chips that one person or a few people answered: it has seen what the search
showed them. Its confidence is not calibrated and its accuracy elsewhere is unknown: check what it finds, and measure it
(`geoslave evaluate`) before anything is counted with it.
"""


# ---------------------------------------------------------------- training and looking


def train_campaign(
    index: ChipIndex,
    labels: gpd.GeoDataFrame,
    target: Target,
    folder: Path,
    *,
    name: str,
    answered: Mapping[str, str],
    start_from: str | None = None,
    steps: int | None = None,
    threads: int | None = None,
    seed: int = 0,
    detect: bool = True,
    least: tuple[int, int] = (FEWEST_SITES, FEWEST_NEGATIVES),
    tell: Tell = lambda line: None,
    step: Callable[[str, int, int], None] = lambda *_: None,
) -> Trained:
    """Train a model on what a campaign taught, run it over the index's scenes, and list what it is unsure of.

    Args:
        labels: of `search.labels.label_table`.
        folder: the campaign's.
        answered: chips that people answered: they are not asked about again.

    Raises:
        TooLittle: that says what is missing.
        GeoslaveError: if the imagery cannot be read or the settings are wrong.
    """
    planned = plan(labels, *least)
    refuse_too_little(planned)
    config, train, publish = _training_parts()
    work = folder / "training"
    learned, aside = write_training_set(index, labels, target, work, seed)
    write_labels(labels, work / "labels.gpkg", True)
    (work / "target.yaml").write_text(target_yaml(target), encoding="utf-8")
    measured = aside > 0
    settings = recipe(target, work, index, name=name, start_from=start_from, steps=steps, measured=measured,
                      n_sites=learned, seed=seed, threads=threads)  # fmt: skip
    made = config(settings)
    (work / "recipe.yaml").write_text(
        yaml.safe_dump(made.model_dump(mode="json", exclude_defaults=True), sort_keys=False), encoding="utf-8"
    )
    notes = [] if measured else [_NOT_MEASURED.format(sites=planned.taught.sites, needed=TO_MEASURE)]
    result = train(made, None, on_step=lambda now: step("training", now.step, now.steps), tell=tell)
    model = folder / "model"
    publish(result, model, overwrite=True)
    found, unsure = (0, 0)
    if detect:
        found, unsure = _look(index, model, folder, answered, threads, notes, step)
    best = None if result.best is None else float(result.best)
    start = str(settings.get("start_from") or settings.get("pretrained") or SCRATCH)
    trained = Trained(model, planned.taught, Path(start).name, result.seconds, best, aside, found, unsure, tuple(notes))
    with atomic_file(folder / "trained.json", overwrite=True) as draft:
        draft.write_text(json.dumps(trained.to_dict(), indent=2), encoding="utf-8")
    return trained


_NOT_MEASURED = (
    "with {sites} sites none was put aside: how good the model is was not measured ({needed} sites are needed for that)"
)


def _training_parts() -> tuple[Any, Any, Any]:
    try:
        import segmentation_models_pytorch  # noqa: F401
        import torch  # noqa: F401
    except ImportError:
        raise MissingExtra("training", "train") from None
    from pydantic import ValidationError

    from geoslave.model.publish import publish
    from geoslave.model.recipe import TrainConfig
    from geoslave.model.train import train

    def config(settings: dict[str, Any]) -> TrainConfig:
        try:
            return TrainConfig.model_validate(settings)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "as a whole"
            raise SearchError(f"the target's 'training' is wrong: {where}: {first['msg']}; mend it") from None

    return config, train, publish


def _look(
    index: ChipIndex,
    model: Path,
    folder: Path,
    answered: Mapping[str, str],
    threads: int | None,
    notes: list[str],
    step: Callable[[str, int, int], None],
) -> tuple[int, int]:
    """Run a model over the index's scenes: (detections, chips that it is unsure of)."""
    from geoslave.detect import Request, detect_scenes, provenance
    from geoslave.detections.export import write_detections
    from geoslave.model.predict import load_network
    from geoslave.region.config import RegionConfig

    paths = [scene["input"]["path"] for scene in index.facts["scenes"]]
    if any(path is None for path in paths):
        notes.append(f"the imagery is a composite: look with  geoslave region init NAME --model {model}")
        return 0, 0
    config = RegionConfig.read_again(index.facts["config"])
    nodata = None if config.nodata in (None, "none") else float(config.nodata)
    request = Request(
        numbers=dict(config.bands) or None, crs=config.crs, nodata=nodata, trust_all=config.nodata == "none"
    )
    package = open_package(model)
    network = load_network(package, "onnx", threads)
    layer, results = detect_scenes(paths, package, network, folder / "detections.gpkg", request, progress=step)
    # scenes reach beyond the area that was indexed
    middles = layer.to_crs(4326).geometry.representative_point() if len(layer) else layer.geometry
    layer = layer[np.isin(np.arange(len(layer)), index.chips.sindex.query(middles.array, predicate="intersects")[0])]
    write_detections(
        layer, folder / "detections.gpkg", provenance=provenance(package, results, request), overwrite=True
    )
    asked = unsure_chips(index, layer, package.spec.confidence.operating, answered)
    with atomic_file(folder / UNSURE, overwrite=True) as draft:
        draft.write_text(json.dumps(asked), encoding="utf-8")
    return len(layer), len(asked)


def unsure_chips(
    index: ChipIndex, detections: gpd.GeoDataFrame, operating: float, answered: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Chips that nobody answered on which a detection lies, the least sure first: chip, confidence, outline (lonlat).

    A detection belongs to the chip its representative point lies in.
    """
    if not len(detections):
        return []
    placed = detections.to_crs(4326)
    points = placed.geometry.representative_point()
    which, chip = index.chips.sindex.query(points.array, predicate="intersects")
    ids = index.chips["chip_id"].to_numpy()
    found: dict[str, dict[str, Any]] = {}
    distance = np.abs(placed["confidence"].to_numpy(float) - operating)
    for number in np.argsort(distance[which], kind="stable"):
        detection, name = int(which[number]), str(ids[chip[number]])
        if name not in answered and name not in found:
            shape = placed.geometry.iloc[detection]
            confidence = round(float(placed["confidence"].iloc[detection]), 4)
            found[name] = {"chip": name, "confidence": confidence, "outline": shapely.to_wkt(shape, 7)}
    return list(found.values())[:MOST_UNSURE]


def read_unsure(folder: Path) -> list[dict[str, Any]]:
    """What the last model was unsure of; nothing where there was none."""
    try:
        told = json.loads((folder / UNSURE).read_text(encoding="utf-8"))
        return [one for one in told if {"chip", "confidence", "outline"} <= set(one)]
    except (OSError, ValueError, TypeError):
        return []


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)[:80] or "scene"
