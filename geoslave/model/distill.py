"""Training a gate: it learns from the refined network what that finds, chip by chip.

    draw chips as the network's own recipe does -> the network scores them, once -> the gate learns the highest
    score of each cell -> the threshold is chosen on sites put aside, for the recall asked for

Nothing is learned from labels: the gate must know where the refined network finds something, right or wrong.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import label, maximum_filter
from torch import Tensor, nn
from torch.nn import functional

from geoslave.errors import ModelError
from geoslave.imagery.scaling import Radiometry, Scaling, coefficients, scale, scene_statistics
from geoslave.labels.split import named
from geoslave.model.augment import display
from geoslave.model.chip_pools import background_groups
from geoslave.model.gate import GATE_FILE, GateSpec, with_gate_section
from geoslave.model.mlm import sha256
from geoslave.model.package import (
    FORMAT,
    ModelPackage,
    ModelSpec,
    check_folder,
    copy_package_files,
    describe,
    put_in_place,
)
from geoslave.model.predict import Network
from geoslave.model.recipe import Place, Rendered, TrainConfig, load_config
from geoslave.model.sampling import draw_batch
from geoslave.model.trainingdata import TrainScene, load_data
from geoslave.settings import read_settings

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_STEPS = 255
_EIGHT = np.ones((3, 3), bool)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Aside(_Frozen):
    """What is not trained on: patterns of the names of scenes, and groups of backgrounds."""

    scenes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class GateConfig(_Frozen):
    """All that decides a gate."""

    model: Place
    """The package of the refined network: a name or a folder."""
    recipe: Place
    """The configuration that network was trained with: chips are drawn as it says."""
    version: str
    """Of the package with the gate."""
    channels: tuple[int, int, int] = (16, 32, 48)
    """Of the layers at a half, a quarter and an eighth of the resolution."""
    margin: int = Field(default=2, ge=0)
    """Cells opened around one that reaches the threshold."""
    chip: int = Field(default=96, ge=32)
    chips: int = Field(default=20_000, ge=1)
    """Chips drawn and scored by the refined network, once."""
    shares: dict[str, float] = {}
    """Overrides the recipe's shares of what chips are drawn from."""
    epochs: int = Field(default=8, ge=1)
    batch: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    weight_decay: float = 0.01
    site_weight: float = Field(default=8.0, ge=0)
    """How much more a cell with a site weighs than one without."""
    validation: Aside = Aside()
    """The threshold is chosen on these."""
    test: Aside = Aside()
    """Neither trained nor chosen on: what is lost there is told on the card."""
    recall: float = Field(default=0.99, gt=0, le=1)
    """Share of the refined network's sites that the gate shall keep."""
    lights: tuple[float, ...] = (0.8, 1.0, 1.25)
    """Validation scenes are seen brighter and darker so many times."""
    data: str = "scenes put aside"
    """What the threshold was chosen on, in words, for the card."""
    metrics: dict[str, Any] = {}
    """Figures measured elsewhere (scripts/bench/gate.py), kept in the package and told on the card."""
    seed: int = Field(default=0, ge=0)
    threads: int | None = None


def load_gate_config(path: Path) -> GateConfig:
    """Read a configuration (YAML).

    Raises:
        GeoslaveError: that names the line, what is wrong with it, and what may have been meant.
    """
    return read_settings(path, GateConfig, "configs/kiln-s2-gate.yaml shows one")


# --- the network ---------------------------------------------------------------------------------


class GateNet(nn.Module):
    """A few convolutions that end at an eighth of the resolution: logits [batch, 1, row, col] of cells."""

    CELL = 8

    def __init__(self, n_bands: int, channels: Sequence[int]) -> None:
        super().__init__()
        half, quarter, eighth = channels
        # even kernels keep what is looked at centred on the cell
        self.body = nn.Sequential(
            *_layer(n_bands, half, 4, 2),
            *_layer(half, quarter, 4, 2),
            *_layer(quarter, quarter, 3, 1),
            *_layer(quarter, eighth, 4, 2),
            *_layer(eighth, eighth, 3, 1),
            *_layer(eighth, eighth, 3, 1),
            nn.Conv2d(eighth, 1, 1),
        )

    def forward(self, imagery: Tensor) -> Tensor:
        logits: Tensor = self.body(imagery)
        return logits


def _layer(before: int, after: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(before, after, kernel, stride, 1, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)


def reach(network: nn.Module, cell: int) -> int:
    """Pixels around a cell that its score depends on, from the sizes of the convolutions."""
    low, high = 0, 0
    for layer in reversed([module for module in network.modules() if isinstance(module, nn.Conv2d)]):
        kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
        low, high = low * stride - padding, high * stride - padding + kernel - 1
    return max(-low, high - (cell - 1))


# --- what the gate learns from -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lessons:
    """Chips as the refined network sees them, and what it said."""

    imagery: Bytes
    """[chip, band, y, x]: scaled pixels, in 255 steps of the scaling's range."""
    taught: Bytes
    """[chip, row, col]: the highest score of each cell, in 255 steps."""
    clip: tuple[float, float]

    def pixels(self, chosen: NDArray[np.int64]) -> Tensor:
        """Scaled imagery [batch, band, y, x]."""
        low, high = self.clip
        return torch.from_numpy(self.imagery[chosen]).float().mul_((high - low) / _STEPS).add_(low)

    def scores(self, chosen: NDArray[np.int64]) -> Tensor:
        """[batch, 1, row, col] in [0, 1]."""
        return torch.from_numpy(self.taught[chosen])[:, None].float().div_(_STEPS)


Tell = Callable[[str, int, int], None]
"""(what is done now, done, in all)."""


def drawing_config(config: GateConfig) -> TrainConfig:
    """The recipe that chips are drawn by: the network's own, without what is put aside."""
    recipe = load_config(Path(config.recipe))
    scenes = (*config.validation.scenes, *config.test.scenes)
    groups = (*config.validation.groups, *config.test.groups)
    return recipe.model_copy(
        update={
            "scenes": tuple(s.model_copy(update={"leave_out": (*s.leave_out, *scenes)}) for s in recipe.scenes),
            "backgrounds": tuple(b.model_copy(update={"held_out": (*b.held_out, *groups)}) for b in recipe.backgrounds),
            "shares": recipe.shares.model_copy(update=config.shares),
            "chip": config.chip,
            "accumulate": 1,
            "seed": config.seed,
        }
    )


def draw_lessons(config: GateConfig, network: Network, spec: ModelSpec, tell: Tell) -> Lessons:
    """Draw chips and let the refined network score them."""
    recipe = drawing_config(config)
    data = load_data(recipe)
    clip = recipe.scaling.clip
    imagery, taught = [], []
    batches = math.ceil(config.chips / recipe.batch)
    for step in range(batches):
        batch = draw_batch(data, recipe, step)
        imagery.append(_in_steps(batch.imagery, clip))
        scores = network(batch.imagery).max(axis=1) * batch.valid
        taught.append(np.rint(_highest(scores) * _STEPS).astype(np.uint8))
        tell("scoring chips", step + 1, batches)
    return Lessons(np.concatenate(imagery), np.concatenate(taught), clip)


def _in_steps(imagery: Floats, clip: tuple[float, float]) -> Bytes:
    low, high = clip
    return np.rint((imagery - low) * (_STEPS / (high - low))).clip(0, _STEPS).astype(np.uint8)


def _highest(scores: Floats) -> Floats:
    """[..., row, col]: the highest of [..., y, x] in each cell."""
    *first, rows, cols = scores.shape
    cell = GateNet.CELL
    return scores.reshape(*first, rows // cell, cell, cols // cell, cell).max(axis=(-3, -1))


def fit(lessons: Lessons, n_bands: int, config: GateConfig, tell: Tell) -> GateNet:
    """Train a gate; the same lessons give the same weights."""
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    network = GateNet(n_bands, config.channels).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    count = len(lessons.imagery)
    steps = config.epochs * max(1, count // config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=steps, pct_start=0.1)
    network.train()
    for step, chosen in enumerate(_batches(count, config, rng)):
        pixels, wanted = _turned(lessons.pixels(chosen), lessons.scores(chosen), rng)
        # on a processor half the bits and pixels side by side take less than half the time
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(pixels.contiguous(memory_format=torch.channels_last))
        loss = gate_loss(logits.float(), wanted, config.site_weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        tell("training", step + 1, steps)
    return network.eval()


def gate_loss(logits: Tensor, taught: Tensor, site_weight: float) -> Tensor:
    """Cross entropy with the refined network's scores; cells with a site weigh more, as few as they are."""
    each = functional.binary_cross_entropy_with_logits(logits, taught, reduction="none")
    return (each * (1 + site_weight * taught)).mean()


def _batches(count: int, config: GateConfig, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    size = min(config.batch, count)
    for _ in range(config.epochs):
        order = rng.permutation(count)
        for start in range(0, max(1, count // config.batch) * size, size):
            yield order[start : start + size]


def _turned(pixels: Tensor, scores: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Both by quarters and mirrored."""
    quarters = int(rng.integers(4))
    pixels, scores = (torch.rot90(x, quarters, (-2, -1)) for x in (pixels, scores))
    return (pixels.flip(-1), scores.flip(-1)) if rng.random() < 0.5 else (pixels, scores)


# --- the threshold -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """What a gate does on scenes put aside."""

    site_scores: Floats
    """[site] the highest threshold at which the gate would open the whole of what the refined network found."""
    cell_scores: Floats
    """[cell] the highest threshold at which each cell of the backgrounds would be opened."""

    def threshold(self, recall: float) -> float:
        """The highest that keeps that share of the sites.

        Raises:
            ModelError: if there is no site.
        """
        if not len(self.site_scores):
            raise ModelError("the refined network finds nothing in the scenes put aside: choose others")
        ordered = np.sort(self.site_scores)
        return float(ordered[math.floor((1 - recall) * len(ordered) + 1e-9)])

    def recall(self, threshold: float) -> float:
        return float((self.site_scores >= threshold).mean())

    def opened(self, threshold: float) -> float:
        """Share of the backgrounds that is opened."""
        return float((self.cell_scores >= threshold).mean()) if len(self.cell_scores) else 0.0


def look(aside: Aside, gate: Callable[[Floats], Floats], network: Network, spec: ModelSpec, config: GateConfig) -> Kept:
    """How a gate [band, y, x] -> [row, col] does on scenes and backgrounds put aside."""
    recipe = load_config(Path(config.recipe))
    sites: list[Floats] = []
    for scene in _scenes(recipe, aside.scenes):
        for imagery in _variants(_scaled_scene(scene, spec.scaling), config.lights):
            sites += site_scores(network(imagery[None])[0], opening(gate(imagery), config.margin), spec)
    cells = [opening(gate(imagery), config.margin).ravel() for imagery in _mosaics(recipe, aside.groups, spec.scaling)]
    return Kept(np.array(sites, np.float32), np.concatenate(cells) if cells else np.empty(0, np.float32))


def opening(scores: Floats, margin: int) -> Floats:
    """[row, col] the highest threshold at which each cell is opened, be it by a neighbour."""
    return np.asarray(maximum_filter(scores, 2 * margin + 1), np.float32) if margin else scores


def site_scores(scores: Floats, opened: Floats, spec: ModelSpec) -> list[Any]:
    """For each site that the refined network maps: the highest threshold at which all of it is opened.

    Args:
        scores: [class, y, x] of the refined network.
        opened: [row, col], see `opening`.
    """
    found = []
    by_pixel = opened.repeat(GateNet.CELL, axis=0).repeat(GateNet.CELL, axis=1)
    for layer in scores:
        labelled, count = label(layer >= spec.thresholds.low, _EIGHT)
        for number in range(1, count + 1):
            inside = labelled == number
            if _on_the_map(layer[inside], spec):
                found.append(by_pixel[inside].min())
    return found


def _on_the_map(scores: Floats, spec: ModelSpec) -> bool:
    """Whether pixels of these scores make a detection that the model stands by; their size is not looked at."""
    top, mean = np.array([scores.max()], np.float64), np.array([scores.mean()], np.float64)
    return bool(top[0] >= spec.thresholds.high and spec.confidence.apply(mean, top)[0] >= spec.confidence.operating)


def _scenes(recipe: TrainConfig, patterns: Sequence[str]) -> list[TrainScene]:
    """The labelled scenes of those names."""
    if not patterns:
        return []
    everything = load_data(recipe.model_copy(update={"backgrounds": (), "rendered": Rendered(count=0)}))
    return [scene for scene in everything.scenes if named(scene.name, patterns)]


def _variants(imagery: Floats, lights: Sequence[float]) -> Iterator[Floats]:
    """Scaled imagery [band, y, x] turned, mirrored, brighter and darker."""
    for light in lights:
        lit = (imagery + 1) * np.float32(light) - 1
        for quarters in range(4):
            turned = np.rot90(lit, quarters, (1, 2))
            yield np.ascontiguousarray(turned)
            yield np.ascontiguousarray(turned[:, :, ::-1])


def _scaled_scene(scene: TrainScene, scaling: Scaling) -> Floats:
    """A scene as prediction would see it [band, y, x], with sides of whole cells."""
    pixels = display(scene.patch.pixels)
    rows, cols = (size // GateNet.CELL * GateNet.CELL for size in scene.patch.valid.shape)
    return _scaled(pixels, scene.patch.valid, scaling)[:, :rows, :cols]


def _scaled(pixels: Floats, valid: NDArray[np.bool_], scaling: Scaling) -> Floats:
    unit = Radiometry((1.0,) * len(pixels), (0.0,) * len(pixels))
    return scale(pixels, valid, *coefficients(unit, scene_statistics(pixels, valid, unit, scaling), scaling),
                 scaling.clip)  # fmt: skip


def _mosaics(recipe: TrainConfig, groups: Sequence[str], scaling: Scaling) -> Iterator[Floats]:
    """Backgrounds of each group side by side, scaled as one scene: [band, y, x]."""
    if not groups:
        return
    chosen = recipe.model_copy(
        update={"backgrounds": tuple(b.model_copy(update={"held_out": ()}) for b in recipe.backgrounds)}
    )
    for name, chips in background_groups(chosen):
        if name in groups:
            pixels = mosaic(chips).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
            yield _scaled(pixels, np.ones(pixels.shape[1:], bool), scaling)


def mosaic(chips: Bytes) -> Bytes:
    """Chips [n, y, x, band] side by side [y, x, band], as square as it goes; the last row starts again."""
    columns = math.ceil(math.sqrt(len(chips)))
    whole = chips[np.arange(columns * math.ceil(len(chips) / columns)) % len(chips)]
    rows = [np.concatenate(list(whole[k : k + columns]), axis=1) for k in range(0, len(whole), columns)]
    joined = np.concatenate(rows, axis=0)
    high, wide = (size // GateNet.CELL * GateNet.CELL for size in joined.shape[:2])
    return joined[:high, :wide]


# --- the package ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GateResult:
    """A gate as it was trained, chosen and measured."""

    network: GateNet
    threshold: float
    chosen_on: Kept
    measured_on: Kept

    def metrics(self) -> dict[str, Any]:
        """Figures for the package and the card."""
        return {
            "validation_sites": len(self.chosen_on.site_scores),
            "validation_recall": round(self.chosen_on.recall(self.threshold), 4),
            "validation_opened_of_backgrounds": round(self.chosen_on.opened(self.threshold), 5),
            "test_sites": len(self.measured_on.site_scores),
            "test_recall": round(self.measured_on.recall(self.threshold), 4),
            "test_opened_of_backgrounds": round(self.measured_on.opened(self.threshold), 5),
        }


def train_gate(config: GateConfig, package: ModelPackage, network: Network, tell: Tell) -> GateResult:
    """Draw, teach, choose and measure.

    Args:
        network: the package's, ungated.

    Raises:
        GeoslaveError: if data is missing, or nothing is found in what was put aside.
    """
    spec = package.spec
    if spec.halo % GateNet.CELL or spec.tile % GateNet.CELL or spec.stride % GateNet.CELL:
        raise ModelError(f"{spec.name}: tile, halo and stride must be multiples of {GateNet.CELL} for a gate")
    lessons = draw_lessons(config, network, spec, tell)
    gate = fit(lessons, len(spec.bands), config, tell)
    return judged(gate, config, network, spec, tell)


def judged(gate: GateNet, config: GateConfig, network: Network, spec: ModelSpec, tell: Tell) -> GateResult:
    """The gate with its threshold, chosen on the scenes for validation and measured on those for the test."""
    tell("choosing the threshold", 0, 2)
    chosen_on = look(config.validation, scores_of(gate), network, spec, config)
    # a score is a probability to four digits: below the one found, never above it
    threshold = max(1e-4, math.floor(chosen_on.threshold(config.recall) * 1e4) / 1e4)
    tell("measuring", 1, 2)
    return GateResult(gate, threshold, chosen_on, look(config.test, scores_of(gate), network, spec, config))


def scores_of(gate: GateNet) -> Callable[[Floats], Floats]:
    """A gate as a function of scaled imagery [band, y, x] that gives the scores [row, col] of cells."""

    def score(imagery: Floats) -> Floats:
        with torch.inference_mode():
            scores: Floats = torch.sigmoid(gate(torch.from_numpy(imagery)[None]))[0, 0].numpy()
        return scores

    return score


def export_gate(gate: GateNet, n_bands: int, path: Path) -> None:
    """Write a gate as an ONNX graph from 'imagery' to the 'scores' of cells; batch, y and x are free."""
    import onnx

    free = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # as for the network itself: the tracing exporter is deprecated
        torch.onnx.export(
            nn.Sequential(gate, nn.Sigmoid()).eval(),
            (torch.zeros(1, n_bands, 64, 96),),
            str(path),
            input_names=["imagery"],
            output_names=["scores"],
            dynamic_axes={"imagery": free, "scores": free},
            opset_version=17,
            dynamo=False,
        )
    onnx.checker.check_model(str(path))


def write_gated(
    package: ModelPackage, result: GateResult, config: GateConfig, folder: Path, *, overwrite: bool = False
) -> Path:
    """Write the package again, with the gate: whole, or not at all. The weights stay as they are.

    Raises:
        ModelError: if `folder` exists and `overwrite` is false, or holds anything but a package.
    """
    check_folder(folder, overwrite)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".geoslave-", dir=folder.parent) as scratch:
        draft = Path(scratch) / folder.name
        copy_package_files(package.folder, draft)
        export_gate(result.network, len(package.spec.bands), draft / GATE_FILE)
        gate = GateSpec(
            sha256=sha256(draft / GATE_FILE),
            cell=GateNet.CELL,
            reach=reach(result.network, GateNet.CELL),
            margin=config.margin,
            threshold=result.threshold,
            recall=config.recall,
            architecture={"channels": list(config.channels)},
            data=config.data,
            metrics=result.metrics() | config.metrics,
        )
        facts = package.spec.model_dump() | {"gate": gate, "version": config.version, "format": FORMAT}
        spec = ModelSpec.model_validate(facts)
        describe(draft, spec)
        card = draft / "README.md"
        card.write_text(with_gate_section(card.read_text(encoding="utf-8"), spec), encoding="utf-8")
        put_in_place(draft, folder)
    return folder
