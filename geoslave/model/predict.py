"""From pixels to scores: one network call per chip, halo and crop.

Each chip is read with a halo as wide as the network's sight and only its core is kept, so scores do
not depend on where chips fall. Reading and writing run in threads of their own beside the network.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geoslave.errors import MissingExtra, ModelError
from geoslave.grid import Cell
from geoslave.imagery.raster import Raster, Scores, Source
from geoslave.imagery.scaling import scale
from geoslave.model.package import ModelPackage

Backend = Literal["auto", "onnx", "torch"]

TOLERANCE = 2e-3
"""Scores of ONNX Runtime and of torch in float32 differ by less; a GPU in bfloat16 by less than 0.03."""
READ_AHEAD = 2
"""Chips read while the network works: enough to hide reading, few enough for a small memory."""

Item = TypeVar("Item")
Result = TypeVar("Result")


Margins = tuple[int, int, int, int]
"""(top, left, bottom, right) pixels that the network sees but need not answer for."""


class Network(Protocol):
    """A network ready to run."""

    device: str

    def __call__(self, batch: NDArray[np.float32], margins: Margins = (0, 0, 0, 0)) -> NDArray[np.float32]:
        """Scores [batch, class, y, x] in [0, 1] for scaled pixels [batch, band, y, x], without the margins."""
        ...


class OnnxNetwork:
    """The network on a processor, by ONNX Runtime."""

    device = "cpu"

    def __init__(self, package: ModelPackage, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        # the arena (on by default) keeps its memory between chips: without it the system hands out fresh
        # pages for every tensor, which took a third of the speed. A plan for each shape of chip (edges
        # differ) would be kept too, for no speed.
        options.enable_mem_pattern = False
        # idle threads that spin take the processor from reading and writing
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # small shares of work: a thread that reading holds up does not hold up the others
        options.add_session_config_entry("session.dynamic_block_base", "8")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(package.onnx), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own that share no base
            raise ModelError(f"{package.onnx} cannot be loaded ({error}): fetch the model again") from error
        self._input = self._session.get_inputs()[0].name
        optional = [value.name for value in self._session.get_overridable_initializers()]
        # graphs of other makers answer for everything
        self._step = package.spec.stride if "margins" in optional else None

    def __call__(self, batch: NDArray[np.float32], margins: Margins = (0, 0, 0, 0)) -> NDArray[np.float32]:
        feed = {self._input: batch}
        if self._step is not None:
            inside, margins = _in_steps(margins, self._step)
            feed["margins"] = np.array(inside, np.int64)
        scores: NDArray[np.float32] = self._session.run(None, feed)[0]
        return _without(scores, margins)


class TorchNetwork:
    """The network by torch: on a GPU in bfloat16, else on the processor in float32."""

    def __init__(self, package: ModelPackage, device: str | None = None, threads: int | None = None) -> None:
        try:
            import torch
        except ImportError:
            raise MissingExtra("--backend torch", "train") from None
        from safetensors.torch import load_file

        from geoslave.model.network import Architecture, build_network

        spec = package.spec
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if threads:
            torch.set_num_threads(threads)
        network = build_network(Architecture(**spec.architecture), len(spec.bands), len(spec.classes))
        network.load_state_dict(load_file(package.weights))
        self._torch = torch
        self._step = spec.stride
        self._network = network.eval().to(self.device, memory_format=torch.channels_last)

    def __call__(self, batch: NDArray[np.float32], margins: Margins = (0, 0, 0, 0)) -> NDArray[np.float32]:
        torch = self._torch
        inside, margins = _in_steps(margins, self._step)
        pixels = torch.from_numpy(batch).to(self.device, memory_format=torch.channels_last)
        mixed = self.device != "cpu"
        with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=mixed):
            logits = self._network(pixels, torch.tensor(inside))
        scores: NDArray[np.float32] = torch.sigmoid(logits.float()).cpu().numpy()
        return _without(scores, margins)


def _in_steps(margins: Margins, step: int) -> tuple[Margins, Margins]:
    """The part of margins in whole steps of the network's grid, which it can leave out itself, and the rest."""
    top, left, bottom, right = (margin // step * step for margin in margins)
    return (top, left, bottom, right), (margins[0] - top, margins[1] - left, margins[2] - bottom, margins[3] - right)


def _without(scores: NDArray[np.float32], margins: Margins) -> NDArray[np.float32]:
    """[..., y, x] without its margins."""
    top, left, bottom, right = margins
    return scores[..., top : scores.shape[-2] - bottom, left : scores.shape[-1] - right]


def load_network(package: ModelPackage, backend: Backend = "auto", threads: int | None = None) -> Network:
    """The network of a package: torch where there is a GPU, ONNX Runtime elsewhere, or as asked."""
    if backend == "torch" or (backend == "auto" and _has_gpu()):
        return TorchNetwork(package, threads=threads)
    return OnnxNetwork(package, threads)


@dataclass(frozen=True, slots=True)
class Predictor:
    """Raster -> Scores for one scene: the network with that scene's scaling."""

    network: Network
    factor: NDArray[np.float32]
    """[band]; scaled = stored * factor + summand."""
    summand: NDArray[np.float32]
    clip: tuple[float, float]

    def scaled(self, raster: Raster) -> NDArray[np.float32]:
        """The network's input [1, band, y, x]."""
        return scale(raster.pixels, raster.valid, self.factor, self.summand, self.clip)[None]

    def __call__(self, raster: Raster) -> Scores:
        scores = self.network(self.scaled(raster))[0]
        return Scores(np.where(raster.valid, scores, np.float32(0)), raster.valid, raster.geobox)


@dataclass(frozen=True, slots=True)
class ChipScores:
    """What a chip answers for."""

    cell: Cell
    scores: Scores | None
    """Of the cell's core; None if no pixel of it is valid: the network was not asked."""


def predict_cells(source: Source, predictor: Predictor, cells: Iterable[Cell]) -> Iterator[ChipScores]:
    """Scores of the cores of `cells`, in their order; chips without valid pixels never reach the network."""

    def prepare(cell: Cell) -> _Prepared:
        raster = source.read(cell.read)
        rows, cols = cell.core_in_read
        valid = raster.valid[rows, cols].copy()
        return _Prepared(cell, raster.geobox[rows, cols], valid, predictor.scaled(raster) if valid.any() else None)

    for chip in ahead(prepare, cells, READ_AHEAD):
        yield ChipScores(chip.cell, None if chip.scaled is None else _core_scores(predictor.network, chip.scaled, chip))


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A chip ready for the network: of its pixels only what the network sees is kept."""

    cell: Cell
    geobox: GeoBox
    """Of the core."""
    valid: NDArray[np.bool_]
    """[y, x] of the core."""
    scaled: NDArray[np.float32] | None
    """[1, band, y, x] with the halo; None if no pixel of the core is valid."""


def _core_scores(network: Network, scaled: NDArray[np.float32], chip: _Prepared) -> Scores:
    rows, cols = chip.cell.core_in_read
    height, width = scaled.shape[-2:]
    scores = network(scaled, (rows.start, cols.start, height - rows.stop, width - cols.stop))[0]
    return Scores(np.where(chip.valid, scores, np.float32(0)), chip.valid, chip.geobox)


def ahead(function: Callable[[Item], Result], items: Iterable[Item], depth: int, threads: int = 1) -> Iterator[Result]:
    """`map` in order, with up to `depth` results made beforehand by so many threads."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def usable_cores() -> int:
    """Cores this process may use (containers and clusters give fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_gpu() -> bool:
    # importing torch takes seconds: not on machines without a driver
    if shutil.which("nvidia-smi") is None or importlib.util.find_spec("torch") is None:
        return False
    import torch

    cuda: Any = torch.cuda
    return bool(cuda.is_available())
