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
from geoslave.labels.synthetic import Landscape, render_scene
from geoslave.model.card import card_with_calibration
from geoslave.model.network import stride
from geoslave.model.package import ModelSpec, Publication, write_package
from geoslave.model.train import TrainResult

ACTIVATIONS = 745 << 20
"""Bytes that all convolutions of a network may put out for one chip. ONNX Runtime takes about 1.0 GB then
(measured on a U-Net resnet18 with chips of 1,280 pixels), which leaves a run below 1.5 GB."""
LARGEST_HALO = 128
HALO_MARGIN = 16
HALO_TOLERANCE = 1.0 / SCORE_STEPS
"""Scores may move by one stored step when chips fall elsewhere."""


def publish(result: TrainResult, folder: Path, *, overwrite: bool = False) -> Path:
    """Write the package of a training.

    Raises:
        ModelError: if the folder exists and `overwrite` is false.
    """
    config, publication = result.config, result.config.publication
    step = stride(config.architecture)
    halo = needed_halo(result.network, len(config.bands), step, config.scaling)
    spec = ModelSpec(
        name=config.name,
        version=publication.version,
        title=publication.title,
        target=config.target,
        own_target=config.own_target,
        classes=config.class_names,
        bands=config.bands,
        gsd_m=config.gsd_m,
        scaling=config.scaling,
        tile=choose_tile(result.network, len(config.bands), halo, step),
        halo=halo,
        stride=step,
        thresholds=publication.thresholds,
        confidence=publication.confidence,
        architecture=config.architecture.model_dump(mode="json"),
        licence=publication.licence,
        data=publication.data,
        metrics=publication.metrics,
        created=date.today(),
        started_from=result.started_from,
    )
    text = card_with_calibration(card(spec, publication, result), spec)
    return write_package(folder, spec, result.network, text, overwrite=overwrite)


def needed_halo(network: nn.Module, n_bands: int, step: int, scaling: Scaling) -> int:
    """How many pixels around a chip the network must see so that its scores stay the same.

    Scores of the middle of rendered scenes are compared with those from ever wider surroundings.
    Returns the narrowest, a multiple of the stride `step`, with no difference above HALO_TOLERANCE,
    and HALO_MARGIN more, because real imagery is more varied than what was tried.
    """
    core = -(-128 // step) * step
    widest = -(-LARGEST_HALO // step) * step
    imagery = np.stack([_example(seed, core + 2 * widest, n_bands, scaling) for seed in range(11, 17)])
    reference = _middle_scores(network, imagery, core, widest)
    for halo in range(step, widest, step):
        cut = widest - halo
        inner = imagery[:, :, cut : imagery.shape[2] - cut, cut : imagery.shape[3] - cut]
        if np.abs(_middle_scores(network, inner, core, halo) - reference).max() <= HALO_TOLERANCE:
            return halo + -(-HALO_MARGIN // step) * step
    return widest


def choose_tile(network: nn.Module, n_bands: int, halo: int, step: int) -> int:
    """Core of a chip in pixels, so that the network's memory stays bounded (ACTIVATIONS)."""
    whole = int(np.lcm(step, 64))
    side = int((ACTIVATIONS / activation_bytes(network, n_bands)) ** 0.5) - 2 * halo
    return max(whole, side // whole * whole)


def activation_bytes(network: nn.Module, n_bands: int) -> float:
    """What all convolutions put out, in bytes for each pixel of the input."""
    put_out = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: put_out.append(4 * output.numel()))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, n_bands, 128, 128))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(put_out) / 128**2


def card(spec: ModelSpec, publication: Publication, result: TrainResult) -> str:
    """The model card, Markdown."""
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
            f"| finds | {spec.sought.title} |",
            f"| looks at | {', '.join(spec.bands)}, {spec.gsd_m:g} m (finer imagery is averaged) |",
            f"| network | {spec.architecture.get('name')}, encoder {spec.architecture.get('encoder')},"
            f" input enlarged {spec.architecture.get('upsample')} times |",
            f"| trained on | {spec.data} |",
            f"| | {result.n_scenes} scenes with {result.n_sites} labelled sites, {result.n_backgrounds} background"
            f" chips, {result.n_weak} weakly labelled chips, {len(result.losses)} steps |",
            *([f"| weights started from | {spec.started_from} |"] if spec.started_from else []),
            f"| licence of the weights | {spec.licence} |",
            f"| confidence | {confidence.meaning} |",
            f"| map | detections with a confidence of {confidence.operating:.2f} or more |",
            f"| made | {spec.created}, geoslave {__version__} |",
            "",
            publication.card.strip(),
            "",
        ]
    )


def _example(seed: int, side: int, n_bands: int, scaling: Scaling) -> NDArray[np.float32]:
    """Scaled imagery [band, y, x] of rendered country; with more than three bands they repeat."""
    landscape: Landscape = ("delta", "plain", "dry", "forest")[seed % 4]
    raster = render_scene(seed, (side, side), n_kilns=8, landscape=landscape).raster
    unit = radiometry(str(raster.pixels.dtype), (1.0,) * 3, (0.0,) * 3, 255)
    factor, summand = coefficients(unit, scene_statistics(raster.pixels, raster.valid, unit, scaling), scaling)
    scaled = scale(raster.pixels, raster.valid, factor, summand, scaling.clip)
    return scaled[[band % 3 for band in range(n_bands)]]


def _middle_scores(network: nn.Module, imagery: NDArray[np.float32], core: int, halo: int) -> NDArray[np.float32]:
    """Scores [scene, class, y, x] of the middle of imagery [scene, band, y, x]."""
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(np.ascontiguousarray(imagery)))
    middle = torch.sigmoid(logits[:, :, halo : halo + core, halo : halo + core])
    scores: NDArray[np.float32] = middle.numpy()
    return scores
