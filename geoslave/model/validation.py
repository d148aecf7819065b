"""How a network does on what was put aside: by object on scenes, by chip on weak labels.

Scenes are scored, outlined and merged as `geoslave detect` does it, so that the figure is the one a
user will see, and not one of chips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import geopandas as gpd
import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy.stats import rankdata
from torch import nn

from geoslave.detections.evaluate import evaluate
from geoslave.detections.export import combine, merge_overlapping
from geoslave.detections.polygonize import polygonize, to_detections
from geoslave.grid import partition
from geoslave.imagery.raster import SCORE_STEPS, MemorySource, Raster, Scores, encode_scores
from geoslave.model.augment import Floats, display, quantile
from geoslave.model.chip_pools import ChipPool
from geoslave.model.losses import pooled_logits
from geoslave.model.network import stride
from geoslave.model.placed import PlacedScene, TrainScene
from geoslave.model.recipe import Recentre, TrainConfig
from geoslave.model.sampling import chip_scene
from geoslave.model.trainingdata import ValidationData

Statistic = NDArray[np.float64]

_CORE = 512
_HALO = 64


@dataclass(frozen=True, slots=True)
class Figures:
    """None where it does not apply."""

    f1: float | None = None
    """By object, at the best threshold of these scenes; mean over classes."""
    average_precision: float | None = None
    auc: float | None = None
    """Of weak chips: the chance that one with a site scores above one without."""

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)


def validate(network: nn.Module, data: ValidationData, config: TrainConfig, device: torch.device) -> Figures:
    """Measure a network (in evaluation mode) on what was put aside."""
    f1, precision = None, None
    if data.scenes:
        scores = [score_scene(network, placed, config, device) for placed in data.scenes]
        f1, precision = _by_object(scores, data, config)
    auc = float(np.mean([_auc_of(network, pool, config, device) for pool in data.weak])) if data.weak else None
    return Figures(f1, precision, auc)


def watched(config: TrainConfig, data: ValidationData) -> str:
    """Which figure decides."""
    return config.validation.watch or ("f1" if data.scenes else "auc")


def score_scene(network: nn.Module, placed: PlacedScene, config: TrainConfig, device: torch.device) -> Scores:
    """Scores of a whole scene, by chips with a halo, recentred as the package will be."""
    scene = placed.scene
    source = MemorySource(Raster(scaled_whole(scene, config), scene.patch.valid, placed.geobox))
    rows, cols = scene.patch.truth.shape
    scores = np.zeros((len(config.class_names), rows, cols), np.float32)
    step = stride(config.architecture)
    for cell in partition((rows, cols), -(-_CORE // step) * step, -(-_HALO // step) * step, step):
        raster = source.read(cell.read)
        inside = np.asarray(raster.pixels, np.float32)[None]
        answer = scores_of(logits_of(network, inside, config, device), config.recentre)[0]
        y, x = cell.core_in_read
        core = cell.core
        scores[:, core.row_off : core.row_off + core.height, core.col_off : core.col_off + core.width] = answer[:, y, x]
    return Scores(np.where(scene.patch.valid, scores, np.float32(0)), scene.patch.valid, placed.geobox)


def scaled_whole(scene: TrainScene, config: TrainConfig) -> Floats:
    """A scene [band, y, x] as the network will get it in prediction: its own statistics, no augmentation."""
    ordered = np.sort(display(scene.sample), axis=1)
    low, high = (quantile(ordered, percent / 100)[:, None, None] for percent in config.scaling.percentiles)
    width = np.maximum(high - low, config.scaling.min_range)
    pixels = np.clip(2 * (display(scene.patch.pixels) - low) / width - 1, *config.scaling.clip)
    return np.where(scene.patch.valid, pixels, 0).astype(np.float32)


@torch.no_grad()
def logits_of(network: nn.Module, imagery: Floats, config: TrainConfig, device: torch.device) -> torch.Tensor:
    """Logits [chip, class, y, x] of scaled imagery, on the processor."""
    pixels = torch.from_numpy(imagery).to(device).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        logits: torch.Tensor = network(pixels)
    return logits.float().cpu()


def scores_of(logits: torch.Tensor, recentre: Recentre) -> Floats:
    """Scores as the package will give them (`network.recentre`)."""
    middle = math.log(recentre.score / (1 - recentre.score))
    scores: Floats = torch.sigmoid((logits - middle) / recentre.softness).numpy()
    return scores


def _by_object(
    scores: Sequence[Scores], data: ValidationData, config: TrainConfig
) -> tuple[float | None, float | None]:
    """Mean F1 and average precision over the classes that have sites."""
    assert data.sites is not None
    settings = config.validation
    footprints = gpd.GeoSeries([placed.footprint for placed in data.scenes], crs=4326)
    f1, precision = [], []
    for index, name in enumerate(config.class_names):
        sites = data.sites[data.sites["class_index"] == index]
        if not len(sites):
            continue
        found = _detections(scores, data, index, name, config)
        measured = evaluate(
            found,
            sites,
            footprints,
            max_distance_m=settings.max_distance_m,
            min_iou=settings.min_iou,
            edge_m=settings.edge_m,
            duplicate_m=settings.duplicate_m,
            n_replicates=1,
        )
        f1.append(max((_f1(p.precision, p.recall) for p in measured.curve), default=0.0))
        precision.append(measured.average_precision or 0.0)
    return (float(np.mean(f1)), float(np.mean(precision))) if f1 else (None, None)


def _detections(
    scores: Sequence[Scores], data: ValidationData, index: int, name: str, config: TrainConfig
) -> gpd.GeoDataFrame:
    """Detections of a class in all scenes, merged."""
    target, publication = config.sought, config.publication
    high, low = (max(1, round(t * SCORE_STEPS)) for t in (publication.thresholds.high, publication.thresholds.low))

    def confidence(mean: Statistic, top: Statistic, *_shape: Statistic) -> Statistic:
        return publication.confidence.apply(mean, top)

    tables = []
    for placed, scene_scores in zip(data.scenes, scores, strict=True):
        stored = encode_scores(scene_scores)[index]

        def read(window: Window, stored: NDArray[np.uint8] = stored) -> NDArray[np.uint8]:
            rows = slice(window.row_off, window.row_off + window.height)
            return stored[rows, window.col_off : window.col_off + window.width]

        objects = polygonize(read, stored.shape, low, high)
        tables.append(
            to_detections(
                objects,
                placed.geobox,
                class_name=name,
                scene_id=placed.scene.name,
                model_id=config.name,
                target=target,
                confidence=confidence,
            )
        )
    return merge_overlapping(combine(tables), target)


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _auc_of(network: nn.Module, pool: ChipPool, config: TrainConfig, device: torch.device) -> float:
    return auc(chip_scores(network, pool, config, device), np.asarray(pool.label) == 1)


def chip_scores(network: nn.Module, pool: ChipPool, config: TrainConfig, device: torch.device) -> Floats:
    """Pooled scores [chip] of a pool's chips, each with its own statistics."""
    parts = []
    for start in range(0, len(pool.chips), 128):
        scenes = [chip_scene(pool, k) for k in range(start, min(start + 128, len(pool.chips)))]
        step = stride(config.architecture)
        imagery = np.stack([_padded(scaled_whole(scene, config), step) for scene in scenes])
        valid = np.stack([_padded(scene.patch.valid[None], step)[0] for scene in scenes])
        logits = logits_of(network, imagery, config, device)[:, [pool.class_index]]
        parts.append(torch.sigmoid(pooled_logits(logits, torch.from_numpy(valid), config.weak))[:, 0].numpy())
    return np.concatenate(parts)


def _padded(layer: NDArray[np.generic], multiple: int) -> NDArray[np.generic]:
    """[..., y, x] with sides that the network takes."""
    rows, cols = (-size % multiple for size in layer.shape[1:])
    return np.pad(layer, ((0, 0), (0, rows), (0, cols)))


def auc(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Area under the receiver operating characteristic: the rank-sum statistic, ties counted half."""
    n = int(positive.sum())
    rank = float(rankdata(score)[positive].sum())
    return (rank - n * (n + 1) / 2) / (n * (len(positive) - n))
