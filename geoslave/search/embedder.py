"""Chips as vectors: what a network's encoder sees in them, and their plain colours and texture.

A trained encoder knows shapes; percentiles of colour and local contrast know materials (bare soil, water,
ash), and texture (geoslave.search.texture) what is rough, straight or patchy. They stand side by side in one
vector of at most 512 numbers: 1 kB a chip in half precision. An encoder that learned one kind of site knows little of
others; one that learned to tell a thousand kinds of things in photographs, the embedder `imagenet-lite0`, finds them
sooner (docs/search.md). Colours and texture alone are the embedder `plain`, in 412 bytes.

Any ONNX graph can be the encoder: a folder with `model.onnx` and `embedder.json`, which says in a model
package's words what the graph takes: {"name", "version", "bands", "gsd_m", "scaling", "stride"}; with "side" chips
of any size are brought to that many pixels first; with "core" too, the graph takes larger pictures and gives a vector
for each window of `side` pixels, `core` apart. Chips of an index overlap: so nothing is computed twice.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.ndimage import uniform_filter

from geoslave.errors import ModelError
from geoslave.imagery.raster import Raster
from geoslave.imagery.scaling import Scaling, scale
from geoslave.model.encoder import Encoder
from geoslave.model.package import EMBEDDER, model_folders, open_package
from geoslave.model.predict import usable_cores
from geoslave.search.texture import texture
from geoslave.search.windows import Lattice, alone, boxes, percentiles

LONGEST = 512
"""Numbers in a vector, at most."""
FORMAT = 4
"""Changes when the same chip would get another vector."""
PERCENTILES = (2, 10, 25, 50, 75, 90, 98)
_EXTREMES = (0, 1, 5, 50, 95, 99, 100)
_SURROUNDINGS = ((1, 5), (3, 9), (7, 21))
"""Sides of a square and of the larger one around it, in pixels."""
RIM = max(outer for _, outer in _SURROUNDINGS) // 2
"""Pixels around a chip that have a part in its contrasts; mirrored where they are not there."""
_SEEN_AROUND = 2
"""Steps of the chips' lattice around a picture that a graph sees too: from there on its edge hardly shows."""
_SIDE_BY_SIDE = 4
"""Pictures at once, at most: each takes some 500 MB."""
_BATCH = 16
"""Chips at once: more fall out of a processor's cache."""
_TILE = 8
"""Chips along a side of what colours and texture are computed for at once."""
_BANDS_IN_FULL = 4
_OF_SEGMENTATION = 0.15
"""Emphasis of an encoder that learned one kind of site: of other kinds colours and texture know more."""
_OF_TEXTURE = 0.5
"""Emphasis of each descriptor of texture; colours and contrasts together have one."""
PLAIN = "plain"
"""Name of the embedder without a network."""
DEFAULT = "imagenet-lite0"
"""Name of the embedder that found most of what was tried."""
_FARTHEST = 6.0
"""Standard deviations beyond which a number says no more."""


class EmbedderSpec(BaseModel):
    """What an embedder takes: as a model package says it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: str = "0"
    bands: tuple[str, ...] = Field(min_length=1)
    """Common names, in the order the graph takes them."""
    gsd_m: float = Field(gt=0)
    scaling: Scaling = Scaling()
    stride: int = Field(default=16, gt=0)
    """Sides of chips are multiples of it."""
    side: int | None = Field(default=None, ge=8, le=512, exclude_if=lambda value: value is None)
    """Sides that the graph wants chips enlarged (or shrunk) to, in pixels. None: as they are."""
    core: int | None = Field(default=None, ge=1, le=512, exclude_if=lambda value: value is None)
    """Step from window to window of `side` pixels, where the graph gives a vector for each of them [n, window, number],
    row by row. None: it gives one for each picture."""
    emphasis: float = Field(default=1.0, gt=0)
    """Weight of what the graph sees beside the chips' colours and texture."""
    licence: str = "not stated"
    data: str = "not stated"


_PLAIN_SPEC = EmbedderSpec(
    name=PLAIN,
    bands=("red", "green", "blue"),
    gsd_m=10,
    stride=1,
    licence="Apache-2.0",
    data="none: nothing was trained",
)


class Embedder(Protocol):
    """Chips -> vectors."""

    spec: EmbedderSpec
    checksum: str
    """Changes when the vectors would."""
    dimensions: int
    emphasis: NDArray[np.float32]
    """[dimensions] weight of each number once all are brought to one spread."""
    side_by_side: int
    """Pictures that may be looked at at once, each by a thread of its own."""

    def __call__(self, scaled: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Raw vectors [n, dimensions] of chips brought to the network's range [n, band, y, x], valid [n, y, x].

        They are comparable number by number only; `standardised` makes them comparable as a whole.
        """
        ...

    def rim(self, lattice: Lattice) -> int:
        """Pixels around all windows that have a part in what `windows` sees."""
        ...

    def windows(
        self, scaled: NDArray[np.float32], valid: NDArray[np.bool_], lattice: Lattice, wanted: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """Raw vectors [n, dimensions] of the wanted [n] windows of a picture [band, y, x] with its rim, valid [y, x].

        Not quite those of the chips by themselves: what lies around a chip is seen too, not an edge. So an index
        holds vectors of one kind.
        """
        ...


class PlainEmbedder:
    """Colours and texture alone: no network."""

    def __init__(self, spec: EmbedderSpec, threads: int | None = None) -> None:
        self.spec = spec
        self.side_by_side = min(threads or usable_cores(), _SIDE_BY_SIDE)
        self.checksum = hashlib.sha256(_stated(spec)).hexdigest()
        self.emphasis = _emphasis(len(spec.bands))
        self.dimensions = len(self.emphasis)

    def __call__(self, scaled: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        return _plain_of_chips(scaled, valid)

    def rim(self, lattice: Lattice) -> int:
        return RIM

    def windows(
        self, scaled: NDArray[np.float32], valid: NDArray[np.bool_], lattice: Lattice, wanted: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        return _plain_of_windows(scaled, valid, lattice, wanted, RIM)


class OnnxEmbedder:
    """The encoder of an ONNX graph with the chips' colours and texture."""

    def __init__(self, spec: EmbedderSpec, onnx: Path, checksum: str, threads: int | None = None) -> None:
        self.spec = spec
        self.checksum = checksum
        threads = threads or usable_cores()
        self.side_by_side = min(threads, _SIDE_BY_SIDE)
        self._encoder = Encoder(onnx, len(spec.bands), threads // self.side_by_side)
        side = spec.side or 2 * spec.stride
        probe = self._deep(np.zeros((1, len(spec.bands), side, side), np.float32), np.ones((1, side, side), bool))
        beside = _emphasis(len(spec.bands))
        self._deep_seen = probe.shape[1]
        self._deep_kept = min(probe.shape[1], LONGEST - len(beside))
        self.dimensions = self._deep_kept + len(beside)
        self.emphasis = np.concatenate([_share(spec.emphasis, self._deep_kept), beside])

    def __call__(self, scaled: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        parts = range(0, len(scaled), _BATCH)
        deep = [self._deep(scaled[at : at + _BATCH], valid[at : at + _BATCH])[:, : self._deep_kept] for at in parts]
        return np.concatenate([np.concatenate(deep), _plain_of_chips(scaled, valid)], axis=1)

    def rim(self, lattice: Lattice) -> int:
        return max(RIM, _SEEN_AROUND * lattice.step + 1) if self._seen_at_once(lattice) else RIM

    def windows(
        self, scaled: NDArray[np.float32], valid: NDArray[np.bool_], lattice: Lattice, wanted: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        rim = self.rim(lattice)
        seen = self._seen_at_once(lattice)
        deep = (
            self._windows_at_once(scaled, valid, lattice, wanted, seen)
            if seen
            else self._one_by_one(scaled, valid, lattice, wanted)
        )
        return np.concatenate(
            [deep[:, : self._deep_kept], _plain_of_windows(scaled, valid, lattice, wanted, rim)], axis=1
        )

    def _seen_at_once(self, lattice: Lattice) -> int | None:
        """Sides of what the graph sees where it takes a whole picture: the chips', or half a pixel more or less around.

        None: chips do not stand to each other as the graph's own windows do.
        """
        core, side = self.spec.core, self.spec.side
        if core is None or side is None or lattice.step * side % core:
            return None
        seen = lattice.step * side // core
        return seen if abs(seen - lattice.side) <= 1 else None

    def _windows_at_once(
        self,
        scaled: NDArray[np.float32],
        valid: NDArray[np.bool_],
        lattice: Lattice,
        wanted: NDArray[np.intp],
        seen: int,
    ) -> NDArray[np.float32]:
        step, around = lattice.step, _SEEN_AROUND
        off = self.rim(lattice) - around * step - (seen - lattice.side) // 2
        picture = _filled(scaled, valid, step)
        unit = math.gcd(seen, step)
        becomes = unit * (self.spec.side or 1) // seen
        grid = np.zeros((lattice.rows, lattice.cols, self._deep_seen), np.float32)
        for rows, cols in boxes(_marked(lattice, wanted), around):
            some = replace(lattice.cut(rows, cols), side=seen)
            top, left = (off + part.start * step for part in (rows, cols))
            down, across = (side + 2 * around * step for side in some.shape)
            found = self._encoder(_resized(picture[:, top : top + down, left : left + across], unit, becomes)[None])[0]
            windows = found[0, :, :, 0].T.reshape(some.rows + 2 * around, some.cols + 2 * around, -1)
            grid[rows, cols] = windows[around : around + some.rows, around : around + some.cols]
        return grid.reshape(lattice.rows * lattice.cols, -1)[wanted]

    def _one_by_one(
        self, scaled: NDArray[np.float32], valid: NDArray[np.bool_], lattice: Lattice, wanted: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        found = []
        for start in range(0, len(wanted), _BATCH):
            corners = [(RIM + lattice.step * (at // lattice.cols), RIM + lattice.step * (at % lattice.cols))
                       for at in wanted[start : start + _BATCH]]  # fmt: skip
            places = [(slice(y, y + lattice.side), slice(x, x + lattice.side)) for y, x in corners]
            chips, seen = np.stack([scaled[:, *at] for at in places]), np.stack([valid[at] for at in places])
            found.append(self._deep(chips, seen))
        return np.concatenate(found)

    def _deep(self, scaled: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """[n, feature] of the encoder: the strongest answer of each channel of each stage, deepest first."""
        if self.spec.side:
            scaled = brought_to(self.spec.side, scaled, valid)
            valid = np.ones((len(scaled), *scaled.shape[2:]), bool)
        down, across = (-side % self.spec.stride for side in scaled.shape[2:])
        if down or across:
            scaled = np.pad(scaled, ((0, 0), (0, 0), (0, down), (0, across)))
            valid = np.pad(valid, ((0, 0), (0, down), (0, across)))
        return np.concatenate([_strongest(stage, valid) for stage in reversed(self._encoder(scaled))], axis=1)


def open_embedder(name_or_folder: str | Path, threads: int | None = None) -> Embedder:
    """The embedder of a model package or of a folder with `embedder.json` and `model.onnx`, by name or folder.

    `plain` is the one without a network: colours and texture of red, green and blue at 10 m.

    Raises:
        ModelError: if there is none, or it is damaged.
    """
    if str(name_or_folder) == PLAIN:
        return PlainEmbedder(_PLAIN_SPEC, threads)
    folder = Path(name_or_folder)
    places = [folder] if len(folder.parts) != 1 else [folder, *(place / folder for place in model_folders())]
    for place in places:
        if (place / EMBEDDER).is_file():
            return _described(place, threads)
    package = open_package(name_or_folder)
    spec = package.spec
    taken = EmbedderSpec(
        name=spec.name,
        version=spec.version,
        bands=spec.bands,
        gsd_m=spec.gsd_m,
        scaling=spec.scaling,
        stride=spec.stride,
        emphasis=_OF_SEGMENTATION,
        licence=spec.licence,
        data=spec.data,
    )
    return OnnxEmbedder(taken, package.onnx, _checksum(taken, package.onnx), threads)


def embed(embedder: Embedder, chips: Sequence[Raster], factor: ArrayLike, summand: ArrayLike) -> NDArray[np.float32]:
    """Raw vectors [n, d] of chips of one size, with their scene's scaling (`Scene.scaling`)."""
    if not chips:
        return np.zeros((0, embedder.dimensions), np.float32)
    clip = embedder.spec.scaling.clip
    scaled = np.stack([scale(chip.pixels, chip.valid, factor, summand, clip) for chip in chips])
    return embedder(scaled, np.stack([chip.valid for chip in chips]))


def brought_to(side: int, scaled: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Chips [n, band, y, x] as [n, band, side, side], cubic; what is not valid becomes its chip's mean before."""
    if not valid.all():
        seen = valid[:, None]
        mean = (scaled * seen).sum(axis=(2, 3), keepdims=True) / np.maximum(seen.sum(axis=(2, 3), keepdims=True), 1)
        scaled = np.where(seen, scaled, mean.astype(np.float32))
    rows, cols = scaled.shape[2:]
    if (rows, cols) == (side, side):
        return scaled
    return np.asarray(_cubic(rows, side) @ scaled @ _cubic(cols, side).T, np.float32)


def _resized(picture: NDArray[np.float32], unit: int, becomes: int) -> NDArray[np.float32]:
    """A picture [band, y, x] whose sides are multiples of a unit, cubic: each unit becomes so many pixels.

    Unit by unit, for a product with all weights at once would be mostly with zeros.
    """
    rim = math.ceil(2 * max(unit / becomes, 1))
    weights = _cubic(unit, becomes, rim)
    padded = np.pad(picture, ((0, 0), (rim, rim), (rim, rim)), mode="edge")
    bands, rows = padded.shape[:2]
    across = np.lib.stride_tricks.sliding_window_view(padded, unit + 2 * rim, axis=2)[:, :, ::unit]
    wide = across.transpose(0, 2, 1, 3) @ weights.T  # [band, unit, y, x]
    wide = wide.transpose(0, 2, 1, 3).reshape(bands, rows, -1)
    down = np.lib.stride_tricks.sliding_window_view(wide, unit + 2 * rim, axis=1)[:, ::unit]
    return np.asarray(weights @ down.transpose(0, 1, 3, 2), np.float32).reshape(bands, -1, wide.shape[2])


def _filled(scaled: NDArray[np.float32], valid: NDArray[np.bool_], step: int) -> NDArray[np.float32]:
    """A picture [band, y, x] whose pixels that are not valid become the mean of what is valid not far from them."""
    if valid.all():
        return scaled
    rows, cols = valid.shape
    cells = (-(-rows // step), -(-cols // step))
    more = ((0, 0), (0, cells[0] * step - rows), (0, cells[1] * step - cols))
    sums = np.pad(np.concatenate([scaled * valid, valid[None].astype(np.float32)]), more)
    sums = sums.reshape(len(sums), cells[0], step, cells[1], step).sum(axis=(2, 4))
    around = np.pad(sums, ((0, 0), (1, 1), (1, 1)))
    near = np.sum([around[:, y : y + cells[0], x : x + cells[1]] for y in range(3) for x in range(3)], axis=0)
    total = sums.sum(axis=(1, 2), keepdims=True)
    near = np.where(near[-1:] > 0, near, total)
    means = (near[:-1] / np.maximum(near[-1:], 1)).repeat(step, axis=1).repeat(step, axis=2)[:, :rows, :cols]
    return np.where(valid, scaled, means).astype(np.float32)


@lru_cache(maxsize=16)
def _cubic(before: int, after: int, rim: int = 0) -> NDArray[np.float32]:
    """[after, rim + before + rim] weights of cubic convolution (Keys 1981, a = -0.5), wider where it shrinks."""
    step = before / after
    width = max(step, 1.0)
    middle = (np.arange(after)[:, None] + 0.5) * step - 0.5
    x = np.abs(np.arange(-rim, before + rim)[None] - middle) / width
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _plain_of_chips(scaled: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    parts = [slice(at, at + _BATCH) for at in range(0, len(scaled), _BATCH)]
    return np.concatenate([plain(scaled[part], valid[part]) for part in parts])


def _plain_of_windows(
    scaled: NDArray[np.float32], valid: NDArray[np.bool_], lattice: Lattice, wanted: NDArray[np.intp], rim: int
) -> NDArray[np.float32]:
    """[n, feature] of the wanted windows of a picture [band, y, x] with a rim: by tiles, for a processor's cache."""
    numbers = np.zeros((lattice.rows, lattice.cols, len(_emphasis(len(scaled)))), np.float32)
    asked = _marked(lattice, wanted)
    for rows, cols in lattice.tiles(_TILE):
        if not asked[rows, cols].any():
            continue
        some = lattice.cut(rows, cols)
        top, left = (rim - RIM + part.start * lattice.step for part in (rows, cols))
        place = (slice(top, top + some.shape[0] + 2 * RIM), slice(left, left + some.shape[1] + 2 * RIM))
        found = plain(scaled[None, :, *place], valid[None, *place], some, RIM)
        numbers[rows, cols] = found.reshape(some.rows, some.cols, -1)
    return numbers.reshape(lattice.rows * lattice.cols, -1)[wanted]


def _marked(lattice: Lattice, wanted: NDArray[np.intp]) -> NDArray[np.bool_]:
    """[row, col] of a lattice: which windows are wanted."""
    marked = np.zeros(lattice.rows * lattice.cols, bool)
    marked[wanted] = True
    return marked.reshape(lattice.rows, lattice.cols)


def plain(
    scaled: NDArray[np.float32], valid: NDArray[np.bool_], lattice: Lattice | None = None, rim: int = 0
) -> NDArray[np.float32]:
    """[window, feature] of pictures [n, band, y, x] that needs no network: `look`, then `texture`.

    Args:
        lattice: the windows of a picture; None: it is one chip.
        rim: pixels of each picture around all its windows.
    """
    rows, cols = scaled.shape[2] - rim, scaled.shape[3] - rim
    display = np.maximum((scaled + 1) / 2, 0)
    inner = texture(display[:, :, rim:rows, rim:cols], valid[:, rim:rows, rim:cols], lattice)
    return np.concatenate([look(scaled, valid, lattice, rim), *inner], axis=1)


def look(
    scaled: NDArray[np.float32], valid: NDArray[np.bool_], lattice: Lattice | None = None, rim: int = 0
) -> NDArray[np.float32]:
    """Colour and texture [window, feature] of pictures [n, band, y, x].

    Percentiles of each band, of its share of all bands, of brightness and of local change; and of what is
    brighter or of another colour than its surroundings, at three sizes: a small site in a large chip shows in
    these alone. Of more than four bands only the bands themselves, the change and the brightness' contrast.
    """
    lattice = lattice or alone(scaled.shape[-1])
    rows, cols = scaled.shape[2] - rim, scaled.shape[3] - rim
    seen = None if valid.all() else valid[:, rim:rows, rim:cols]
    display = np.maximum((scaled + 1) / 2, 0)
    few = scaled.shape[1] <= _BANDS_IN_FULL
    brightness = display.mean(axis=1, keepdims=True)
    shares = display / (display.sum(axis=1, keepdims=True) + np.float32(0.15))
    steps = np.abs(np.diff(brightness, axis=2))[..., :-1] + np.abs(np.diff(brightness, axis=3))[:, :, :-1]
    change = np.pad(steps, ((0, 0), (0, 0), (0, 1), (0, 1)), mode="edge")
    planes = [display, shares, brightness, change] if few else [display, change]
    own = np.concatenate([plane[:, :, rim:rows, rim:cols] for plane in planes], axis=1)
    found = [percentiles(own, seen, PERCENTILES if few else (10, 50, 90), lattice)]
    parts = np.concatenate([brightness, shares[:, :3]] if few else [brightness], axis=1)
    found += [percentiles(one, seen, _EXTREMES, lattice) for one in _contrasts(parts, rim)]
    return np.concatenate(found, axis=1)


def _contrasts(planes: NDArray[np.float32], rim: int) -> Iterator[NDArray[np.float32]]:
    """Planes [n, plane, y, x] against their surroundings, without the rim; beyond it they are mirrored."""
    more = max(RIM - rim, 0)
    less = max(rim - RIM, 0)
    wide = planes[:, :, less : planes.shape[2] - less, less : planes.shape[3] - less]
    if more:
        wide = np.pad(wide, ((0, 0), (0, 0), (more, more), (more, more)), mode="symmetric")
    for sides in _SURROUNDINGS:
        inner, outer = (wide if side == 1 else uniform_filter(wide, (0, 0, side, side)) for side in sides)
        yield _without(inner - outer, RIM)


def _without(planes: NDArray[np.float32], rim: int) -> NDArray[np.float32]:
    return planes[:, :, rim : planes.shape[2] - rim, rim : planes.shape[3] - rim] if rim else planes


def standardised(
    raw: NDArray[np.floating[Any]],
    centre: NDArray[np.float32],
    spread: NDArray[np.float32],
    emphasis: NDArray[np.float32] | float = 1.0,
) -> NDArray[np.float32]:
    """Vectors [n, d] of length one whose numbers have one spread, but for their emphasis: the form an index holds."""
    alike = np.clip((raw.astype(np.float32) - centre) / spread, -_FARTHEST, _FARTHEST) * emphasis
    length = np.sqrt((alike**2).sum(axis=1, keepdims=True))
    return (alike / np.maximum(length, 1e-9)).astype(np.float32)


def _strongest(stage: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[n, channel] highest value of a stage [n, channel, y, x] over its valid cells: a small site fills few of them."""
    if valid.all():
        return stage.max(axis=(2, 3))
    rows, cols = stage.shape[2:]
    y = (np.arange(rows) * valid.shape[1] + valid.shape[1] // 2) // rows
    x = (np.arange(cols) * valid.shape[2] + valid.shape[2] // 2) // cols
    seen = valid[:, y][:, :, x]
    seen[~seen.any(axis=(1, 2))] = True  # no cell's middle is valid: all of them, rather than none
    strongest: NDArray[np.float32] = np.where(seen[:, None], stage, -np.inf).max(axis=(2, 3))
    return strongest


def _described(folder: Path, threads: int | None) -> OnnxEmbedder:
    path = folder / EMBEDDER
    try:
        spec = EmbedderSpec.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        cause = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else " ".join(str(error).split())
        raise ModelError(f"{path} is not valid ({cause}): it needs name, bands, gsd_m and scaling") from error
    onnx = folder / "model.onnx"
    if not onnx.is_file():
        raise ModelError(f"{onnx} is missing: an embedder is a folder with {EMBEDDER} and model.onnx")
    return OnnxEmbedder(spec, onnx, _checksum(spec, onnx), threads)


@lru_cache(maxsize=16)
def _emphasis(bands: int) -> NDArray[np.float32]:
    """[feature] weights of the numbers of `plain`."""
    chip, whole = np.zeros((1, bands, 8, 8), np.float32), np.ones((1, 8, 8), bool)
    parts = [_share(_OF_TEXTURE, one.shape[1]) for one in texture(chip, whole)]
    return np.concatenate([_share(1.0, look(chip, whole).shape[1]), *parts])


def _share(of_all: float, n: int) -> NDArray[np.float32]:
    """[n] weights of numbers that share an emphasis."""
    return np.full(n, np.sqrt(of_all / max(n, 1)), np.float32)


def _stated(spec: EmbedderSpec) -> bytes:
    return json.dumps([FORMAT, spec.model_dump(mode="json")], sort_keys=True).encode()


def _checksum(spec: EmbedderSpec, onnx: Path) -> str:
    mark = hashlib.sha256(_stated(spec))
    mark.update(onnx.read_bytes())
    return mark.hexdigest()
