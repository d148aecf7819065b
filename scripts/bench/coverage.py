"""How often intervals of counts hold the truth, on five real frames with simulated detectors.

    uv run scripts/bench/coverage.py            every setting, 2,000 repetitions; about 10 minutes on one core
    uv run scripts/bench/coverage.py --quick    1,000 reviews only, half the repetitions, no reviewers who err; a minute
    ... --out docs                              also writes coverage.csv, coverage.png and coverage_table.md there

Simulated: each site is found with a recall of its tile, drawn from a beta distribution of mean .6, .85 or
.95 and concentration 2, which half of the tiles share with their block of 4 x 4 tiles: misses cluster. False
alarms fall at random, .01 or .05 a tile. 20 detectors a setting, 100 samples of each. The designs know
nothing of the detector: they assume recall .75 and precision .75 throughout. Samples of tiles are drawn
as counts of cells of like tiles (multivariate hypergeometric), which is the same and faster.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from geoslave.errors import EstimateError
from geoslave.estimate import sample
from geoslave.estimate.count import _pooled
from geoslave.estimate.intervals import Moments, compound, fay_feuer, wald
from geoslave.estimate.reviewed import Sample
from geoslave.estimate.reviewers import Tally, draw_truths
from geoslave.estimate.tables import by_flagged, checked_frame

FRAMES = "ABCDE"
RECALLS = (0.6, 0.85, 0.95)
FALSE_ALARMS = (0.01, 0.05)
REVIEWS = (500, 1000, 1500)
CONCENTRATION, BLOCK = 2.0, 4
DETECTORS, QUICK_DETECTORS, DRAWS = 20, 10, 100
DEFAULT = "gamma"
METHODS = (
    DEFAULT,
    "census+audit, gamma",
    "gamma-poisson",
    "fay-feuer",
    "wald",
    "difference",
    "discount",
    "ppi",
    "random, gamma",
    "random, wald",
)
DISCOUNT_OFFSET = 0.1
"""Added to the flagged count, or DISCount could never draw an unflagged tile."""
REVIEWER_RUNS = 400
SENSITIVITY, SPECIFICITY, VOTES = 0.9, 0.95, 3


@dataclass(frozen=True)
class Setting:
    frame: str
    recall: float
    false_alarms: float
    n: int


class Score:
    """Coverage, half-width and bias of one method in one setting."""

    def __init__(self, truth: float) -> None:
        self.truth, self.rows = truth, []

    def add(self, value: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        self.rows.append(np.stack([value, low, high], -1))

    def facts(self) -> dict[str, float]:
        value, low, high = np.concatenate(self.rows).T
        return {
            "coverage": float(((low <= self.truth) & (self.truth <= high)).mean()),
            "half_width": float((high - low).mean() / 2 / self.truth),
            "bias": float(value.mean() / self.truth - 1),
            "repetitions": len(value),
        }


def detect(tiles: pd.DataFrame, recall: float, false_alarms: float, rng: np.random.Generator) -> tuple:
    """Hits and false alarms of each tile."""
    shape = (recall * CONCENTRATION, (1 - recall) * CONCENTRATION)
    _, block = np.unique((tiles["col"] // BLOCK) * 1_000_003 + tiles["row"] // BLOCK, return_inverse=True)
    shared = rng.beta(*shape, block.max() + 1)[block]
    own = rng.beta(*shape, len(tiles))
    of_tile = np.where(rng.random(len(tiles)) < 0.5, shared, own)
    return rng.binomial(tiles["n_sites"], of_tile), rng.poisson(false_alarms, len(tiles))


def drawn(labels: np.ndarray, cell: np.ndarray, n: dict[str, int], rng: np.random.Generator) -> Iterator[tuple]:
    """For each stratum: its size, its reviews, and [DRAWS, cells] how many tiles of each cell were drawn."""
    for name, reviews in n.items():
        there = np.bincount(cell[labels == name], minlength=cell.max() + 1)
        yield int(there.sum()), reviews, rng.multivariate_hypergeometric(there, reviews, DRAWS, method="marginals")


def moments_of(parts: list[tuple], counts: np.ndarray) -> Moments:
    """Sums of counts [cells] over the drawn tiles."""
    tiles, reviews = (np.array([part[k] for part in parts], float) for k in (0, 1))
    return Moments(tiles, reviews, *(np.stack([part[2] @ counts**power for part in parts], -1) for power in (1.0, 2.0)))


def plain_variance(moments: Moments) -> np.ndarray:
    n = moments.reviewed
    s2 = np.maximum(moments.sum2 - moments.sum1**2 / n, 0) / (n - 1)
    return (moments.weight * (moments.tiles - n) * s2).sum(-1)


def by_the_book(moments: Moments, sums: np.ndarray) -> tuple:
    weight = np.where(moments.sampled, moments.weight, 0)
    low, high = fay_feuer(moments.total - moments.certain, (weight**2 * sums).sum(-1), weight.max(-1))
    return moments.total, moments.certain + low, moments.certain + high


def run_setting(setting: Setting, tiles: pd.DataFrame, detectors: int) -> dict[str, dict[str, float]]:
    """Every method's coverage in one setting."""
    seed = [ord(setting.frame), int(setting.recall * 100), int(setting.false_alarms * 100), setting.n]
    rng = np.random.default_rng(seed)
    truth = float(tiles["n_sites"].sum())
    scores: dict[str, Score] = {}

    def add(name: str, value: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        scores.setdefault(name, Score(truth)).add(value, low, high)

    for _ in range(detectors):
        hits, alarms = detect(tiles, setting.recall, setting.false_alarms, rng)
        frame = checked_frame(pd.DataFrame({"tile_id": tiles["tile_id"], "n_flagged": hits + alarms}))
        sites = tiles["n_sites"].to_numpy()
        code = (sites * 64 + hits) * 64 + alarms
        kinds, cell = np.unique(code, return_inverse=True)
        x, yhat = (kinds // 4096).astype(float), (kinds // 64 % 64 + kinds % 64).astype(float)
        _stratified(add, frame, cell, x, yhat, setting.n, rng)
        _census(add, frame, cell, x, setting.n, rng)
        _random(add, frame, cell, x, yhat, setting.n, rng)
        _discount(add, cell, x, yhat + DISCOUNT_OFFSET, setting.n, rng)
    return {name: score.facts() for name, score in scores.items()}


def _stratified(add, frame, cell, x, yhat, n, rng) -> None:
    design = sample.stratified(frame, n, sample.Assumptions())
    shares = {stratum.name: stratum.reviews for stratum in design.strata}
    parts = list(drawn(by_flagged(frame["n_flagged"]).to_numpy(), cell, shares, rng))
    moments = moments_of(parts, x)
    add(DEFAULT, *compound(moments))
    add("gamma-poisson", *by_the_book(moments, moments.sum2))
    add("fay-feuer", *by_the_book(moments, moments.sum1))
    add("wald", moments.total, *wald(moments.total, plain_variance(moments)))
    errors = moments_of(parts, x - yhat)
    total = frame["n_flagged"].sum() + errors.total
    add("difference", total, *wald(total, plain_variance(errors)))


def _census(add, frame, cell, x, n, rng) -> None:
    try:
        design = sample.census(frame, n, sample.Assumptions())
    except EstimateError:
        return
    shares = {stratum.name: stratum.reviews for stratum in design.strata}
    labels = np.where(frame["n_flagged"] > 0, "flagged", "unflagged")
    add("census+audit, gamma", *compound(moments_of(list(drawn(labels, cell, shares, rng)), x)))


def _random(add, frame, cell, x, yhat, n, rng) -> None:
    parts = list(drawn(np.full(len(frame), "all"), cell, {"all": n}, rng))
    moments = moments_of(parts, x)
    add("random, gamma", *compound(moments))
    add("random, wald", moments.total, *wald(moments.total, plain_variance(moments)))
    _ppi(add, frame["n_flagged"].to_numpy(float), parts[0][2], x, yhat, n)


def _ppi(add, predicted, counts, x, yhat, n) -> None:
    """PPI++ with tuned trust; what was not reviewed is nearly the whole frame, and taken for it."""
    tiles = len(predicted)
    mean = {"y": counts @ x / n, "f": counts @ yhat / n}
    together = counts @ (x * yhat) / n - mean["y"] * mean["f"]
    lam = np.clip(together / ((1 + n / (tiles - n)) * predicted.var()), 0, 1)
    v_y, v_f = counts @ x**2 / n - mean["y"] ** 2, counts @ yhat**2 / n - mean["f"] ** 2
    variance = lam**2 * predicted.var() / (tiles - n) + (v_y - 2 * lam * together + lam**2 * v_f) / n
    rest = (predicted.sum() - mean["f"] * n) / (tiles - n)
    value = tiles * (lam * rest + mean["y"] - lam * mean["f"])
    add("ppi", value, *wald(value, tiles**2 * variance))


def _discount(add, cell, x, g, n, rng) -> None:
    there = np.bincount(cell, minlength=len(x)) * g
    counts = rng.multinomial(n, there / there.sum(), DRAWS)
    ratio = x / g
    mean = counts @ ratio / n
    spread = np.maximum(counts @ ratio**2 / n - mean**2, 0)
    value = there.sum() * mean
    add("discount", value, *wald(value, there.sum() ** 2 * spread / n))


def reviewers_who_err(name: str, tiles: pd.DataFrame, runs: int, n: int = 1000) -> dict[str, dict[str, float]]:
    """Tiles with a site, counted by reviewers who err: the default with all votes, and a majority taken for truth."""
    rng = np.random.default_rng([ord(name), 7])
    occupied = tiles["n_sites"].to_numpy() > 0
    scores = {"gamma, votes carried through": Score(occupied.sum()), "gamma, majority": Score(occupied.sum())}
    for run in range(runs):
        if run % 20 == 0:
            hits, alarms = detect(tiles, 0.85, 0.05, rng)
            frame = checked_frame(pd.DataFrame({"tile_id": tiles["tile_id"], "n_flagged": hits + alarms}))
            labels = by_flagged(frame["n_flagged"]).to_numpy()
            design = sample.stratified(frame, n, sample.Assumptions())
        chosen = [
            rng.choice(np.flatnonzero(labels == stratum.name), stratum.reviews, replace=False)
            for stratum in design.strata
        ]
        stratum = np.repeat(np.arange(len(chosen)), [len(part) for part in chosen])
        truth = occupied[np.concatenate(chosen)]
        votes = rng.random((len(truth), VOTES)) < np.where(truth, SENSITIVITY, 1 - SPECIFICITY)[:, None]
        names = tuple(part.name for part in design.strata)
        table = pd.DataFrame({"tile_id": np.arange(len(truth))})
        drawn_sample = Sample(table, stratum, names, np.array([float(s.tiles) for s in design.strata]), ())
        tally = Tally(votes.astype(float), np.ones(votes.shape), np.zeros(0))
        truths = draw_truths(tally, stratum, 100, seed=run)
        ends = _pooled(drawn_sample.moments(truths.astype(float)), 0.95)
        scores["gamma, votes carried through"].add(*(np.array([end]) for end in ends))
        majority = drawn_sample.moments((votes.sum(1) * 2 > VOTES).astype(float))
        scores["gamma, majority"].add(*(np.atleast_1d(end) for end in compound(majority)))
    return {method: score.facts() for method, score in scores.items()}


def load(name: str) -> pd.DataFrame:
    root = Path(os.environ.get("GEOSLAVE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    tiles = pd.read_csv(root / "site_frames" / f"frame_{name}.csv")
    return tiles.assign(tile_id=np.arange(len(tiles)).astype(str))


def summary(rows: list[dict], reviewers: dict[str, dict]) -> dict:
    """The figures the targets are about. Half-widths are compared with simple random sampling's normal interval."""
    table = pd.DataFrame(rows)
    default = table[table["method"] == DEFAULT].set_index(["frame", "recall", "false_alarms", "n"])
    plain = table[table["method"] == "random, wald"].set_index(default.index.names)
    ratio = default["half_width"] / plain["half_width"]
    large = default[default.index.get_level_values("n") >= 1000]
    small = default[default.index.get_level_values("n") == 500]
    facts = {
        "default_min_coverage": round(float(large["coverage"].min()), 4),
        "default_mean_coverage": round(float(default["coverage"].mean()), 4),
        "default_min_coverage_n500": round(float(small["coverage"].min()), 4) if len(small) else None,
        "halfwidth_vs_random": round(float(ratio.mean()), 3),
        "halfwidth_vs_random_by_recall": {
            str(r): round(float(v), 3) for r, v in ratio.groupby("recall").mean().items()
        },
        "halfwidth_vs_random_worst": round(float(ratio.max()), 3),
        "reviewers_who_err": reviewers,
    }
    keys = ["coverage", "half_width", "bias"]
    grouped = table.groupby(["method", "n"])
    means, least = grouped[keys].mean(), grouped["coverage"].min()
    facts["table"] = [
        {"method": m, "n": int(n), "min_coverage": round(float(least[m, n]), 4)}
        | {key: round(float(row[key]), 4) for key in keys}
        for (m, n), row in means.iterrows()
    ]
    return facts


def markdown(table: pd.DataFrame) -> str:
    """One row a method, a column for each n: least and mean coverage over the settings, mean half-width."""
    numbers = sorted(table["n"].unique())
    head = " | ".join(f"n = {n:,}: least / mean coverage, half-width" for n in numbers)
    lines = [f"| method | {head} |", "|---" * (len(numbers) + 1) + "|"]
    for method in METHODS:
        cells = []
        for n in numbers:
            part = table[(table["method"] == method) & (table["n"] == n)]
            told = f"{part['coverage'].min():.3f} / {part['coverage'].mean():.3f}, {part['half_width'].mean():.1%}"
            cells.append("not affordable" if part.empty else told + _settings(len(part), table))
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _settings(n: int, table: pd.DataFrame) -> str:
    every = len(table[["frame", "recall", "false_alarms"]].drop_duplicates())
    return "" if n == every else f" ({n} of {every} settings)"


def draw(table: pd.DataFrame, path: Path) -> None:
    """Each setting a dot: coverage on the left, half-width on the right."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from geoslave.charts import _STYLE, BLUE, GREY, ORANGE

    with rc_context(_STYLE):
        figure = Figure(figsize=(10, 6.2), dpi=160, facecolor="white", layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        rng = np.random.default_rng(0)
        for row, method in enumerate(METHODS):
            for n, marker in ((500, "o"), (1000, "s"), (1500, "^")):
                part = table[(table["method"] == method) & (table["n"] == n)]
                y = row + {500: -0.22, 1000: 0, 1500: 0.22}[n] + rng.uniform(-0.07, 0.07, len(part))
                bad = part["coverage"] < (0.92 if n == 500 else 0.94)
                colour = np.where(bad, ORANGE, BLUE if method == DEFAULT else GREY)
                for axes, values in ((left, part["coverage"]), (right, part["half_width"] * 100)):
                    axes.scatter(values, y, s=16, marker=marker, c=colour, alpha=0.75, linewidths=0)
        left.axvline(0.95, color="#1A1E24", linewidth=1.2)
        left.set(yticks=range(len(METHODS)), yticklabels=METHODS, xlabel="share of intervals that hold the truth")
        left.set_title("Coverage (nominal 0.95)")
        right.set_title("Half-width")
        right.set(xlabel="% of the true count", xlim=(0, 60))
        left.invert_yaxis()
        for n, marker in ((500, "o"), (1000, "s"), (1500, "^")):
            right.scatter([], [], s=30, marker=marker, c=GREY, label=f"{n:,} reviews")
        right.scatter([], [], s=30, c=ORANGE, label="below 0.94 (0.92 at 500)")
        right.scatter([], [], s=30, c=BLUE, label="the default, where it holds")
        figure.legend(loc="outside lower center", ncols=5, fontsize=10, handletextpad=0.2, columnspacing=1.2)
        figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    detectors = QUICK_DETECTORS if options.quick else DETECTORS
    rows, reviewers = [], {}
    for name in FRAMES:
        tiles = load(name)
        for recall in RECALLS:
            for false_alarms in FALSE_ALARMS:
                for n in (1000,) if options.quick else REVIEWS:
                    setting = Setting(name, recall, false_alarms, n)
                    for method, facts in run_setting(setting, tiles, detectors).items():
                        rows.append({**setting.__dict__, "method": method, **facts})
                    said = next(row for row in reversed(rows) if row["method"] == DEFAULT)
                    print(
                        f"{name}  recall {recall}  false alarms {false_alarms}  n {n:>5}  "
                        f"coverage {said['coverage']:.3f}  half-width {said['half_width']:.1%}",
                        flush=True,
                    )
        if not options.quick:
            reviewers[name] = reviewers_who_err(name, tiles, REVIEWER_RUNS)
            print(f"{name}  {reviewers[name]}", flush=True)
    facts = summary(rows, reviewers)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame(rows)
        table.to_csv(options.out / "coverage.csv", index=False, float_format="%.4f")
        draw(table, options.out / "coverage.png")
        (options.out / "coverage_table.md").write_text(markdown(table), encoding="utf-8")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
