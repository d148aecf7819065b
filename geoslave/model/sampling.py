"""Drawing chips: every step's batch is made anew, from the seed and the step's number alone.

So a batch does not depend on when it is drawn, nor by whom (see `drawing`), and a training that is
taken up again sees the chips it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoslave.errors import GeoslaveError
from geoslave.labels.guess import MIDDLE, NONE, bareness
from geoslave.model.augment import (
    IGNORE,
    Floats,
    Patch,
    blotches,
    coarsen,
    cut,
    cut_square,
    degrade,
    display,
    draw_light,
    paste,
    scaled_in,
    stripes,
    uniform,
)
from geoslave.model.chip_pools import ChipPool, pick, running_shares
from geoslave.model.placed import TrainScene
from geoslave.model.recipe import TrainConfig
from geoslave.model.trainingdata import TrainingData

SAMPLE = 1_000
"""Values of a scene from which a chip's scaling is made."""
_NO_SITES = (np.empty((0, 2)), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Chip:
    """A chip as the network gets it."""

    patch: Patch
    """Scaled."""
    weak: tuple[int, int] | None = None
    """(class, 0 or 1) where only the whole chip is labelled."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step learns from."""

    imagery: Floats
    """[chip, band, y, x], scaled."""
    truth: NDArray[np.uint8]
    """[chip, y, x]: 0 none, 1 and up a class, IGNORE where nothing is learned."""
    valid: NDArray[np.bool_]
    """[chip, y, x]."""
    weak: NDArray[np.int8]
    """[chip, class]: 1 a site somewhere, 0 none, -1 not told by a weak label."""


def draw_batch(data: TrainingData, config: TrainConfig, step: int) -> Batch:
    """The chips of a step."""
    rng = np.random.default_rng([config.seed, step])
    sources = _sources(data, config)
    chips = [_draw(sources, data, config, rng) for _ in range(config.batch * config.accumulate)]
    weak = np.full((len(chips), len(config.class_names)), -1, np.int8)
    for row, chip in zip(weak, chips, strict=True):
        if chip.weak is not None:
            row[chip.weak[0]] = chip.weak[1]
    return Batch(
        np.stack([c.patch.pixels for c in chips]),
        np.stack([c.patch.truth for c in chips]),
        np.stack([c.patch.valid for c in chips]),
        weak,
    )


# --- one chip ------------------------------------------------------------------------------------


Drawn = Callable[[TrainingData, TrainConfig, np.random.Generator], Chip]


@dataclass(frozen=True, slots=True)
class _Sources:
    """What there is to draw from, with the running shares."""

    draw: Sequence[Drawn]
    running: NDArray[np.float64]


def _draw(sources: _Sources, data: TrainingData, config: TrainConfig, rng: np.random.Generator) -> Chip:
    """One chip, scaled."""
    chip = sources.draw[pick(sources.running, rng)](data, config, rng)
    if chip.weak is None and rng.random() < config.augmentation.paste_decoy and (data.scenes or data.rendered):
        chip = Chip(paste(chip.patch, _decoy(data, config, rng), _spot(config.chip, rng), rng))
    return Chip(_finished(chip.patch, config, rng), chip.weak)


def _sources(data: TrainingData, config: TrainConfig) -> _Sources:
    shares = config.shares
    there: list[tuple[bool, float, Drawn]] = [
        (bool(data.sites), shares.site, _near_site),
        (bool(data.scenes), shares.scene, _anywhere),
        (data.backgrounds is not None, shares.background, _background),
        (bool(data.rendered), shares.rendered, _from_rendered),
        (bool(data.weak), shares.weak, _weak_chip),
    ]
    weights = np.array([share for present, share, _ in there if present])
    if not weights.sum() > 0:
        raise GeoslaveError("'shares' leaves nothing to draw chips from: give a share to a source that is there")
    return _Sources([draw for present, _, draw in there if present], running_shares(weights))


def _finished(patch: Patch, config: TrainConfig, rng: np.random.Generator) -> Patch:
    """What haze, the sensor and the file did to it."""
    settings = config.augmentation
    pixels = coarsen(stripes(blotches(display(patch.pixels), rng, settings), rng, settings), rng, settings)
    pixels = degrade(pixels, rng, settings)
    np.clip(pixels, *config.scaling.clip, out=pixels)
    if patch.valid.all():
        return Patch(pixels, patch.truth, patch.valid)
    pixels *= patch.valid
    return Patch(pixels, np.where(patch.valid, patch.truth, np.uint8(IGNORE)), patch.valid)


def _near_site(data: TrainingData, config: TrainConfig, rng: np.random.Generator) -> Chip:
    """A chip with a site somewhere in it."""
    scene, centre = data.sites.draw(rng)
    return Chip(
        _with_site_pasted(_about(scene, centre, config, rng), data, config.augmentation.paste_site, config, rng)
    )


def _anywhere(data: TrainingData, config: TrainConfig, rng: np.random.Generator) -> Chip:
    """A chip of a scene, which may hang over its edge."""
    scene = _pick(data.scenes, rng)
    patch = _chip_at(scene, _place(scene, rng), config, rng)
    return Chip(_with_site_pasted(patch, data, config.augmentation.paste_site, config, rng))


def _from_rendered(data: TrainingData, config: TrainConfig, rng: np.random.Generator) -> Chip:
    if data.rendered_sites and rng.random() < 0.5:
        return Chip(_about(*data.rendered_sites.draw(rng), config, rng))
    scene = _pick(data.rendered, rng)
    return Chip(_chip_at(scene, _place(scene, rng), config, rng))


def _background(data: TrainingData, config: TrainConfig, rng: np.random.Generator) -> Chip:
    """A chip without sites, or with one from elsewhere pasted in."""
    assert data.backgrounds is not None
    scene = _background_scene(data.backgrounds, rng)
    patch = _chip_at(scene, _place(scene, rng, 0.2, 0.8), config, rng)
    return Chip(_with_site_pasted(patch, data, config.augmentation.paste, config, rng))


def _weak_chip(data: TrainingData, config: TrainConfig, rng: np.random.Generator) -> Chip:
    """A whole chip of which only is known whether a site is in it; turned by quarters, so that none is lost."""
    pool = data.weak[int(rng.integers(len(data.weak)))]
    assert pool.label is not None
    chosen = pool.draw(rng)
    scene = chip_scene(pool, chosen, rng)
    scene = replace(scene, patch=replace(scene.patch, truth=_guessed(pool, chosen, scene.patch)))
    middle = (np.array(scene.patch.truth.shape) - 1) / 2
    # odd margins would be rounded away: the chip is laid to whole pixels
    square = cut_square(scene.patch, tuple(np.floor(middle) + ((config.chip - 1) / 2) % 1), config.chip,
                        int(rng.integers(4)), bool(rng.random() < 0.5))  # fmt: skip
    return Chip(_scaled(square, scene, config, rng), (pool.class_index, int(pool.label[chosen])))


def _guessed(pool: ChipPool, chosen: int, patch: Patch) -> NDArray[np.uint8]:
    """What is taught pixel by pixel about a weak chip: nothing, unless there is a rule to guess by."""
    assert pool.label is not None
    if pool.colours is None:
        return np.full_like(patch.truth, IGNORE)
    if not pool.label[chosen]:
        return np.zeros_like(patch.truth)
    bare = bareness(*(patch.pixels[band] for band in pool.colours))
    site = np.where(bare > MIDDLE, np.uint8(pool.class_index + 1), np.uint8(0))
    return np.where((bare > NONE) & (bare <= MIDDLE), np.uint8(IGNORE), site)


def chip_scene(pool: ChipPool, chosen: int, rng: np.random.Generator | None = None) -> TrainScene:
    """A chip of a pool as a tiny scene; with `rng`, half of the time with the statistics of its group."""
    stored = pool.chips[chosen].transpose(2, 0, 1)
    pixels, sample = display(np.ascontiguousarray(stored)), stored.reshape(len(stored), -1)
    if rng is not None and rng.random() < 0.5:
        sample = np.concatenate([sample[:, ::3], _of_group(pool, chosen, rng)], axis=1)
    # black may be water or missing imagery: chips do not tell, so both are seen in training
    shape = pixels.shape[1:]
    valid = np.any(pixels > 0, axis=0) if rng is not None and rng.random() < 0.5 else np.ones(shape, bool)
    truth = np.zeros(shape, np.uint8)
    return TrainScene(Patch(pixels, truth, valid), sample, *_NO_SITES, stretched=False)


def _background_scene(pool: ChipPool, rng: np.random.Generator) -> TrainScene:
    """A chip alone, as a tiny scene, or four of a group side by side; statistics of few or many chips."""
    first = pool.draw(rng)
    if rng.random() < 0.5:
        pixels = np.ascontiguousarray(pool.chips[first].transpose(2, 0, 1))
    else:
        pixels = _mosaic(pool.chips[[first, *_others(pool, first, 3, rng)]])
    sample = pixels.reshape(len(pixels), -1)[:, ::3]
    if rng.random() < 0.5:
        sample = np.concatenate([sample, _of_group(pool, first, rng)], axis=1)
    shape = pixels.shape[1:]
    valid = np.any(pixels > 0, axis=0) if rng.random() < 0.5 else np.ones(shape, bool)
    return TrainScene(Patch(pixels, np.zeros(shape, np.uint8), valid), sample, *_NO_SITES, stretched=False)


def _mosaic(four: NDArray[Any]) -> NDArray[Any]:
    """Four chips [chip, y, x, band] as a square [band, y, x]."""
    _, rows, cols, bands = four.shape
    return four.reshape(2, 2, rows, cols, bands).transpose(4, 0, 2, 1, 3).reshape(bands, 2 * rows, 2 * cols)


def _others(pool: ChipPool, chosen: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Chips of a chip's group."""
    group = pool.members[pool.group[chosen]]
    return group[rng.integers(len(group), size=count)]


def _of_group(pool: ChipPool, chosen: int, rng: np.random.Generator) -> NDArray[Any]:
    """Values [band, n] of other chips of a chip's group."""
    values = pool.chips[_others(pool, chosen, int(rng.integers(1, 12)), rng)]
    return values.reshape(-1, values.shape[3])[::3].T


# --- parts of a chip -----------------------------------------------------------------------------


def _about(scene: TrainScene, site: NDArray[np.float64], config: TrainConfig, rng: np.random.Generator) -> Patch:
    """A chip with a site somewhere in it."""
    reach = 0.4 * config.chip
    return _chip_at(scene, site + rng.uniform(-reach, reach, 2), config, rng)


def _chip_at(scene: TrainScene, centre: NDArray[np.float64], config: TrainConfig, rng: np.random.Generator) -> Patch:
    chip = cut(scene.patch, (float(centre[0]), float(centre[1])), config.chip, rng, config.augmentation)
    return _scaled(chip, scene, config, rng)


def _with_site_pasted(
    patch: Patch, data: TrainingData, share: float, config: TrainConfig, rng: np.random.Generator
) -> Patch:
    """Sometimes with a site from another scene."""
    if not data.donors or rng.random() >= share:
        return patch
    scene, centre = data.donors.draw(rng)
    piece = _piece(scene, centre + rng.uniform(-4, 4, 2), int(rng.integers(18, 40)), config, rng)
    return paste(patch, piece, _spot(config.chip, rng), rng)


def _decoy(data: TrainingData, config: TrainConfig, rng: np.random.Generator) -> Patch:
    """A square without a site: what the disc shows of other sites is not learned."""
    if data.backgrounds is not None and rng.random() < 0.4:
        scene = _background_scene(data.backgrounds, rng)
    else:
        scene = _pick([*data.scenes, *data.rendered], rng)
    row, col = _place(scene, rng)
    piece = cut(scene.patch, (row, col), int(rng.integers(8, 40)), rng, config.augmentation)
    if piece.truth.any():  # a site cut in half is neither
        piece = replace(piece, valid=np.zeros_like(piece.valid))
    return _scaled(piece, scene, config, rng)


def _piece(
    scene: TrainScene, centre: NDArray[np.float64], size: int, config: TrainConfig, rng: np.random.Generator
) -> Patch:
    """A square to paste, scaled."""
    piece = cut(scene.patch, (float(centre[0]), float(centre[1])), size, rng, config.augmentation)
    return _scaled(piece, scene, config, rng)


def _scaled(chip: Patch, scene: TrainScene, config: TrainConfig, rng: np.random.Generator) -> Patch:
    """Light and the one scaling, with the scene's statistics."""
    chosen = rng.integers(scene.sample.shape[1], size=SAMPLE)
    light = draw_light(len(scene.sample), scene.stretched, rng, config.augmentation)
    if not chip.valid.any():
        return Patch(np.zeros(chip.pixels.shape, np.float32), chip.truth, chip.valid)
    values, sample = display(chip.pixels).reshape(len(chip.pixels), -1), display(scene.sample.take(chosen, axis=1))
    pixels = scaled_in(light, values, sample, config.scaling, config.augmentation).reshape(chip.pixels.shape)
    if not chip.valid.all():
        pixels *= chip.valid
    return Patch(pixels, chip.truth, chip.valid)


def _place(scene: TrainScene, rng: np.random.Generator, low: float = 0, high: float = 1) -> NDArray[np.float64]:
    """A place (row, column) between shares of a scene's sides."""
    rows, cols = scene.patch.truth.shape
    return np.array([uniform(rng, low, high) * rows, uniform(rng, low, high) * cols])


def _spot(size: int, rng: np.random.Generator) -> tuple[int, int]:
    row, col = rng.integers(4, size - 4, 2)
    return int(row), int(col)


def _pick(scenes: Sequence[TrainScene], rng: np.random.Generator) -> TrainScene:
    return scenes[int(rng.integers(len(scenes)))]
