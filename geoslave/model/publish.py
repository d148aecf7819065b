"""From a trained network to a package: how far it sees, how large its chips may be, and the card."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from geoslave import __version__
from geoslave.imagery.raster import SCORE_STEPS
from geoslave.imagery.scaling import Scaling, coefficients, radiometry, scale, scene_statistics
from geoslave.labels.synthetic import render_scene
from geoslave.model.network import Architecture, stride
from geoslave.model.package import ModelSpec, Publication, write_package
from geoslave.model.train import TrainResult
from geoslave.targets import get_target

INNER_SIDE = 1152
"""Side in pixels of what the network's first layer sees: about 0.8 GB in ONNX Runtime for a U-Net resnet18."""
LARGEST_HALO = 128
HALO_TOLERANCE = 1.0 / SCORE_STEPS
"""Scores may move by one stored step when chips fall elsewhere."""


def publish(result: TrainResult, folder: Path, *, overwrite: bool = False) -> Path:
    """Write the package of a training.

    Raises:
        ModelError: if the folder exists and `overwrite` is false.
    """
    config, publication = result.config, result.config.publication
    halo = needed_halo(result.network, config.architecture, len(config.bands), config.scaling)
    spec = ModelSpec(
        name=config.name,
        version=publication.version,
        title=publication.title,
        target=config.target,
        classes=(config.target,),
        bands=config.bands,
        gsd_m=config.gsd_m,
        scaling=config.scaling,
        tile=choose_tile(config.architecture, halo),
        halo=halo,
        stride=stride(config.architecture),
        thresholds=publication.thresholds,
        confidence=publication.confidence,
        architecture=config.architecture.model_dump(mode="json"),
        licence=publication.licence,
        data=publication.data,
        metrics=publication.metrics,
        created=date.today(),
    )
    return write_package(folder, spec, result.network, card(spec, publication, result), overwrite=overwrite)


def needed_halo(network: nn.Module, architecture: Architecture, n_bands: int, scaling: Scaling) -> int:
    """How many pixels around a chip the network must see so that its scores stay the same.

    Scores of the middle of a rendered scene are compared with those from ever narrower surroundings.
    Returns the narrowest, a multiple of the stride, with no difference above HALO_TOLERANCE.
    """
    step = stride(architecture)
    core = -(-128 // step) * step
    widest = -(-LARGEST_HALO // step) * step
    imagery = _example(core + 2 * widest, n_bands, scaling)
    reference = _middle_scores(network, imagery, core, widest)
    narrowest = widest
    for halo in range(widest - step, -1, -step):
        cut = widest - halo
        inner = imagery[:, cut : imagery.shape[1] - cut, cut : imagery.shape[2] - cut]
        if np.abs(_middle_scores(network, inner, core, halo) - reference).max() > HALO_TOLERANCE:
            break
        narrowest = halo
    return narrowest


def choose_tile(architecture: Architecture, halo: int) -> int:
    """Core of a chip in pixels, so that the network's memory stays at what INNER_SIDE takes."""
    step = np.lcm(stride(architecture), 64)
    side = INNER_SIDE // architecture.upsample - 2 * halo
    return int(max(step, side // step * step))


def card(spec: ModelSpec, publication: Publication, result: TrainResult) -> str:
    """The model card, Markdown."""
    target = get_target(spec.target)
    confidence = spec.confidence
    return "\n".join(
        [
            f"# {spec.name} {spec.version}: {spec.title}",
            "",
            "**A detection is an indicator of a kind of site, never evidence of a crime.** A free worker cannot be",
            "distinguished from an enslaved worker from space.",
            "",
            "| | |",
            "|---|---|",
            f"| finds | {target.title} |",
            f"| looks at | {', '.join(spec.bands)}, {spec.gsd_m:g} m (finer imagery is averaged) |",
            f"| network | {spec.architecture.get('name')}, encoder {spec.architecture.get('encoder')},"
            f" input enlarged {spec.architecture.get('upsample')} times |",
            f"| trained on | {spec.data} |",
            f"| | {result.n_scenes} scenes with {result.n_sites} labelled sites, {result.n_backgrounds} background"
            f" chips, {len(result.losses)} steps |",
            f"| licence of the weights | {spec.licence} |",
            f"| confidence | {confidence.source} |",
            f"| map | detections with a confidence of {confidence.operating:.2f} or more |",
            f"| made | {spec.created}, geoslave {__version__} |",
            "",
            publication.card.strip(),
            "",
        ]
    )


def _example(side: int, n_bands: int, scaling: Scaling) -> NDArray[np.float32]:
    """Scaled imagery [band, y, x] of rendered country; with more than three bands they repeat."""
    raster = render_scene(11, (side, side), n_kilns=8).raster
    unit = radiometry(str(raster.pixels.dtype), (1.0,) * 3, (0.0,) * 3, 255)
    factor, summand = coefficients(unit, scene_statistics(raster.pixels, raster.valid, unit, scaling), scaling)
    scaled = scale(raster.pixels, raster.valid, factor, summand, scaling.clip)
    return scaled[[band % 3 for band in range(n_bands)]]


def _middle_scores(network: nn.Module, imagery: NDArray[np.float32], core: int, halo: int) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(np.ascontiguousarray(imagery))[None])
    middle = torch.sigmoid(logits[0, :, halo : halo + core, halo : halo + core])
    scores: NDArray[np.float32] = middle.numpy()
    return scores
