"""The picture of a training: how loss and figures went, and the chips it does worst and best on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from geoslave.files import atomic_file
from geoslave.model.augment import IGNORE, Floats, display
from geoslave.model.recipe import TrainConfig
from geoslave.model.sampling import chip_scene
from geoslave.model.train import TrainResult
from geoslave.model.trainingdata import TrainScene
from geoslave.model.validation import logits_of, scaled_whole, watched

TRUTH, FOUND, INK, FAINT = "#19d3ff", "#ff3db8", "#22303c", "#8895a1"
_SERIES = {"f1": ("F1, by object", "#c2410c"), "average_precision": ("average precision", "#0f766e"),
           "auc": ("AUC, by chip", "#6d28d9")}  # fmt: skip
_ROW = 6
_SCENES = 60
"""At most so many scenes are looked through for chips."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A chip as it is shown."""

    picture: Floats
    """[y, x, 3] in 0..1."""
    truth: NDArray[np.uint8]
    found: NDArray[np.bool_]
    agreement: float
    """Dice of truth and finding; of weak chips, how far the score is on the right side."""
    title: str


def draw_training(result: TrainResult, path: Path) -> Path:
    """Draw a training as PNG, replacing what is at `path`."""
    with matplotlib.rc_context({"font.size": 9.5, "axes.edgecolor": FAINT, "text.color": INK}):
        figure = _figure(result)
        FigureCanvasAgg(figure)
        with atomic_file(path, overwrite=True) as draft:
            figure.savefig(draft, dpi=110, facecolor="white")
    return path


def _figure(result: TrainResult) -> Figure:
    shown = _chips(result)
    rows = _rows(shown)
    height = 3.9 + 2.35 * len(rows)
    figure = Figure(figsize=(13, height), layout="constrained")
    parts = figure.subfigures(1 + len(rows), 1, height_ratios=[3.9] + [2.35] * len(rows), squeeze=False)[:, 0]
    _draw_curves(parts[0], result)
    for part, (title, chips) in zip(parts[1:], rows, strict=True):
        _draw_chips(part, title, chips)
    return figure


def _draw_curves(part: Any, result: TrainResult) -> None:
    config = result.config
    part.suptitle(_headline(result), x=0.012, ha="left", fontsize=13, fontweight="bold")
    several = bool(result.looks)
    axes = part.subplots(1, 2 if several else 1, squeeze=False)[0]
    step = np.arange(1, len(result.losses) + 1)
    loss = np.array(result.losses)
    axes[0].plot(step, loss, color=FAINT, linewidth=0.7, alpha=0.55)
    wide = max(1, min(50, len(loss) // 8))
    axes[0].plot(step[wide - 1 :], np.convolve(loss, np.ones(wide) / wide, "valid"), color=INK, linewidth=1.8)
    axes[0].set(title=f"Loss, and its mean over {wide} steps", xlabel="step", xlim=(0, len(loss)))
    axes[0].set_ylim(0, 1.05 * float(np.quantile(loss, 0.98)))
    if config.mine_at and result.n_backgrounds:
        for share in config.mine_at:
            axes[0].axvline(share * config.steps, color=FAINT, linestyle=":", linewidth=1)
        axes[0].plot([], [], color=FAINT, linestyle=":", linewidth=1, label="backgrounds scored anew")
        axes[0].legend(frameon=False, loc="upper right")
    if several:
        _draw_looks(axes[1], result)
    for ax in axes:
        ax.title.set(color=INK, ha="left", x=0, fontsize=10.5)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#e6eaee", linewidth=0.8)
        ax.tick_params(colors=INK)


def _draw_looks(ax: Any, result: TrainResult) -> None:
    """Figures on what was put aside; the best look is marked."""
    steps = [look["step"] for look in result.looks]
    best_step = None
    for name, (title, colour) in _SERIES.items():
        values = [look.get(name) for look in result.looks]
        if any(value is None for value in values):
            continue
        ax.plot(steps, values, color=colour, marker="o", markersize=3.5, linewidth=1.8, label=title)
        if result.best in values:
            best_step = steps[values.index(result.best)]
    if best_step is not None:
        ax.axvline(best_step, color=FAINT, linewidth=1, linestyle="--")
        left = best_step > len(result.losses) / 2
        ax.annotate("kept ", (best_step, 0.02), xytext=(-4 if left else 4, 0), textcoords="offset points",
                    color=FAINT, ha="right" if left else "left")  # fmt: skip
    ax.set(title="On what was put aside", xlabel="step", xlim=(0, len(result.losses)), ylim=(0, 1.08))
    ax.legend(frameon=False, loc="best")


def _headline(result: TrainResult) -> str:
    best = ""
    if result.best is not None:
        best = f", best {_SERIES[watched(result.config, result.data.validation)][0]}: {result.best:.3f}"
    return f"{result.config.name}: {len(result.losses):,} steps in {result.seconds / 60:.1f} minutes{best}"


def _rows(shown: Sequence[_Shown]) -> list[tuple[str, list[_Shown]]]:
    """The worst and the best chips, or all in one row where there are few."""
    ordered = sorted(shown, key=lambda chip: chip.agreement)
    if not ordered:
        return []
    if len(ordered) <= _ROW:
        return [("Chips, the worst first", ordered)]
    worst = ordered[: min(_ROW, len(ordered) // 2)]
    best = ordered[::-1][: min(_ROW, len(ordered) - len(worst))]
    return [("Worst chips", worst), ("Best chips", best)]


def _draw_chips(part: Any, title: str, chips: Sequence[_Shown]) -> None:
    part.suptitle(title, x=0.012, ha="left", fontsize=10.5)
    axes = part.subplots(1, _ROW, squeeze=False)[0]
    for ax in axes:
        ax.set_axis_off()
    for ax, chip in zip(axes, chips, strict=False):
        ax.imshow(chip.picture, interpolation="nearest")
        for mask, colour, style in ((chip.truth, TRUTH, "-"), (chip.found, FOUND, "-")):
            if (mask == 1).any() and not (mask == 1).all():
                ax.contour((mask == 1).astype(float), [0.5], colors=colour, linewidths=1.6, linestyles=style)
        ax.set_title(chip.title, fontsize=8.5, color=INK, loc="left", pad=3)
    lines = [Line2D([], [], color=TRUTH, lw=2, label="labelled"), Line2D([], [], color=FOUND, lw=2, label="found")]
    part.legend(handles=lines, loc="upper right", ncols=2, frameon=False, fontsize=9)


# --- which chips ---------------------------------------------------------------------------------


def _chips(result: TrainResult) -> list[_Shown]:
    """Chips of what was put aside; where nothing was, of what was trained on."""
    aside, data = result.data.validation, result.data
    scenes = [placed.scene for placed in aside.scenes] or ([] if aside.weak else list(data.scenes))
    shown = [chip for scene in _spread(scenes) for chip in _chips_of(scene, result, bool(aside.scenes))]
    return (
        shown
        or list(_weak_chips(result))
        or [chip for scene in data.rendered[:8] for chip in _chips_of(scene, result, False)]
    )


def _spread(scenes: Sequence[TrainScene]) -> Sequence[TrainScene]:
    return scenes[:: max(1, -(-len(scenes) // _SCENES))]


def _chips_of(scene: TrainScene, result: TrainResult, aside: bool) -> Iterator[_Shown]:
    """Squares of a scene in which something is labelled or found."""
    config = result.config
    rows, cols = scene.patch.truth.shape
    side = min(rows, cols, max(96, 2 * config.chip))
    scores = _scores(scaled_whole(scene, config), result)[0]
    threshold = config.publication.thresholds.high
    for top in range(0, rows - side + 1, side):
        for left in range(0, cols - side + 1, side):
            here = (slice(top, top + side), slice(left, left + side))
            known = scene.patch.truth[here] != IGNORE
            truth = ((scene.patch.truth[here] != 0) & known).astype(np.uint8)
            found = (scores[here] >= threshold) & scene.patch.valid[here]
            size = int(truth.sum()) + int((found & known).sum())
            if size < 6:
                continue
            dice = 2 * float((found & known & (truth == 1)).sum()) / size
            picture = _picture(scene.patch.pixels[:, *here], scene, config)
            what = "" if aside else "trained on, "
            yield _Shown(picture, truth, found, dice, f"{what}overlap {dice:.2f}")


def _weak_chips(result: TrainResult) -> Iterator[_Shown]:
    """Weak chips, with where the network sees the site."""
    config, device = result.config, torch.device("cpu")
    from geoslave.model.validation import chip_scores

    threshold = config.publication.thresholds.high
    for pool in result.data.validation.weak or result.data.weak:
        few = np.sort(np.random.default_rng(0).permutation(len(pool.chips))[:400])
        part = type(pool)(pool.chips[few], pool.group[few], pool.weight[few], [], np.asarray(pool.label)[few],
                          pool.class_index)  # fmt: skip
        score = chip_scores(result.network, part, config, device)
        right = np.where(np.asarray(part.label) == 1, score, 1 - score)
        order = np.argsort(right)
        for k in {*order[:_ROW].tolist(), *order[::-1][:_ROW].tolist()}:
            scene = chip_scene(part, k)
            scores = _scores(scaled_whole(scene, config), result)[pool.class_index]
            label = "site somewhere" if np.asarray(part.label)[k] == 1 else "no site"
            picture = _picture(scene.patch.pixels, scene, config)
            yield _Shown(picture, scene.patch.truth, scores >= threshold, float(right[k]),
                         f"{label}, score {score[k]:.2f}")  # fmt: skip


def _scores(scaled: Floats, result: TrainResult) -> Floats:
    """Scores [class, y, x] of a whole scene; the network is recentred already."""
    from geoslave.model.network import stride

    _, rows, cols = scaled.shape
    step = stride(result.config.architecture)
    padded = np.pad(scaled, ((0, 0), (0, -rows % step), (0, -cols % step)))[None]
    logits = logits_of(result.network, padded, result.config, torch.device("cpu"))
    scores: Floats = torch.sigmoid(logits)[0, :, :rows, :cols].numpy()
    return scores


def _picture(pixels: Floats | NDArray[np.uint8], scene: TrainScene, config: TrainConfig) -> Floats:
    """Red, green and blue (else the first band) [y, x, 3], stretched with the scene's statistics."""
    names = list(config.bands)
    bands = [names.index(c) for c in ("red", "green", "blue")] if {"red", "green", "blue"} <= set(names) else [0, 0, 0]
    low, high = np.percentile(display(scene.sample[bands]), (1, 99.5))  # of all bands together: colours stay
    return np.clip((display(pixels[bands]) - low) / max(float(high - low), 0.15), 0, 1).transpose(1, 2, 0)
