"""Charts of agreement: precision against recall, and share of hits against confidence.

Plain values in, a PNG out; matplotlib is loaded when a chart is drawn. Colours are those of Okabe
and Ito (2008, "Color Universal Design"), told apart by colour-blind readers, and no series is told
apart by colour alone. Charts are 8 inches wide at 160 dpi and stay readable at 800 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from geoslave.errors import MissingExtra
from geoslave.files import atomic_file

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6B7079"
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")
_INK, _FAINT = "#1A1E24", "#D9DBDE"
_DPI = 160
_STYLE = {
    "font.size": 12,
    "axes.titlesize": 15,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 13,
    "axes.edgecolor": GREY,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 12,
}


class ReliabilityBin(Protocol):
    """Detections of like confidence, as `geoslave.detections.reliability` makes them."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def mean_confidence(self) -> float: ...
    @property
    def hit_rate(self) -> float: ...
    @property
    def hit_low(self) -> float: ...
    @property
    def hit_high(self) -> float: ...
    @property
    def n(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Curve:
    """Precision against recall, by rising recall, all in [0, 1]."""

    recall: Sequence[float]
    precision: Sequence[float]
    band_recall: Sequence[float] = ()
    band_low: Sequence[float] = ()
    band_high: Sequence[float] = ()
    """95 % interval of the highest precision at each recall or beyond; may be left out."""
    note: str = ""
    """Behind the curve's name, e.g. its average precision."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a user gets at one threshold; ends of intervals are None where there are none."""

    confidence: float
    recall: float
    precision: float
    recall_interval: tuple[float, float] | None = None
    precision_interval: tuple[float, float] | None = None


def require() -> None:
    """Make sure, before hours of work, that charts can be drawn.

    Raises:
        MissingExtra: without matplotlib.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingExtra("drawing charts", "charts") from None


def draw_precision_recall(
    path: Path,
    curves: Mapping[str, Curve],
    operating: OperatingPoint | None = None,
    title: str = "Precision and recall",
    *,
    subtitle: str = "",
    overwrite: bool = False,
) -> None:
    """Draw precision against recall with 95 % bands; grey lines are places of equal F1.

    A curve without points is named in the legend and not drawn; without any, the chart says so.

    Raises:
        MissingExtra: without matplotlib.
        OutputError: if `path` exists and `overwrite` is false, or it cannot be written.
    """
    key = (
        0.3 * (len(curves) + any(len(curve.band_recall) for curve in curves.values()) + (operating is not None)) + 0.15
    )
    with _chart(path, (8, 6.6 + key), overwrite) as figure:
        # the legend stands below: a curve may run anywhere
        share = 6.6 / (6.6 + key)
        axes = figure.add_axes((0.115, 1 - 0.885 * share, 0.85, 0.735 * share))
        axes.grid(visible=False)
        _iso_f1(axes)
        for number, (name, curve) in enumerate(curves.items()):
            _draw_curve(axes, f"{name}{', ' if curve.note else ''}{curve.note}", curve, number)
        if not any(len(curve.recall) for curve in curves.values()):
            _say(axes, "no detection, or no site: nothing to draw")
        if operating is not None:
            _draw_operating(axes, operating)
        _unit_axes(axes)
        axes.set_xlabel("Recall: share of the sites that were found")
        axes.set_ylabel("Precision: share of detections that are sites")
        _titled(figure, title, subtitle)
        if curves or operating:
            figure.legend(loc="lower left", bbox_to_anchor=(0.1, 0.005), handlelength=2.4)


def draw_reliability(
    path: Path,
    series: Mapping[str, Sequence[ReliabilityBin]],
    title: str = "Reliability of the confidence",
    *,
    subtitle: str = "",
    overwrite: bool = False,
) -> None:
    """Draw the share of hits against the confidence, bin by bin, with 95 % intervals; below, the n of each bin.

    Args:
        series: e.g. {"before": bins, "after": bins}; bins without a detection are left out.

    Raises:
        MissingExtra: without matplotlib.
        OutputError: if `path` exists and `overwrite` is false, or it cannot be written.
    """
    kept = {name: [b for b in bins if b.n] for name, bins in series.items()}
    with _chart(path, (8, 7.6), overwrite) as figure:
        strip = 0.075 * max(1, len(kept))
        axes = figure.add_axes((0.115, 0.135 + strip, 0.85, 0.73 - strip))
        below = figure.add_axes((0.115, 0.1, 0.85, strip), sharex=axes)
        axes.plot((0, 1), (0, 1), color=GREY, linewidth=1.5, linestyle=(0, (4, 3)), label="a confidence that holds")
        for number, (name, bins) in enumerate(kept.items()):
            _draw_bins(axes, name if len(kept) > 1 else "detections, 95 % interval", bins, number)
        if not any(kept.values()):
            _say(axes, "no detection: nothing to draw")
        _unit_axes(axes)
        axes.set_ylabel("Share that are sites")
        axes.tick_params(labelbottom=False)
        axes.legend(loc="upper left", framealpha=0.9, frameon=True, edgecolor="none")
        _draw_numbers(below, kept)
        _titled(figure, title, subtitle)


def draw_series(
    path: Path,
    dates: Sequence[Any],
    values: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    found: Sequence[int],
    title: str = "Sites over time",
    *,
    subtitle: str = "",
    overwrite: bool = False,
) -> None:
    """Draw counts at dates with their intervals, and beside them the bare number of detections.

    Raises:
        MissingExtra: without matplotlib.
        OutputError: if `path` exists and `overwrite` is false, or it cannot be written.
    """
    with _chart(path, (8, 4.8), overwrite) as figure:
        axes = figure.add_axes((0.115, 0.13, 0.85, 0.68))
        axes.fill_between(dates, low, high, color=BLUE, alpha=0.15, linewidth=0)
        axes.vlines(dates, low, high, color=BLUE, linewidth=2)
        axes.plot(dates, values, color=BLUE, marker="o", linewidth=2, label="corrected for misses, 95 % interval")
        axes.plot(dates, found, color=GREY, marker="s", linestyle="--", linewidth=1.5, label="detections, uncorrected")
        axes.set_ylim(0, max([*high, *found, 1]) * 1.12)
        axes.set_xticks(list(dates)[:: max(1, len(dates) // 6)])
        axes.set_ylabel("Sites")
        axes.legend(loc="lower right")
        _titled(figure, title, subtitle)


@contextmanager
def _chart(path: Path, inches: tuple[float, float], overwrite: bool) -> Iterator[Any]:
    """An empty figure that becomes a PNG at `path` when it is drawn."""
    require()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # no pyplot: it keeps every figure, and its state is shared by all who use it
    with rc_context(_STYLE), atomic_file(path, overwrite=overwrite) as draft:
        figure = Figure(figsize=inches, dpi=_DPI, facecolor="white")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(draft, format="png", dpi=_DPI)


def _titled(figure: Any, title: str, subtitle: str) -> None:
    height = figure.get_figheight()
    figure.text(0.115, 1 - 0.38 / height, title, fontsize=16, fontweight="bold", va="center")
    if subtitle:
        figure.text(0.115, 1 - 0.69 / height, subtitle, fontsize=12, color=GREY, va="center")


def _unit_axes(axes: Any) -> None:
    """Both axes from 0 to 1, with room for marks that stand on the border."""
    ticks = [k / 5 for k in range(6)]
    axes.set(xlim=(-0.015, 1.02), ylim=(-0.015, 1.03), xticks=ticks, yticks=ticks)


def _say(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color=GREY, fontsize=14, backgroundcolor="white")


def _iso_f1(axes: Any) -> None:
    """Faint lines along which F1 does not change, named where they leave the chart."""
    for f1 in (0.2, 0.4, 0.6, 0.8, 0.9):
        recall = [f1 / (2 - f1) + k / 200 * (1 - f1 / (2 - f1)) for k in range(201)]
        axes.plot(recall, [f1 * r / (2 * r - f1) for r in recall], color=_FAINT, linewidth=1.2, zorder=0.5)
        label = f"F1 {f1:g}" if f1 == 0.9 else f"{f1:g}"
        axes.annotate(
            label,
            (f1 / (2 - f1), 1.0),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=GREY,
            fontsize=10.5,
            annotation_clip=False,
        )


def _draw_curve(axes: Any, label: str, curve: Curve, number: int) -> None:
    colour = _COLOURS[number % len(_COLOURS)]
    if len(curve.band_recall):
        axes.fill_between(
            curve.band_recall,
            curve.band_low,
            curve.band_high,
            color=colour,
            alpha=0.16,
            linewidth=0,
            label="95 % interval" if number == 0 else None,
        )
    if len(curve.recall):
        style = _LINES[number % len(_LINES)]
        # a point stands for all recalls up to its own: precision steps before it
        axes.plot(
            [0.0, *curve.recall],
            [curve.precision[0], *curve.precision],
            color=colour,
            linewidth=2.4,
            linestyle=style,
            label=label,
            solid_joinstyle="round",
        )
    else:
        axes.plot([], [], color=colour, label=f"{label} (no points)")


def _draw_operating(axes: Any, point: OperatingPoint) -> None:
    """The operating point with the intervals of both rates as a cross."""
    bars = {}
    if point.recall_interval:
        low, high = point.recall_interval
        bars["xerr"] = [[max(0, point.recall - low)], [max(0, high - point.recall)]]
    if point.precision_interval:
        low, high = point.precision_interval
        bars["yerr"] = [[max(0, point.precision - low)], [max(0, high - point.precision)]]
    axes.errorbar(
        [point.recall],
        [point.precision],
        **bars,
        fmt="o",
        color=ORANGE,
        markersize=10,
        markeredgecolor="white",
        markeredgewidth=1.5,
        elinewidth=1.8,
        capsize=4,
        clip_on=False,
        zorder=5,
        label=f"at confidence {point.confidence:.2f}: precision {point.precision:.2f}, recall {point.recall:.2f}",
    )


def _draw_bins(axes: Any, label: str, bins: Sequence[ReliabilityBin], number: int) -> None:
    colour = _COLOURS[number % len(_COLOURS)]
    if not bins:
        axes.plot([], [], color=colour, label=f"{label} (no detection)")
        return
    x, y = [b.mean_confidence for b in bins], [b.hit_rate for b in bins]
    below = [max(0.0, b.hit_rate - b.hit_low) for b in bins]
    above = [max(0.0, b.hit_high - b.hit_rate) for b in bins]
    axes.errorbar(
        x,
        y,
        yerr=[below, above],
        fmt=_MARKERS[number % len(_MARKERS)],
        linestyle=_LINES[number % len(_LINES)],
        color=colour,
        linewidth=1.6,
        elinewidth=1.8,
        capsize=4,
        markersize=9,
        markeredgecolor="white",
        markeredgewidth=1.2,
        clip_on=False,
        zorder=4,
        label=label,
    )


def _draw_numbers(axes: Any, series: Mapping[str, Sequence[ReliabilityBin]]) -> None:
    """The bins as a strip for each series, from their lower to their upper end, with the n in each."""
    for number, bins in enumerate(series.values()):
        for place, b in enumerate(bins):
            width = b.high - b.low
            axes.barh(
                -number,
                width,
                left=b.low,
                height=0.72 if len(series) == 1 else 0.6,
                color=_COLOURS[number % len(_COLOURS)],
                alpha=0.95 if place % 2 else 0.72,
                edgecolor="white",
                linewidth=1.4,
            )
            if _fits(b):
                axes.text(
                    b.low + width / 2, -number - 0.02, f"{b.n:,}", ha="center", va="center", color="white", fontsize=11
                )
        _draw_beside(axes, [b for b in bins if not _fits(b)], -number + (0.36 if len(series) == 1 else 0.3))
    axes.set(xlabel="Confidence", ylim=(0.5 - len(series), 0.5))
    axes.set_yticks([-k for k in range(len(series))], [_lane(name, bins) for name, bins in series.items()])
    axes.tick_params(axis="y", length=0, labelsize=11)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)


def _fits(b: ReliabilityBin) -> bool:
    """The bin is wide enough to hold its number."""
    return b.high - b.low >= 0.0135 * len(f"{b.n:,}") + 0.004


def _draw_beside(axes: Any, bins: Sequence[ReliabilityBin], top: float) -> None:
    """The numbers of narrow bins above the strip, moved apart until they can be read."""
    if not bins:
        return
    middle = [(b.low + b.high) / 2 for b in bins]
    width = 0.013 * max(len(f"{b.n:,}") for b in bins) + 0.008
    for b, x, at in zip(bins, moved_apart(middle, width, most=1.02 - width / 2), middle, strict=True):
        axes.plot((at, x), (top, top + 0.1), color=GREY, linewidth=0.8, clip_on=False)
        axes.text(x, top + 0.11, f"{b.n:,}", ha="center", va="bottom", fontsize=9.5)


def moved_apart(middle: Sequence[float], width: float, most: float) -> list[float]:
    """Places for labels of one width near to their rising middles: none over another, none beyond `most`."""
    place = list(middle)
    for _ in range(100):
        for k in range(len(place) - 1):
            lacking = width - (place[k + 1] - place[k])
            if lacking > 0:
                place[k], place[k + 1] = place[k] - lacking / 2, place[k + 1] + lacking / 2
    for k in reversed(range(len(place))):  # what still stands too near, or beyond the border, makes room to the left
        place[k] = min(place[k], most)
        most = place[k] - width
    return place


def _lane(name: str, bins: Sequence[ReliabilityBin]) -> str:
    return f"{name}\nn = {sum(b.n for b in bins):,}"
