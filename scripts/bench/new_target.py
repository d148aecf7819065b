"""A kind of site that nobody has labelled: clicks until 80 % are found, by ranking, by chance, by doubt alone.

    uv run --all-extras scripts/bench/new_target.py --quick    kilns among 2,000 chips, within a minute
    uv run --all-extras scripts/bench/new_target.py            all haystacks, a query over 1,000,000 chips, the chart

A simulated reviewer starts from five known places and answers pages of twenty as the labels say; everything
else is what a person would use (pages as a campaign draws them: 70 % likely, 20 % uncertain, 10 % at random;
half at random once likely chips bring nothing). Each haystack is seen by what an index takes where nobody asks
for another, a network trained on ImageNet's photographs (--embedder NAME: another), or (--plain) by colours
and texture alone. But what stands in a vector and its weight were chosen while looking at haystacks: colours
at the kilns', texture and the network's stages at half the galleries of mines (haystacks.LOOKED_AT), stages
and pooling at the buildings too; what a change of light does to a place, the shares of a page and how fast
likeness fades at all of them. `mines_of_other_galleries` are of the other half: the nearest to a kind of site
that nobody looked at.

Clicks count the five examples and the audit. A campaign that has not found 80 % after half of all chips counts
with these, and how many gave up so is told. Random looking needs k (n + 1) / (s + 1) clicks for k of s sites
among n chips, in the mean. How far any labels could lead with these vectors is told too (`ceiling`).

F1 is of chips: half of them are searched, the classifier judges the other half at its best threshold, after
100 clicks and with every label of its half. It is no segmentation: that is trained by `geoslave search train`.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from common import say
from haystacks import Haystack, banepa_index, buildings, kilns, large_buildings, mines
from numpy.typing import NDArray

from geoslave.imagery.scaling import Radiometry, coefficients, scene_statistics
from geoslave.search.embedder import DEFAULT, PLAIN, open_embedder, standardised
from geoslave.search.ranking import Answers, fit, learn_background, next_page
from geoslave.search.remaining import AuditDraw, audit_share, remaining

PAGE = 20
EXAMPLES = 5
SHARE = 0.8
MAKERS = {"kilns": kilns, "mines": mines, "mines_of_other_galleries": partial(mines, not_looked_at=True),
          "buildings": buildings, "large_buildings": large_buildings}  # fmt: skip
INDEXED = "buildings_through_index"
MAKERS[INDEXED] = lambda: replace(buildings(), name=INDEXED)
ASIDE = ("large_buildings", INDEXED)
"""Haystacks that are measured only where they are asked for: of no one kind, and the same again."""
_BATCH = 64


@dataclass(frozen=True)
class Vectors:
    """A haystack as an index holds it."""

    vectors: NDArray[np.float16]
    site: NDArray[np.bool_]
    places: NDArray[np.float64]


def embedded(haystack: Haystack, model: str, cache: Path | None) -> Vectors:
    """Vectors of all chips; the haystack is one scene, with one scaling."""
    kept = None if cache is None else cache / f"{haystack.name}-{Path(model).name}-{len(haystack.site)}.npy"
    if kept is not None and kept.is_file():
        raw, emphasis = np.load(kept), open_embedder(model, threads=1).emphasis
    else:
        embedder = open_embedder(model, threads=len(os.sched_getaffinity(0)))
        emphasis, unit, clip = embedder.emphasis, Radiometry((1 / 255,) * 3, (0.0,) * 3), embedder.spec.scaling.clip
        sample = haystack.chips[::3].transpose(1, 0, 2, 3).reshape(3, 1, -1)
        statistics = scene_statistics(sample, np.ones(sample.shape[1:], bool), unit, embedder.spec.scaling)
        factor, summand = coefficients(unit, statistics, embedder.spec.scaling)
        parts = []
        for start in range(0, len(haystack.site), _BATCH):
            chips = haystack.chips[start : start + _BATCH].astype(np.float32)
            scaled = np.clip(chips * factor[:, None, None] + summand[:, None, None], *clip)
            parts.append(embedder(scaled, np.ones((len(scaled), *scaled.shape[2:]), bool)))
        raw = np.concatenate(parts).astype(np.float16)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.save(kept, raw)
    values = raw.astype(np.float32)
    ready = standardised(values, values.mean(axis=0), np.maximum(values.std(axis=0), 1e-4), emphasis)
    return Vectors(ready.astype(np.float16), haystack.site, haystack.places)


class Reviewer:
    """Answers page after page as the labels say, beginning with five known places."""

    def __init__(self, on: Vectors, seed: int) -> None:
        self.on, self.background = on, learn_background(on.vectors)
        rng = np.random.default_rng(seed)
        self.known = {int(row): True for row in rng.choice(np.flatnonzero(on.site), EXAMPLES, replace=False)}
        self.likely: list[bool] = []

    def page(self, size: int, seed: int, *, doubt: bool = False) -> list[bool]:
        """Whether each chip of the next page was a site."""
        how = {"audit_share": 0.0, "uncertain_share": 1.0} if doubt else {"audit_share": audit_share(self.likely)}
        page = next_page(self.on.vectors, self.on.places, Answers.of(self.known), size, seed=seed,
                         background=self.background, apart_m=0, **how)  # fmt: skip
        told = [bool(self.on.site[row]) for row in page.rows]
        self.known |= {int(row): site for row, site in zip(page.rows, told, strict=True)}
        self.likely += [site for site, why in zip(told, page.how, strict=True) if why == "likely"]
        return told


def through_index(model: str) -> Vectors:
    """Buildings as an index holds them: chips of a mosaic, seen at once with what lies around each."""
    with tempfile.TemporaryDirectory() as folder:
        index, site = banepa_index(Path(folder), open_embedder(model))
        corners = index.chips.geometry.bounds[["minx", "miny"]].to_numpy()
        return Vectors(np.array(index.vectors), site, corners)


def search(on: Vectors, seed: int, most: int, *, doubt: bool = False) -> list[int]:
    """Sites found after each click, until 80 % are found or `most` clicks are made."""
    reviewer = Reviewer(on, seed)
    curve = list(range(1, EXAMPLES + 1))
    wanted = math.ceil(SHARE * on.site.sum())
    while curve[-1] < wanted and len(curve) < most:
        for site in reviewer.page(PAGE, seed * 100_003 + len(curve), doubt=doubt):
            curve.append(curve[-1] + site)
    return curve


def clicks_to(curve: list[int], wanted: int) -> int | None:
    at = int(np.searchsorted(curve, wanted))
    return at + 1 if at < len(curve) else None


def by_chance(chips: int, sites: int, wanted: int) -> float:
    return wanted * (chips + 1) / (sites + 1)


def f1_of_halves(on: Vectors, seed: int, clicks: int = 100) -> tuple[float, float]:
    """(best F1 on the other half after so many clicks, with all labels of the half)."""
    rng = np.random.default_rng(seed)
    half = np.zeros(len(on.site), bool)
    for kind in (True, False):
        rows = rng.permutation(np.flatnonzero(on.site == kind))
        half[rows[: len(rows) // 2]] = True
    here = Vectors(on.vectors[half], on.site[half], on.places[half])
    reviewer = Reviewer(here, seed)
    while len(reviewer.known) < clicks:
        reviewer.page(min(PAGE, clicks - len(reviewer.known)), seed * 7 + len(reviewer.known))
    everything = Answers(np.arange(len(here.site)), here.site)
    some, all_ = (
        fit(here.vectors, answers, reviewer.background) for answers in (Answers.of(reviewer.known), everything)
    )
    return tuple(best_f1(ranker.logits(on.vectors[~half]), on.site[~half]) for ranker in (some, all_))


def ceiling(on: Vectors, folds: int = 5) -> int:
    """Chips to look at until 80 % are found, in the order of rankings that know every label but the chip's own fold's.

    About what a campaign with these vectors and this classifier could come to, however it chose its chips.
    """
    rng = np.random.default_rng(0)
    fold = np.empty(len(on.site), int)
    for kind in (True, False):
        rows = rng.permutation(np.flatnonzero(on.site == kind))
        fold[rows] = np.arange(len(rows)) % folds
    score = np.empty(len(on.site), np.float32)
    for number in range(folds):
        own = fold == number
        known, site = on.vectors[~own], on.site[~own]
        ranker = fit(known, Answers(np.arange(len(site)), site), learn_background(known))
        score[own] = ranker.logits(on.vectors[own])
    found = np.cumsum(on.site[np.argsort(-score, kind="stable")])
    return int(np.searchsorted(found, math.ceil(SHARE * on.site.sum()))) + 1


def best_f1(score: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    hits = np.cumsum(truth[np.argsort(-score, kind="stable")])
    return float((2 * hits / (np.arange(1, len(truth) + 1) + truth.sum())).max())


def measured(haystack: Haystack, model: str, seeds: int, cache: Path | None) -> dict[str, object]:
    """All figures of a haystack."""
    began = time.perf_counter()
    on = through_index(model) if haystack.name == INDEXED else embedded(haystack, model, cache)
    seconds = time.perf_counter() - began
    n, sites = len(on.site), int(on.site.sum())
    wanted = math.ceil(SHARE * sites)
    chance = by_chance(n, sites, wanted)
    curves = [search(on, seed, int(0.5 * n)) for seed in range(seeds)]
    doubts = [search(on, seed, int(0.5 * n), doubt=True) for seed in range(max(1, seeds // 2))]
    clicks = [clicks_to(curve, wanted) or len(curve) for curve in curves]
    by_doubt = [clicks_to(curve, wanted) or len(curve) for curve in doubts]
    unfinished, unfinished_doubts = (sum(clicks_to(c, wanted) is None for c in some) for some in (curves, doubts))
    least = ceiling(on)
    f1 = np.array([f1_of_halves(on, seed) for seed in range(seeds)])
    print(f"{haystack.name}: {haystack.about}; seen by {model} ({n / max(seconds, 1e-9):,.0f} chips/s): "
          f"80 % after {'more than ' if unfinished else ''}{np.mean(clicks):,.0f} clicks ({min(clicks)} to "
          f"{max(clicks)}; {unfinished} of {seeds} campaigns gave up before), by chance {chance:,.0f}: "
          f"{np.mean(clicks) / chance:.1%} (ranked by all labels of other folds {least / chance:.1%}); "
          f"F1 at 100 clicks {f1[:, 0].mean():.3f}, with all labels {f1[:, 1].mean():.3f}", flush=True)  # fmt: skip
    return {
        "model": model, "chips": n, "sites": sites,
        "clicks_to_80": float(np.mean(clicks)), "clicks_to_80_random": chance,
        "campaigns": seeds, "campaigns_not_finished": unfinished,
        "chips_to_80_by_all_labels": least,
        "clicks_to_80_uncertainty": float(np.mean(by_doubt)),
        "campaigns_uncertainty": len(doubts), "campaigns_uncertainty_not_finished": unfinished_doubts,
        "f1_at_100_clicks": float(f1[:, 0].mean()), "f1_full": float(f1[:, 1].mean()),
        "curves": curves, "doubts": doubts,
    }  # fmt: skip


def query_ms(chips: int, numbers: int = 470, queries: int = 20) -> dict[str, float]:
    """Medians among so many chips, on disk as an index keeps them, of processor time (and of time on the clock).

    A whole query finds the chip of an example, fits, and ranks 200 chips, in an index that is open already and was
    asked once before: reading its table and placing its chips in a tree come once, when it is opened.
    """
    import geopandas as gpd
    import shapely

    from geoslave.search.campaign import as_answers, locate_examples, ranked
    from geoslave.search.index import ChipIndex, Settings, _write_graph

    rng = np.random.default_rng(0)
    mixing, kinds = rng.standard_normal((40, numbers)), rng.standard_normal((2_000, 40))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        out = np.lib.format.open_memmap(path, "w+", np.float16, (chips, numbers))
        for start in range(0, chips, 10_000):
            size = min(10_000, chips - start)
            inner = kinds[rng.integers(0, len(kinds), size)] + 0.6 * rng.standard_normal((size, 40))
            values = inner @ mixing + rng.standard_normal((size, numbers))
            out[start : start + size] = values / np.linalg.norm(values, axis=1, keepdims=True)
        out.flush()
        _write_graph(Path(folder), chips, lambda *_: None)
        number, side = np.arange(chips), 0.003
        east, north = 90 + side * (number % 2_000), 20 + side * (number // 2_000)
        facts = {"settings": Settings().model_dump(), "reading": {"gsd_m": 10.0},
                 "bounds": [90.0, 20.0, 90 + 2_000 * side, float(north.max()) + side]}  # fmt: skip
        table = gpd.GeoDataFrame({"chip_id": number.astype(str)}, crs=4326,
                                 geometry=shapely.box(east, north, east + side, north + side))  # fmt: skip
        index = ChipIndex(Path(folder), facts, table, np.load(path, mmap_mode="r"))
        whole, clock, near, found = [], [], [], []
        for row in [0, *rng.integers(0, chips, queries)]:
            place = gpd.GeoDataFrame(geometry=gpd.points_from_xy([east[row] + 0.001], [north[row] + 0.001]), crs=4326)
            began, began_clock = time.process_time(), time.perf_counter()
            answers = as_answers(index, locate_examples(index, place))
            table = ranked(index, answers, 200)
            whole.append(time.process_time() - began)
            clock.append(time.perf_counter() - began_clock)
            began = time.process_time()
            index.nearest(index.vectors[row].astype(np.float32), 200)
            near.append(time.process_time() - began)
            if len(found) < 5:  # every vector is looked at: seconds among a million
                best = np.argsort(-fit(index.vectors, answers, index.background).logits(index.vectors))[:200]
                found.append(np.isin(best, table["chip_id"].astype(int)).mean())
    return {"query_ms": 1_000 * float(np.median(whole[1:])), "of_it_nearest_ms": 1_000 * float(np.median(near[1:])),
            "query_ms_on_the_clock": 1_000 * float(np.median(clock[1:])), "query_chips": chips,
            "of_the_true_200_found": float(np.mean(found))}  # fmt: skip


def coverage(campaigns: int) -> dict[str, float]:
    """How often the interval of what remains holds the truth: at every round at once, and where a person stops.

    A person stops at the first round that might tempt: the last twenty likely chips without a site.
    """
    rng = np.random.default_rng(0)
    always, at_stop, width = [], [], []
    for _ in range(campaigns):
        chips, sites = int(rng.integers(500, 5_000)), int(rng.integers(0, 150))
        skill, rounds = float(rng.choice([1, 20, 200])), int(rng.integers(5, 40))
        site = np.zeros(chips, bool)
        site[rng.choice(chips, sites, replace=False)] = True
        seen, draws, likely, holds, stopped = np.zeros(chips, bool), [], [], True, False
        for _ in range(rounds):
            by_chance = round(PAGE * audit_share(likely))
            for row in rng.permutation(np.flatnonzero(~seen))[:by_chance]:
                draws.append(AuditDraw(int((~seen).sum()), int((seen & site).sum()), bool(site[row])))
                seen[row] = True
            left = np.flatnonzero(~seen)
            if not len(left):
                break
            weight = np.where(site[left], skill, 1.0)
            shown = rng.choice(left, min(PAGE - by_chance, len(left)), replace=False, p=weight / weight.sum())
            seen[shown] = True
            likely += site[shown].tolist()
            found = int((seen & site).sum())
            told = remaining(draws, chips, found, int((~seen).sum()))
            inside = told.low <= sites - found <= told.high
            holds &= inside
            if not stopped and len(likely) >= PAGE and not any(likely[-PAGE:]):
                stopped = True
                at_stop.append(inside)
        always.append(holds)
        width.append((told.high - told.low) / chips)
    return {"campaigns": campaigns, "coverage_at_every_round": float(np.mean(always)),
            "coverage_at_a_stop": float(np.mean(at_stop)), "median_width_share": float(np.median(width))}  # fmt: skip


def chart(results: dict[str, dict], path: Path) -> None:
    """Share of sites found by clicks: ranking, doubt alone, chance."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    across = min(2, len(results))
    down = -(-len(results) // across)
    figure, axes = plt.subplots(down, across, figsize=(5.2 * across, 3.7 * down + 0.6), squeeze=False, sharey=True)
    for spare in axes.flat[len(results) :]:
        spare.set_visible(False)
    for axis, (name, told) in zip(axes.flat, results.items(), strict=False):
        sites, chips = told["sites"], told["chips"]
        for curves, colour, label in ((told["curves"], "#c2185b", "ranking, with random chips"),
                                      (told["doubts"], "#1976d2", "the uncertain only")):  # fmt: skip
            for number, curve in enumerate(curves):
                axis.plot(np.arange(1, len(curve) + 1), 100 * np.array(curve) / sites, color=colour, lw=1.3,
                          alpha=0.75, label=label if number == 0 else None)  # fmt: skip
        clicks = np.linspace(1, chips, 200)
        axis.plot(clicks, 100 * clicks / chips, color="#616161", ls="--", lw=1.5, label="by chance, in the mean")
        tenth = told["clicks_to_80_random"] / 10
        axis.plot([tenth], [80], "v", color="#2e7d32", ms=9, label="target: a tenth of chance's clicks")
        axis.plot([told["chips_to_80_by_all_labels"]], [80], "D", color="#ef6c00", mfc="white", mew=1.8, ms=7,
                  label="ranked by all labels at once")  # fmt: skip
        axis.axhline(80, color="#bdbdbd", lw=0.8, zorder=0)
        axis.set_xscale("log")
        axis.set_xlim(5, chips)
        axis.set_ylim(0, 100)
        axis.set_title(f"{name.replace('_', ' ')}: {sites} among {chips:,} chips", fontsize=11)
        axis.set_xlabel("clicks (five examples included)")
        axis.grid(alpha=0.25, which="major")
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("sites found, %")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=10)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="kilns among 2,000 chips, within a minute")
    parser.add_argument("--haystack", action="append", choices=list(MAKERS), help="only these")
    parser.add_argument("--seeds", type=int, default=None, help="campaigns for each haystack")
    parser.add_argument("--cache", type=Path, help="keep vectors in this folder")
    parser.add_argument("--chart", type=Path, help="write the curves as a picture")
    parser.add_argument("--chips", type=int, default=None, help="chips of the query (1,000,000; --quick: 40,000)")
    parser.add_argument("--embedder", default=DEFAULT, help=f"what sees the chips ({DEFAULT})")
    parser.add_argument("--plain", action="store_true", help="colours and texture alone, without a network")
    parser.add_argument("--also-trained", action="store_true", help="kilns as kiln-s2 sees them too, which knows them")
    options = parser.parse_args()
    names = options.haystack or (["kilns"] if options.quick else [name for name in MAKERS if name not in ASIDE])
    seeds = options.seeds or (2 if options.quick else 5)
    results = {}
    for name in names:
        haystack = MAKERS[name]()
        results[name] = measured(haystack.cut(2_000) if options.quick else haystack,
                                 PLAIN if options.plain else options.embedder, seeds, options.cache)  # fmt: skip
    trained = measured(kilns(), "kiln-s2", seeds, options.cache) if options.also_trained else None
    covered = coverage(40 if options.quick else 1_000)
    print(f"the interval of what remains held the truth at every round in {covered['coverage_at_every_round']:.1%} "
          f"of {covered['campaigns']} campaigns")  # fmt: skip
    chips = options.chips or (40_000 if options.quick else 1_000_000)
    query = {key: round(value, 3) for key, value in query_ms(chips, queries=5 if options.quick else 20).items()}
    if options.chart:
        chart(results, options.chart)
    plain = {name: {k: v for k, v in told.items() if k not in ("curves", "doubts")} for name, told in results.items()}
    means = {key: round(float(np.mean([told[key] for told in plain.values()])), 4)
             for key in ("clicks_to_80", "clicks_to_80_random", "f1_at_100_clicks", "f1_full")}  # fmt: skip
    say({**means, **query, **covered, "haystacks": plain,
         "kilns_seen_by_a_model_of_kilns": None if trained is None else
         {k: v for k, v in trained.items() if k not in ("curves", "doubts")}})  # fmt: skip


if __name__ == "__main__":
    main()
