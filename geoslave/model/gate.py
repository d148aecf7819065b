"""The gate: a light network at the imagery's own resolution that says where the refined network need look.

Sites are rare. The gate gives one score for each cell of `cell` x `cell` pixels; where it reaches the
threshold, and in the cells around, the refined network gives the scores; elsewhere they are 0.

What the gate says of a place is a function of the place: cells lie on the scene's own lattice (chips start
at multiples of the cell), and a chip's halo is wider than what a cell's score depends on. So the scores
are those of the whole scene, whatever the chips, blocks, workers or extents.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from geoslave.errors import ModelError

if TYPE_CHECKING:
    from geoslave.model.package import ModelPackage, ModelSpec
    from geoslave.model.predict import Margins, Network

GATE_FILE = "gate.onnx"
GATE_HEADING = "## The gate"
_MANY = 96
"""So many separate places in one chip are looked at as one: the whole chip is cheaper."""
_EIGHT = np.ones((3, 3), bool)
"""Cells touch at their corners too."""

Box = tuple[int, int, int, int]
"""Half-open: (top, left, bottom, right)."""


class GateSpec(BaseModel):
    """What a package says of its gate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of gate.onnx: another gate gives other scores."""
    cell: int = Field(gt=0)
    """Side of what one score speaks of, in pixels."""
    reach: int = Field(ge=0)
    """Pixels around a cell that its score depends on."""
    margin: int = Field(ge=0)
    """Cells that are opened around one that reaches the threshold."""
    threshold: float = Field(gt=0, lt=1)
    recall: float = Field(gt=0, le=1)
    """Share of the refined network's sites that the threshold was chosen to keep, on validation data."""
    architecture: dict[str, Any] = {}
    data: str = "not stated"
    """What the threshold was chosen on."""
    metrics: dict[str, Any] = {}
    """Figures of data that neither the gate nor the threshold had seen."""

    def faults(self, tile: int, halo: int, stride: int) -> list[str]:
        """Why it does not go with a network of these sizes; empty if it does."""
        told = [
            f"{name} {size} is no multiple of the gate's cell {self.cell}"
            for name, size in (("tile", tile), ("halo", halo), ("stride", stride))
            if size % self.cell
        ]
        if self.reach + self.margin * self.cell > halo:
            told.append(f"the gate looks {self.reach + self.margin * self.cell} pixels far, the halo is {halo}")
        return told


class CellScores(Protocol):
    """A gate ready to run."""

    def __call__(self, imagery: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores [row, col] in [0, 1] of the cells of scaled imagery [band, y, x]."""
        ...


class OnnxGate:
    """A gate, by ONNX Runtime."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_mem_pattern = False  # as for the refined network, see OnnxNetwork
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own that share no base
            raise ModelError(f"{path} cannot be loaded ({error}): fetch the model again") from error
        self._input = self._session.get_inputs()[0].name

    def __call__(self, imagery: NDArray[np.float32]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._session.run(None, {self._input: imagery[None]})[0][0, 0]
        return scores


@dataclass(slots=True)
class GatedNetwork:
    """A refined network that looks only where its gate opens. Scores elsewhere are 0."""

    refined: Network
    gate: CellScores
    spec: GateSpec
    halo: int
    """Of the refined network: what it sees around a window."""
    stride: int
    """Of the refined network: windows lie on multiples of it."""
    n_classes: int
    device: str = "cpu"
    """Where the refined network runs; the gate is light enough for the processor."""

    def __call__(self, batch: NDArray[np.float32], margins: Margins = (0, 0, 0, 0)) -> NDArray[np.float32]:
        """Scores [batch, class, y, x] of scaled pixels [batch, band, y, x] without the margins.

        The first pixel must lie on the lattice of cells, as those of chips do.
        """
        return np.stack([self._of_one(imagery, margins) for imagery in batch])

    def _of_one(self, imagery: NDArray[np.float32], margins: Margins) -> NDArray[np.float32]:
        height, width = imagery.shape[1:]
        wanted = (margins[0], margins[1], height - margins[2], width - margins[3])
        scores = np.zeros((self.n_classes, wanted[2] - wanted[0], wanted[3] - wanted[1]), np.float32)
        opened = opened_cells(self.gate(imagery), self.spec, wanted)
        for box in windows(opened, self.spec.cell, self.halo):
            core = _within(_pixels(box, self.spec.cell), wanted)
            read = _within(_grown(core, self.halo, self.stride), (0, 0, height, width))
            there = np.ascontiguousarray(imagery[None, :, read[0] : read[2], read[1] : read[3]])
            seen = self.refined(there, _margins(core, read))[0]
            asked = _of_pixels(opened, self.spec.cell, core)
            rows = slice(core[0] - wanted[0], core[2] - wanted[0])
            cols = slice(core[1] - wanted[1], core[3] - wanted[1])
            scores[:, rows, cols] = np.where(asked, seen, scores[:, rows, cols])
        return scores


def gated(network: Network, package: ModelPackage, threads: int | None = None, *, use: bool = True) -> Network:
    """A package's network behind its gate; the network itself if it has none or none is wanted.

    Raises:
        ModelError: if the gate's file cannot be loaded.
    """
    spec = package.spec
    if not use or spec.gate is None:
        return network
    from geoslave.model.predict import usable_cores

    gate = OnnxGate(package.folder / GATE_FILE, threads or usable_cores())
    return GatedNetwork(network, gate, spec.gate, spec.halo, spec.stride, len(spec.classes), network.device)


def opened_cells(scores: NDArray[np.float32], spec: GateSpec, wanted: Box) -> NDArray[np.bool_]:
    """[row, col] cells of which the refined network is asked: those near a score over the threshold, if wanted.

    Args:
        scores: of cells.
        wanted: the pixels for which scores are wanted.
    """
    hot = scores >= spec.threshold
    if not hot.any():
        return hot
    if spec.margin:
        from scipy.ndimage import binary_dilation  # slow to import, and every package imports this module

        hot = binary_dilation(hot, _EIGHT, iterations=spec.margin)
    top, left, bottom, right = wanted[0], wanted[1], -(-wanted[2] // spec.cell), -(-wanted[3] // spec.cell)
    asked = np.zeros_like(hot)
    inner = (slice(top // spec.cell, bottom), slice(left // spec.cell, right))
    asked[inner] = hot[inner]
    return asked


def windows(opened: NDArray[np.bool_], cell: int, halo: int) -> list[Box]:
    """Boxes of cells that together hold all that are opened, so that little is looked at besides.

    Connected cells are a box; two boxes become one where their surroundings (`halo` pixels) are fewer pixels
    looked at together than apart.
    """
    from scipy.ndimage import find_objects, label

    labelled, count = label(opened, _EIGHT)
    if count == 0:
        return []
    boxes = np.array([(y.start, x.start, y.stop, x.stop) for y, x in find_objects(labelled)])
    around = 2 * halo / cell
    whole = _union(boxes)
    boxes = boxes if count > _MANY else _merged(boxes, around)
    if count > _MANY or _cost(boxes, around).sum() >= _cost(whole, around):
        return [_box(whole)]
    return [_box(row) for row in boxes]


def _merged(boxes: NDArray[np.int64], around: float) -> NDArray[np.int64]:
    """Boxes [n, 4] after merging, again and again, the two that save most."""
    while len(boxes) > 1:
        cost = _cost(boxes, around)
        low = np.minimum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.maximum(boxes[:, None, 2:], boxes[None, :, 2:])
        together = np.concatenate([low, high], axis=2)
        saving = cost[:, None] + cost[None, :] - _cost(together, around)
        saving[np.tril_indices(len(boxes))] = -np.inf
        first, second = divmod(int(saving.argmax()), len(boxes))
        if saving[first, second] <= 0:
            break
        others = np.delete(boxes, (first, second), axis=0)
        boxes = np.concatenate([others, together[first, second][None]])
    return boxes


def _cost(boxes: NDArray[np.int64], around: float) -> NDArray[np.float64]:
    """Cells looked at for boxes [..., 4]."""
    sides = boxes[..., 2:] - boxes[..., :2] + around
    return np.asarray(sides[..., 0] * sides[..., 1], np.float64)


def _union(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def _box(row: Sequence[int] | NDArray[np.int64]) -> Box:
    top, left, bottom, right = (int(value) for value in row)
    return top, left, bottom, right


def _pixels(box: Box, cell: int) -> Box:
    return box[0] * cell, box[1] * cell, box[2] * cell, box[3] * cell


def _within(box: Box, limits: Box) -> Box:
    return max(box[0], limits[0]), max(box[1], limits[1]), min(box[2], limits[2]), min(box[3], limits[3])


def _grown(core: Box, halo: int, step: int) -> Box:
    """A core with its halo, on multiples of the stride."""
    low = (max(0, core[0] - halo) // step * step, max(0, core[1] - halo) // step * step)
    return *low, -(-(core[2] + halo) // step) * step, -(-(core[3] + halo) // step) * step


def _margins(core: Box, read: Box) -> Margins:
    return core[0] - read[0], core[1] - read[1], read[2] - core[2], read[3] - core[3]


def _of_pixels(cells: NDArray[np.bool_], cell: int, core: Box) -> NDArray[np.bool_]:
    """[y, x] of the pixels of a core, from the cells they lie in."""
    rows, cols = np.arange(core[0], core[2]) // cell, np.arange(core[1], core[3]) // cell
    return cells[np.ix_(rows, cols)]


def with_gate_section(card: str, spec: ModelSpec) -> str:
    """A card (Markdown) with a section on the gate after its other sections; one that is there is replaced."""
    card = re.sub(r"^(# \S+) [\w.+-]+(:.*)?$", rf"\1 {spec.version}\2", card, count=1, flags=re.MULTILINE)
    card = re.sub(rf"\n{GATE_HEADING}\n.*?(?=\n## |\Z)", "", card, flags=re.DOTALL)
    gate = spec.gate
    if gate is None:
        return card.rstrip() + "\n"
    looks = (
        "A light network looks at every place first, the network above only where the light one's score reaches "
        f"{gate.threshold:.4g}, and {gate.margin} cells of {gate.cell} pixels around it. There the scores are as they "
        "were, elsewhere they are 0. `--no-gate` looks everywhere."
    )
    chosen = (
        f"The threshold was chosen to keep {gate.recall:.1%} of what the network itself finds, on {gate.data}. That "
        "says nothing of sites that the network misses; where the country looks different, more may be lost: compare "
        "with `--no-gate` on a part of it."
    )
    lines = [GATE_HEADING, "", fill(looks, 118), "", fill(chosen, 118)]
    if gate.metrics:
        lines += ["", "| | |", "|---|---|"]
        lines += [f"| {name.replace('_', ' ')} | {_told(value)} |" for name, value in gate.metrics.items()]
    return card.rstrip() + "\n\n" + "\n".join(lines) + "\n"


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def gate_facts(package: ModelPackage, *, used: bool) -> dict[str, float | None]:
    """What provenance says of the gate; None where all was looked at."""
    gate = package.spec.gate if used else None
    return {
        "gate_threshold": None if gate is None else gate.threshold,
        "gate_recall": None if gate is None else gate.recall,
    }


def gate_faults(spec: ModelSpec) -> list[str]:
    """Why a package's gate does not go with its network."""
    return [] if spec.gate is None else spec.gate.faults(spec.tile, spec.halo, spec.stride)
