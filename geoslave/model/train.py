"""Training: one plain loop.

Chips are drawn anew in every step from four places: sites in labelled scenes, anywhere in labelled
scenes, backgrounds known to be free of sites, and scenes rendered by geoslave itself. Everything is
kept in memory as display values; light, scaling and pasting happen when a chip is drawn
(`augment`), with the statistics of the chip's *scene*, as in prediction.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from rasterio.features import rasterize
from rasterio.windows import Window
from torch import Tensor, nn
from torch.nn import functional

from geoslave.errors import GeoslaveError, LabelError, ModelError
from geoslave.imagery.geotiff import Reading, open_scene
from geoslave.imagery.raster import Raster
from geoslave.imagery.scaling import Scaling
from geoslave.labels.formats import read_labels
from geoslave.labels.synthetic import Landscape, render_scene
from geoslave.model.augment import (
    IGNORE,
    Augmentation,
    Floats,
    Patch,
    blotches,
    cut,
    degrade,
    draw_light,
    narrowest,
    paste,
    percentiles,
)
from geoslave.model.network import Architecture, GridNetwork, build_network, recentre
from geoslave.model.package import Publication, sha256
from geoslave.targets import get_target

Circle = tuple[float, float, float]
"""(row, column, radius) in pixels."""
Progress = Callable[[int, int, float], None]
"""(step, steps, loss)."""


def _expanded(path: str) -> str:
    expanded = os.path.expandvars(path)
    if "$" in expanded:
        raise ValueError(f"'{path}' names an environment variable that is not set")
    return expanded


Place = Annotated[str, AfterValidator(_expanded)]
"""A path; ${VARIABLES} are filled in."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelledScenes(_Frozen):
    """A folder of scenes and one file with their sites."""

    scenes: Place
    """A folder of GeoTIFFs."""
    labels: Place
    unsure: Place | None = None
    """Places with which nothing is learned: unlabelled sites, wrong labels (see `read_unsure`)."""
    region_column: str | None = None
    held_out: tuple[str, ...] = ()
    """Regions whose scenes are not trained on."""
    stretched: bool = False
    """Each scene was stretched from its darkest to its brightest pixel."""
    edge_m: float = 50
    """Along a scene's edge sites are often unlabelled: there only labelled sites are learned."""


class Backgrounds(_Frozen):
    """Chips without sites: x[n, y, x, band] uint8 in an .npz and a table with one row a chip."""

    chips: Place
    table: Place
    where: dict[str, int | str | bool] = {}
    """Only rows with these values, e.g. {label: 0, cloudy: false}."""
    group_column: str = "gallery"
    held_out: tuple[str, ...] = ()
    """Groups that are not trained on."""


class Rendered(_Frozen):
    """Scenes drawn by `labels.synthetic`."""

    count: int = Field(default=24, ge=0)
    size: int = Field(default=256, ge=64)
    sites: int = 14
    lookalikes: int = 20
    landscapes: tuple[Landscape, ...] = ("delta", "delta", "plain", "dry", "forest")


class Shares(_Frozen):
    """What chips are drawn from; the numbers are made to sum to 1 over what there is."""

    site: float = 0.30
    scene: float = 0.12
    background: float = 0.33
    rendered: float = 0.25


class Loss(_Frozen):
    """Weights of the parts of the loss."""

    bce: float = 1.0
    dice: float = 1.0
    focal_gamma: float = 1.0
    """0 is plain binary cross entropy; more turns to the hard pixels."""


class Recentre(_Frozen):
    """Which score of the trained network is to become 0.5, and how much its scores are softened."""

    score: float = Field(default=0.5, gt=0, lt=1)
    softness: float = Field(default=1.0, ge=1)


class TrainConfig(_Frozen):
    """All that decides a training."""

    name: str
    target: str = "brick_kiln"
    bands: tuple[str, ...] = ("red", "green", "blue")
    gsd_m: float = 10.0
    architecture: Architecture = Architecture()
    scaling: Scaling = Scaling()
    scenes: tuple[LabelledScenes, ...] = ()
    backgrounds: tuple[Backgrounds, ...] = ()
    rendered: Rendered = Rendered()
    shares: Shares = Shares()
    augmentation: Augmentation = Augmentation()
    loss: Loss = Loss()
    outline_m: float = 10
    """Within this distance outside a site's outline nothing is learned: labels are that exact."""
    chip: int = Field(default=48, ge=32)
    batch: int = Field(default=24, ge=1)
    steps: int = Field(default=1500, ge=1)
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warm_up: int = 100
    ema: float = 0.998
    mine_at: tuple[float, ...] = (0.4, 0.7)
    """When (share of the steps) backgrounds are scored, to draw the misleading ones more often."""
    mine_count: int = 3000
    """How many backgrounds are scored each time."""
    recentre: Recentre = Recentre()
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = None
    seed: int = 0
    publication: Publication = Publication()
    """What the package says of itself; training does not look at it."""


@dataclass(frozen=True, slots=True)
class TrainScene:
    """A scene in memory."""

    patch: Patch
    sample: Floats
    """[band, n] display values from all over the scene."""
    sites: NDArray[np.float64]
    """[n, 2] centres (row, column)."""
    stretched: bool
    region: str | None = None


@dataclass(slots=True)
class ChipPool:
    """Backgrounds: many chips of one size, drawn by weight."""

    chips: NDArray[np.uint8]
    """[n, y, x, band]."""
    group: NDArray[np.int64]
    """[n] which of them belong together."""
    weight: NDArray[np.float64]
    members: list[NDArray[np.int64]] = field(default_factory=list)
    """Chips of each group."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """All that chips are drawn from."""

    scenes: Sequence[TrainScene]
    rendered: Sequence[TrainScene]
    backgrounds: ChipPool | None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A trained network and how it went."""

    network: GridNetwork
    """Averaged weights (EMA), in evaluation mode."""
    config: TrainConfig
    losses: tuple[float, ...]
    """Of each step."""
    seconds: float
    n_sites: int
    n_scenes: int
    n_backgrounds: int


def load_config(path: Path) -> TrainConfig:
    """Read a configuration (YAML).

    Raises:
        GeoslaveError: naming the first setting that is wrong.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise GeoslaveError(f"{path} cannot be read as YAML ({' '.join(str(error).split())}): mend it") from error
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file as a whole"
        raise GeoslaveError(f"{path}: {where}: {first['msg']}; change it and run again") from error


def train(config: TrainConfig, progress: Progress | None = None) -> TrainResult:
    """Train a network from scratch.

    Raises:
        GeoslaveError: if data is missing or the loss is no longer a number.
    """
    began = time.monotonic()
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    data = load_data(config)
    network = build_network(config.architecture, len(config.bands), 1)
    network = network.to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW(_weight_groups(network, config.weight_decay), lr=config.learning_rate)
    mine_at = {round(share * config.steps) for share in config.mine_at}
    losses = []
    for step in range(config.steps):
        if step in mine_at and data.backgrounds is not None:
            _mine(average, data.backgrounds, config, rng)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config)
        imagery, truth = _batch(data, config, rng)
        loss = _step(network, optimizer, imagery, truth, config)
        if not np.isfinite(loss):
            raise ModelError(f"the loss is {loss} in step {step}: lower learning_rate (now {config.learning_rate})")
        _follow(average, network, min(config.ema, (1 + step) / (10 + step)))
        losses.append(loss)
        if progress is not None:
            progress(step + 1, config.steps, loss)
    recentre(average, config.recentre.score, config.recentre.softness)
    return TrainResult(
        network=average,
        config=config,
        losses=tuple(losses),
        seconds=time.monotonic() - began,
        n_sites=sum(len(scene.sites) for scene in data.scenes),
        n_scenes=len(data.scenes),
        n_backgrounds=0 if data.backgrounds is None else len(data.backgrounds.chips),
    )


# --- the step ------------------------------------------------------------------------------------


def _step(
    network: nn.Module, optimizer: torch.optim.Optimizer, imagery: Tensor, truth: Tensor, config: TrainConfig
) -> float:
    """One step; returns the loss."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
        logits = network(imagery)
    loss = segmentation_loss(logits.float(), truth, config.loss)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()
    return float(loss.detach())


def segmentation_loss(logits: Tensor, truth: Tensor, loss: Loss) -> Tensor:
    """Focal cross entropy and Dice over a batch.

    Args:
        logits: [batch, 1, y, x].
        truth: [batch, y, x], IGNORE where nothing is learned.
    """
    known = (truth != IGNORE).float()
    wanted = (truth == 1).float()
    logit = logits[:, 0]
    score = torch.sigmoid(logit)
    entropy = functional.binary_cross_entropy_with_logits(logit, wanted, reduction="none")
    if loss.focal_gamma:
        missed = torch.where(wanted > 0, 1 - score, score).detach()
        entropy = entropy * missed**loss.focal_gamma
    entropy = (entropy * known).sum() / known.sum().clamp(min=1)
    both = (score * wanted * known).sum()
    dice = 1 - (2 * both + 1) / ((score * known).sum() + (wanted * known).sum() + 1)
    # the mean over pixels is small because nearly all are background
    return loss.bce * 20 * entropy + loss.dice * dice


def _weight_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Decay for matrices, none for biases and norms."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _schedule(step: int, config: TrainConfig) -> float:
    """Warm-up, then a cosine down to 1 %."""
    if step < config.warm_up:
        return (step + 1) / config.warm_up
    done = (step - config.warm_up) / max(1, config.steps - config.warm_up)
    return float(0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * done)))


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, keep: float) -> None:
    """Move averaged weights and norm statistics toward the network's."""
    for ours, theirs in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if ours.dtype.is_floating_point:
            ours.lerp_(theirs.to(ours.dtype), 1 - keep)
        else:
            ours.copy_(theirs)


@torch.no_grad()
def _mine(network: nn.Module, pool: ChipPool, config: TrainConfig, rng: np.random.Generator) -> None:
    """Draw backgrounds more often the higher the network scores them (each chip a tiny scene)."""
    scaling = config.scaling
    chosen = rng.permutation(len(pool.chips))[: config.mine_count]
    worst = []
    for start in range(0, len(chosen), 128):
        chips = pool.chips[chosen[start : start + 128]].astype(np.float32).transpose(0, 3, 1, 2) / 255
        low, high = np.percentile(chips, scaling.percentiles, axis=(2, 3), keepdims=True)
        scaled = 2 * (chips - low) / np.maximum(high - low, narrowest(scaling, config.augmentation)) - 1
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            imagery = torch.from_numpy(np.clip(scaled, *scaling.clip).astype(np.float32))
            logits = network(imagery.contiguous(memory_format=torch.channels_last))
        worst.append(torch.sigmoid(logits.float()).amax((1, 2, 3)).numpy())
    score = np.zeros(len(pool.chips))
    score[chosen] = np.concatenate(worst)
    # half of the draws stay even over the groups, so that nothing is forgotten and no odd chip rules
    pool.weight[:] = 0.5 * _even_weights(pool.members, len(score)) + 0.5 * score / max(float(score.sum()), 1e-9)


# --- drawing chips -------------------------------------------------------------------------------


def _batch(data: TrainingData, config: TrainConfig, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Imagery [batch, band, y, x], scaled, and truth [batch, y, x]."""
    chips = [_draw(data, config, rng) for _ in range(config.batch)]
    imagery = torch.from_numpy(np.stack([c.pixels for c in chips]))
    truth = torch.from_numpy(np.stack([c.truth for c in chips]))
    return imagery.contiguous(memory_format=torch.channels_last), truth


def _draw(data: TrainingData, config: TrainConfig, rng: np.random.Generator) -> Patch:
    """One chip, scaled."""
    shares = config.shares
    with_sites = [s for s in data.scenes if len(s.sites)]
    options: list[tuple[float, Callable[[], Patch]]] = []
    if with_sites:
        options.append((shares.site, lambda: _near_site(_pick(with_sites, rng), config, rng)))
    if data.scenes:
        options.append((shares.scene, lambda: _anywhere(_pick(data.scenes, rng), config, rng)))
    if data.backgrounds is not None:
        pool = data.backgrounds
        options.append((shares.background, lambda: _background(pool, data, config, rng)))
    if data.rendered:
        options.append((shares.rendered, lambda: _from_rendered(_pick(data.rendered, rng), config, rng)))
    weights = np.array([weight for weight, _ in options])
    chip = options[rng.choice(len(options), p=weights / weights.sum())][1]()
    if rng.random() < config.augmentation.paste_decoy:
        chip = paste(chip, _decoy(data, config, rng), _spot(config.chip, rng), rng)
    pixels = degrade(blotches(chip.pixels, rng, config.augmentation), rng, config.augmentation)
    pixels = np.clip(pixels, *config.scaling.clip)
    truth = np.where(chip.valid, chip.truth, IGNORE).astype(np.uint8)
    return Patch(np.where(chip.valid, pixels, 0).astype(np.float32), truth, chip.valid)


def _near_site(scene: TrainScene, config: TrainConfig, rng: np.random.Generator) -> Patch:
    """A chip with a site somewhere in it."""
    reach = 0.4 * config.chip
    centre = scene.sites[rng.integers(len(scene.sites))] + rng.uniform(-reach, reach, 2)
    return _scaled(cut(scene.patch, tuple(centre), config.chip, rng, config.augmentation), scene, config, rng)


def _anywhere(scene: TrainScene, config: TrainConfig, rng: np.random.Generator) -> Patch:
    """A chip of a scene, which may hang over its edge."""
    centre = tuple(rng.uniform(0, scene.patch.truth.shape))
    return _scaled(cut(scene.patch, centre, config.chip, rng, config.augmentation), scene, config, rng)


def _from_rendered(scene: TrainScene, config: TrainConfig, rng: np.random.Generator) -> Patch:
    return _near_site(scene, config, rng) if len(scene.sites) and rng.random() < 0.5 else _anywhere(scene, config, rng)


def _background(pool: ChipPool, data: TrainingData, config: TrainConfig, rng: np.random.Generator) -> Patch:
    """A chip without sites, or with one from elsewhere pasted in."""
    scene = _background_scene(pool, config, rng)
    rows, cols = scene.patch.truth.shape
    centre = (rng.uniform(0.2, 0.8) * rows, rng.uniform(0.2, 0.8) * cols)
    chip = _scaled(cut(scene.patch, centre, config.chip, rng, config.augmentation), scene, config, rng)
    donors = [s for s in (*data.scenes, *data.scenes, *data.rendered) if len(s.sites)]
    if donors and rng.random() < config.augmentation.paste:
        chip = paste(chip, _piece(_pick(donors, rng), True, config, rng), _spot(config.chip, rng), rng)
    return chip


def _background_scene(pool: ChipPool, config: TrainConfig, rng: np.random.Generator) -> TrainScene:
    """A chip alone, as a tiny scene, or four of a group side by side; statistics of few or many chips."""
    first = rng.choice(len(pool.chips), p=pool.weight / pool.weight.sum())
    family = pool.members[pool.group[first]]
    if rng.random() < 0.5:
        mosaic = pool.chips[first]
    else:
        a, (b, c, d) = pool.chips[first], pool.chips[rng.choice(family, 3)]
        mosaic = np.concatenate([np.concatenate([a, b], 1), np.concatenate([c, d], 1)], 0)
    pixels = mosaic.transpose(2, 0, 1).astype(np.float32) / 255
    sample = pixels.reshape(len(pixels), -1)[:, ::3]
    if rng.random() < 0.5:
        others = pool.chips[rng.choice(family, int(rng.integers(1, 12)))].reshape(-1, len(pixels))[::3]
        sample = np.concatenate([sample, others.T.astype(np.float32) / 255], axis=1)
    shape = pixels.shape[1:]
    valid = (pixels > 0).any(axis=0) if rng.random() < 0.5 else np.ones(shape, bool)
    return TrainScene(Patch(pixels, np.zeros(shape, np.uint8), valid), sample, np.empty((0, 2)), stretched=False)


def _piece(scene: TrainScene, with_site: bool, config: TrainConfig, rng: np.random.Generator) -> Patch:
    """A square to paste, scaled, with a site in its middle or none at all."""
    size = int(rng.integers(18, 40)) if with_site else int(rng.integers(8, 40))
    if with_site:
        centre = scene.sites[rng.integers(len(scene.sites))] + rng.uniform(-4, 4, 2)
    else:
        centre = rng.uniform(0, scene.patch.truth.shape)
    piece = cut(scene.patch, (float(centre[0]), float(centre[1])), size, rng, config.augmentation)
    return _scaled(piece, scene, config, rng)


def _decoy(data: TrainingData, config: TrainConfig, rng: np.random.Generator) -> Patch:
    """A square without a site: what the disc shows of other sites is not learned."""
    use_pool = data.backgrounds is not None and rng.random() < 0.4
    if use_pool and data.backgrounds is not None:
        scene = _background_scene(data.backgrounds, config, rng)
    else:
        scene = _pick([*data.scenes, *data.rendered], rng)
    piece = _piece(scene, False, config, rng)
    if (piece.truth != 0).any():  # a site cut in half is neither
        return Patch(piece.pixels, piece.truth, np.zeros_like(piece.valid))
    return piece


def _scaled(chip: Patch, scene: TrainScene, config: TrainConfig, rng: np.random.Generator) -> Patch:
    """Light and the one scaling, with the scene's statistics."""
    sample = scene.sample[:, rng.integers(scene.sample.shape[1], size=2000)]
    light = draw_light(sample, scene.stretched, rng, config.augmentation)
    low, width = percentiles(light(sample), config.scaling, rng, config.augmentation)
    pixels = 2 * (light(chip.pixels) - low[:, None, None]) / width[:, None, None] - 1
    pixels = np.clip(pixels, *config.scaling.clip)
    return Patch(np.where(chip.valid, pixels, np.float32(0)), chip.truth, chip.valid)


def _spot(size: int, rng: np.random.Generator) -> tuple[int, int]:
    row, col = rng.integers(4, size - 4, 2)
    return int(row), int(col)


def _pick(scenes: Sequence[TrainScene], rng: np.random.Generator) -> TrainScene:
    return scenes[int(rng.integers(len(scenes)))]


# --- reading what chips are drawn from -----------------------------------------------------------


def load_data(config: TrainConfig) -> TrainingData:
    """Read and render everything into memory.

    Raises:
        GeoslaveError: if something cannot be read, or there is nothing to learn from.
    """
    scenes = [scene for source in config.scenes for scene in _read_scenes(source, config)]
    pools = [_read_backgrounds(source) for source in config.backgrounds]
    rendered = list(_render(config))
    if not any(len(scene.sites) for scene in (*scenes, *rendered)):
        raise LabelError("nothing to learn from: no labelled site in any scene; check 'scenes' and 'held_out'")
    return TrainingData(scenes, rendered, _one_pool(pools) if pools else None)


def _read_scenes(source: LabelledScenes, config: TrainConfig) -> Iterator[TrainScene]:
    """The scenes of a folder that are not held out."""
    paths = sorted(Path(source.scenes).glob("*.tif"))
    if not paths:
        raise LabelError(f"{source.scenes} holds no .tif: check 'scenes' in the configuration")
    target = get_target(config.target)
    sites = read_labels(source.labels, target)
    unsure = read_unsure(Path(source.unsure)) if source.unsure else {}
    for path in paths:
        scene = _read_scene(path, sites, unsure.get(scene_key(path), ()), source, config)
        if scene.region not in source.held_out or scene.region is None:
            yield scene


def read_unsure(path: Path) -> dict[str, list[Circle]]:
    """Places with which nothing is learned, by scene (`scene_key`): circles in pixels.

    A scene is named by what is in its file, so that a list of unlabelled sites can be shared without
    telling where they are.
    """
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return {str(key): [(float(r), float(c), float(size)) for r, c, size in rows] for key, rows in read.items()}
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise LabelError(
            f"{path} is no list of unsure places ({error}): write  SCENE_KEY: [[row, column, radius], ...]"
        ) from error


def scene_key(path: Path) -> str:
    """The first 16 digits of a file's SHA-256."""
    return sha256(path)[:16]


def _read_scene(
    path: Path, sites: gpd.GeoDataFrame, unsure: Sequence[Circle], source: LabelledScenes, config: TrainConfig
) -> TrainScene:
    with open_scene(path, Reading(config.bands, gsd_m=config.gsd_m)) as scene:
        rows, cols = scene.geobox.shape
        raster = scene.read(Window(0, 0, cols, rows))
        unit = scene.radiometry()
    gain, bias = (np.array(v, np.float32)[:, None, None] for v in (unit.gain, unit.bias))
    pixels = np.where(raster.valid, raster.pixels.astype(np.float32) * gain + bias, np.float32(0))
    here = _on_grid(sites, raster)
    truth = _burn_truth(here, unsure, raster, source, config)
    region = None
    if source.region_column and len(here):
        if source.region_column not in here:
            raise LabelError(f"{source.labels} has no column '{source.region_column}': change 'region_column'")
        region = str(here[source.region_column].mode()[0])
    patch = Patch(pixels, truth, raster.valid)
    return TrainScene(patch, _sample(patch), _centres(here, truth, raster), source.stretched, region)


def _on_grid(labels: gpd.GeoDataFrame, raster: Raster) -> gpd.GeoDataFrame:
    """The labels that touch a raster, in its CRS."""
    placed = labels.to_crs(raster.geobox.crs.to_wkt())
    return placed[placed.intersects(raster.geobox.extent.geom).to_numpy()]


def _burn_truth(
    sites: gpd.GeoDataFrame,
    unsure: Sequence[Circle],
    raster: Raster,
    source: LabelledScenes,
    config: TrainConfig,
) -> NDArray[np.uint8]:
    """Truth [y, x]: sites are 1; IGNORE round them, along the edge, on unsure places and where not valid."""
    shape = raster.valid.shape
    truth = np.zeros(shape, np.uint8)
    edge = round(source.edge_m / config.gsd_m)
    truth[:edge], truth[len(truth) - edge :], truth[:, :edge], truth[:, shape[1] - edge :] = (IGNORE,) * 4
    if len(sites):
        metres = sites.geometry.to_crs(sites.estimate_utm_crs())
        wide = metres.buffer(config.outline_m).to_crs(sites.crs)
        truth[_burn(wide, raster)] = IGNORE
        truth[_burn(sites.geometry, raster)] = 1
    y, x = np.ogrid[: shape[0], : shape[1]]
    for row, column, radius in unsure:
        truth[(y + 0.5 - row) ** 2 + (x + 0.5 - column) ** 2 <= radius**2] = IGNORE
    truth[~raster.valid] = IGNORE
    return truth


def _burn(shapes: gpd.GeoSeries, raster: Raster) -> NDArray[np.bool_]:
    burnt: NDArray[np.uint8] = rasterize(
        list(shapes), raster.valid.shape, transform=raster.geobox.affine, dtype="uint8"
    )
    return burnt.astype(bool)


def _centres(sites: gpd.GeoDataFrame, truth: NDArray[np.uint8], raster: Raster) -> NDArray[np.float64]:
    """Centres [n, 2] (row, column) of the sites that are learned."""
    points = sites.geometry.representative_point()
    columns, rows = ~raster.geobox.affine @ (points.x.to_numpy(), points.y.to_numpy())
    centres = np.stack([np.asarray(rows), np.asarray(columns)], axis=1) - 0.5
    inside = ((centres >= 0) & (centres <= np.array(truth.shape) - 1)).all(axis=1)
    centres = centres[inside]
    row, col = np.rint(centres).astype(int).T
    return centres[truth[row, col] == 1]


def _sample(patch: Patch, count: int = 20_000) -> Floats:
    """Display values [band, n] spread over the valid pixels."""
    values = patch.pixels[:, patch.valid]
    return np.ascontiguousarray(values[:, :: max(1, values.shape[1] // count)])


def _render(config: TrainConfig) -> Iterator[TrainScene]:
    """Rendered scenes, each a little different."""
    rendered = config.rendered
    for index in range(rendered.count):
        landscape = rendered.landscapes[index % len(rendered.landscapes)]
        scene = render_scene(
            config.seed * 10_000 + index,
            (rendered.size, rendered.size),
            config.gsd_m,
            rendered.sites,
            n_lookalikes=rendered.lookalikes,
            landscape=landscape,
        )
        raster = scene.raster
        pixels = (raster.pixels.astype(np.float32) / np.float32(255)).astype(np.float32)
        truth = np.zeros(raster.valid.shape, np.uint8)
        truth[_burn(scene.sites.buffer(config.outline_m), raster)] = IGNORE
        truth[_burn(scene.sites.geometry, raster)] = 1
        patch = Patch(pixels, truth, raster.valid)
        yield TrainScene(patch, _sample(patch), _centres(scene.sites, truth, raster), stretched=False)


def _read_backgrounds(source: Backgrounds) -> tuple[NDArray[np.uint8], NDArray[np.object_]]:
    """Chips [n, y, x, band] and their groups [n]."""
    try:
        with np.load(source.chips, allow_pickle=False) as archive:
            chips = archive["x"]
        table = pd.read_csv(source.table)
        keep = ~table[source.group_column].isin(source.held_out)
        for column, value in source.where.items():
            keep &= table[column] == value
    except (OSError, ValueError, KeyError) as error:
        raise LabelError(f"{source.chips} and {source.table} do not make a set of chips ({error})") from error
    if len(chips) != len(table) or not keep.any():
        raise LabelError(
            f"{source.table}: {len(table)} rows for {len(chips)} chips, {keep.sum()} chosen; check 'where'"
        )
    return chips[keep.to_numpy()], table.loc[keep, source.group_column].to_numpy(object)


def _one_pool(pools: Sequence[tuple[NDArray[np.uint8], NDArray[np.object_]]]) -> ChipPool:
    """All backgrounds together."""
    chips = np.concatenate([c for c, _ in pools])
    _, group = np.unique(np.concatenate([g for _, g in pools]).astype(str), return_inverse=True)
    members = [np.flatnonzero(group == g) for g in range(int(group.max()) + 1)]
    return ChipPool(chips, group.astype(np.int64), _even_weights(members, len(group)), members)


def _even_weights(members: Sequence[NDArray[np.int64]], count: int) -> NDArray[np.float64]:
    """Weights [count] that sum to 1: a group is drawn as often as the root of its size."""
    weight = np.zeros(count)
    for group in members:
        weight[group] = 1 / np.sqrt(len(group))
    return weight / weight.sum()
