"""Chips as vectors: what a network's encoder sees in them, and their plain colours and texture.

A trained encoder knows shapes; percentiles of colour and local contrast know materials (bare soil, water,
ash), and texture (geoslave.search.texture) what is rough, straight or patchy. They stand side by side in one
vector of at most 512 numbers: 1 kB a chip in half precision. An encoder that learned one kind of site knows little of
others; one that learned to tell a thousand kinds of things in photographs, the embedder `imagenet-lite0`, finds them
sooner (docs/search.md). Colours and texture alone are the embedder `plain`, in 412 bytes.

Any ONNX graph can be the encoder: a folder with `model.onnx` and `embedder.json`, which says in a model
package's words what the graph takes: {"name", "version", "bands", "gsd_m", "scaling", "stride"}; with "side" chips
of any size are brought to that many pixels first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
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
from geoslave.search.texture import texture

LONGEST = 512
"""Numbers in a vector, at most."""
FORMAT = 3
"""Changes when the same chip would get another vector."""
PERCENTILES = (2, 10, 25, 50, 75, 90, 98)
_EXTREMES = (0, 1, 5, 50, 95, 99, 100)
_SURROUNDINGS = ((1, 5), (3, 9), (7, 21))
"""Sides of a square and of the larger one around it, in pixels."""
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

    def __call__(self, scaled: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Raw vectors [n, dimensions] of chips brought to the network's range [n, band, y, x], valid [n, y, x].

        They are comparable number by number only; `standardised` makes them comparable as a whole.
        """
        ...


class PlainEmbedder:
    """Colours and texture alone: no network."""

    def __init__(self, spec: EmbedderSpec) -> None:
        self.spec = spec
        self.checksum = hashlib.sha256(_stated(spec)).hexdigest()
        self.emphasis = _emphasis(len(spec.bands))
        self.dimensions = len(self.emphasis)

    def __call__(self, scaled: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        return plain(scaled, valid)


class OnnxEmbedder:
    """The encoder of an ONNX graph with the chips' colours and texture."""

    def __init__(self, spec: EmbedderSpec, onnx: Path, checksum: str, threads: int | None = None) -> None:
        self.spec = spec
        self.checksum = checksum
        self._encoder = Encoder(onnx, len(spec.bands), threads)
        side = spec.side or 2 * spec.stride
        probe = self._deep(np.zeros((1, len(spec.bands), side, side), np.float32), np.ones((1, side, side), bool))
        beside = _emphasis(len(spec.bands))
        self._deep_kept = min(probe.shape[1], LONGEST - len(beside))
        self.dimensions = self._deep_kept + len(beside)
        self.emphasis = np.concatenate([_share(spec.emphasis, self._deep_kept), beside])

    def __call__(self, scaled: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        deep = self._deep(scaled, valid)[:, : self._deep_kept]
        return np.concatenate([deep, plain(scaled, valid)], axis=1)

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
        return PlainEmbedder(_PLAIN_SPEC)
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


@lru_cache(maxsize=16)
def _cubic(before: int, after: int) -> NDArray[np.float32]:
    """[after, before] weights of cubic convolution (Keys 1981, a = -0.5), widened where pixels become fewer."""
    step = before / after
    width = max(step, 1.0)
    middle = (np.arange(after)[:, None] + 0.5) * step - 0.5
    x = np.abs(np.arange(before)[None] - middle) / width
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def plain(scaled: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[n, feature] of chips [n, band, y, x] that needs no network: `look`, then `texture`."""
    display = np.maximum((scaled + 1) / 2, 0)
    return np.concatenate([look(scaled, valid), *texture(display, valid)], axis=1)


def look(scaled: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Colour and texture [n, feature] of chips [n, band, y, x].

    Percentiles of each band, of its share of all bands, of brightness and of local change; and of what is
    brighter or of another colour than its surroundings, at three sizes: a small site in a large chip shows in
    these alone. Of more than four bands only the bands themselves, the change and the brightness' contrast.
    """
    display = np.maximum((scaled + 1) / 2, 0)
    few = scaled.shape[1] <= _BANDS_IN_FULL
    brightness = display.mean(axis=1, keepdims=True)
    shares = display / (display.sum(axis=1, keepdims=True) + 0.15)
    steps = np.abs(np.diff(brightness, axis=2))[..., :-1] + np.abs(np.diff(brightness, axis=3))[:, :, :-1]
    change = np.pad(steps, ((0, 0), (0, 0), (0, 1), (0, 1)), mode="edge")
    planes = [display, shares, brightness, change] if few else [display, change]
    own = _percentiles(np.concatenate(planes, axis=1), valid, PERCENTILES if few else (10, 50, 90))
    parts = [brightness, shares[:, :3]] if few else [brightness]
    return np.concatenate([own, _contrast(np.concatenate(parts, axis=1), valid)], axis=1)


def _contrast(planes: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[n, feature] of planes [n, plane, y, x] against their surroundings."""
    found = []
    for inner, outer in _SURROUNDINGS:
        means = [planes if side == 1 else uniform_filter(planes, (0, 0, side, side)) for side in (inner, outer)]
        found.append(_percentiles(means[0] - means[1], valid, _EXTREMES))
    return np.concatenate(found, axis=1)


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


def _percentiles(
    planes: NDArray[np.float32], valid: NDArray[np.bool_], percentiles: Sequence[int]
) -> NDArray[np.float32]:
    """[n, plane * percentile] of planes [n, plane, y, x] over valid pixels."""
    n, count = planes.shape[:2]
    flat = planes.reshape(n, count, -1)
    whole = valid.reshape(n, -1).all(axis=1)
    out = np.zeros((n, count, len(percentiles)), np.float32)
    if whole.any():
        out[whole] = _by_rank(flat[whole], percentiles)
    for row in np.flatnonzero(~whole & valid.reshape(n, -1).any(axis=1)):
        out[row] = _by_rank(flat[row][:, valid[row].ravel()], percentiles)
    return out.reshape(n, -1)


def _by_rank(values: NDArray[np.float32], percentiles: Sequence[int]) -> NDArray[np.float32]:
    """Nearest-rank percentiles along the last axis, which becomes the percentiles."""
    ranks = np.rint(np.asarray(percentiles) / 100 * (values.shape[-1] - 1)).astype(int)
    return np.sort(values, axis=-1)[..., ranks]  # in half the time that np.partition takes for so many ranks


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
