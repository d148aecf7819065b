"""Sites among many features: distances and clusters, matching across dates, and closures that are wrong.

    uv run scripts/bench/context.py            1,000,000 sites against 1,000,000 features; 100,000 x 100,000 matched
    uv run scripts/bench/context.py --quick    a tenth of each

Sites are boxes of 60 m, clustered in made towns over 800 x 800 km; features are a tenth schools (points), a tenth
rivers (lines) and the rest dwellings (points). Each part runs in a process of its own; its memory is that of the whole
process. Targets: enriched in under 60 s and 4 GB, matched in under 30 s, closures wrong below 5 % where plain
differencing is wrong in more than 30 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import date
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

from geoslave.detections.change import absences_needed, histories, match_optimally
from geoslave.detections.context import enrich

SIDE_M = 800_000
RECALLS = (0.8, 0.85, 0.95)


def places(n: int, rng: np.random.Generator) -> np.ndarray:
    """[n, 2] metres: half in towns, half anywhere."""
    towns = rng.uniform(0, SIDE_M, (max(n // 500, 1), 2))
    near = towns[rng.integers(0, len(towns), n // 2)] + rng.normal(0, 8_000, (n // 2, 2))
    return np.concatenate([near, rng.uniform(0, SIDE_M, (n - n // 2, 2))])


def degrees(metres: np.ndarray) -> np.ndarray:
    """On a made country around 80 degrees east, 24 degrees north."""
    return np.array([80.0, 20.0]) + metres / np.array([101_700.0, 110_800.0])


def boxes(metres: np.ndarray, side: float = 60) -> np.ndarray:
    low, high = degrees(metres - side / 2), degrees(metres + side / 2)
    return shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1])


def layer(shapes: np.ndarray) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(geometry=shapes, crs=4326)


def run_enrich(n: int) -> dict[str, float]:
    """Distances to three layers with n features together, and clusters."""
    rng = np.random.default_rng(1)
    sites = layer(boxes(places(n, rng)))
    start = degrees(places(n // 10, rng))
    # rivers of five corners, some kilometres long
    steps = rng.normal(0, 0.01, (len(start), 4, 2)).cumsum(1)
    lines = np.concatenate([start[:, None], start[:, None] + steps], axis=1)
    around = {
        "school": layer(shapely.points(degrees(places(n // 10, rng)))),
        "river": layer(shapely.linestrings(lines)),
        "dwelling": layer(shapely.points(degrees(places(n - n // 5, rng)))),
    }
    began = time.perf_counter()
    told = enrich(sites, around)
    seconds = time.perf_counter() - began
    assert len(told) == n and told["dwelling_m"].notna().mean() > 0.9
    return {"seconds": seconds}


def run_match(n: int) -> dict[str, float]:
    """Two dates: nine in ten sites found at each, moved by some metres, and as many false alarms as misses."""
    rng = np.random.default_rng(2)
    sites = places(n, rng)

    def seen() -> np.ndarray:
        found = sites[rng.random(n) < 0.9]
        return np.concatenate([found + rng.normal(0, 10, found.shape), places(n - len(found), rng)])

    a, b = boxes(seen()), boxes(seen())
    began = time.perf_counter()
    pairs = match_optimally(a, b)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "pairs": len(pairs.a)}


def closures(n: int, recall: float) -> dict[str, float]:
    """Eight years: a tenth of the sites closes, a quarter of the looks meets clouds, the detector misses some."""
    rng = np.random.default_rng(3)
    closing = np.where(rng.random(n) < 0.1, rng.integers(1, 7, n), 99)
    seen = rng.random((n, 8)) >= 0.25
    found = (np.arange(8) < closing[:, None]) & seen & (rng.random((n, 8)) < recall)
    ever = found.any(1)
    states = np.where(found, 1, np.where(seen, 0, -1)).astype(np.int8)[ever]
    standing = closing[ever] == 99
    plain = (states[:, :-1] == 1).any(1) & (states[:, -1] != 1)
    dates = [date(2015 + year, 1, 15) for year in range(8)]
    closed = (histories(states, dates, absences_needed(recall))["status"] == "closed").to_numpy()
    return {
        "closed_wrong": round(float(standing[closed].mean()), 4),
        "plain_wrong": round(float(standing[plain].mean()), 4),
        "closed_found": round(float((closed & ~standing).sum() / (~standing).sum()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", choices=("enrich", "match"), help=argparse.SUPPRESS)
    parser.add_argument("-n", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps({"enrich": run_enrich, "match": run_match}[options.part](options.n)))
        return
    from common import run_measured, say  # loads torch, whose memory is none of ours

    share = 10 if options.quick else 1
    facts: dict[str, object] = {}
    for part, n in (("enrich", 1_000_000 // share), ("match", 100_000 // share)):
        done = run_measured([sys.executable, str(Path(__file__)), "--part", part, "-n", str(n)])
        told = json.loads(done.output.splitlines()[-1])
        facts |= {f"{part}_n": n, f"{part}_seconds": round(told["seconds"], 1)}
        facts[f"{part}_peak_mb"] = round(done.peak_rss_mb)
        print(f"{part}: {n:,} in {told['seconds']:.1f} s, {done.peak_rss_mb:,.0f} MB", flush=True)
    for recall in RECALLS:
        facts[f"closures_{recall}"] = closures(200_000 // share, recall)
        print(f"recall {recall}: {facts[f'closures_{recall}']}", flush=True)
    say(facts)


if __name__ == "__main__":
    main()
