"""Can the cells of a public release be turned back into places? With the public files and all true sites.

    uv run scripts/bench/reidentify.py            a made country, and the five real frames where they are; a minute
    uv run scripts/bench/reidentify.py --quick    the made country and one frame

The made country has clusters of sites, scaled to a median of 937 m between neighbours, which is what brick
kilns keep. The frames are true counts of tiles of 2.56 km; sites fall at random within their tile.

Three attackers:

* The *guesser* has the public files only, and puts as many guesses into each shown cell as it holds sites. Is a
  site within 100 m, 500 m or 1 km of a guess more often than if the same guesses fell anywhere in the country?
* The *lister* has another list, of all true sites, and asks which of them a counted one is: all of its cell
  are alike, so the chance is one over their number.
* The *subtracter* takes all shown cells from parents and totals, and looks for 1 to 4 sites that are left.

Beside them stands what is often done instead: publishing points moved by 1 to 2 km. The lister then asks which
true sites lie 1 to 2 km from a published point.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import h3
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geoslave.release.cells import TOTAL, Counts, cells_of, count_cells
from geoslave.release.suppress import K

SPACING_M = 937.0
RADII_M = (100, 500, 1000)
MOVED_M = (1000, 2000)
TILE_M = 2560.0
ORIGIN = (80.0, 26.0)
METRES_A_DEGREE = 111_195.0
REPEATS, QUICK_REPEATS = 10, 3
Places = NDArray[np.float64]
"""[n, 2]: metres east and north of ORIGIN."""


@dataclass(frozen=True)
class Country:
    """All true sites, and ground they could be on."""

    name: str
    sites: Places
    tiles: Places
    """[n, 2] south-west corners of the ground's tiles."""
    tile_m: float


def made_country(n: int, rng: np.random.Generator) -> Country:
    """Clusters (a Thomas process), scaled so that the median distance to the next site is SPACING_M."""
    towns = rng.uniform(0, 1, (n // 25, 2))
    weight = rng.gamma(1.0, 1.0, len(towns))
    of_town = rng.choice(len(towns), n, p=weight / weight.sum())
    sites = towns[of_town] + rng.normal(0, 0.012, (n, 2))
    sites = (sites - sites.min(axis=0)) * SPACING_M / np.median(next_site(sites))
    side = 10_000.0
    columns, rows = np.ceil(sites.max(axis=0) / side).astype(int)
    tiles = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2) * side
    return Country("made", sites, tiles, side)


def frame_country(path: Path, rng: np.random.Generator) -> Country:
    """A real frame, its sites at random in their tiles."""
    frame = pd.read_csv(path)
    tiles = frame[["col", "row"]].to_numpy(float) * TILE_M
    sites = np.repeat(tiles, frame["n_sites"], axis=0)
    return Country(path.stem, sites + rng.uniform(0, TILE_M, sites.shape), tiles, TILE_M)


def next_site(sites: Places) -> NDArray[np.float64]:
    """Distance of each site to its nearest neighbour."""
    return cKDTree(sites).query(sites, k=2)[0][:, 1]


def degrees(places: Places) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lat = ORIGIN[1] + places[:, 1] / METRES_A_DEGREE
    return ORIGIN[0] + places[:, 0] / METRES_A_DEGREE / np.cos(np.radians(lat)), lat


def metres(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> Places:
    east = (lon - ORIGIN[0]) * METRES_A_DEGREE * np.cos(np.radians(lat))
    return np.stack([east, (lat - ORIGIN[1]) * METRES_A_DEGREE], -1)


def guesses(counts: Counts, rng: np.random.Generator) -> Places:
    """As many places in each shown cell as it holds sites."""
    found = []
    for row in counts.cells:
        outline = shapely.Polygon([(lon, lat) for lat, lon in h3.cell_to_boundary(row.cell)])
        west, south, east, north = outline.bounds
        drawn = rng.uniform((west, south), (east, north), (row.n_detections * 4 + 40, 2))
        inside = drawn[shapely.contains_xy(outline, drawn[:, 0], drawn[:, 1])][: row.n_detections]
        found.append(metres(inside[:, 0], inside[:, 1]))
    return np.concatenate(found)


def anywhere(country: Country, n: int, rng: np.random.Generator) -> Places:
    tiles = country.tiles[rng.integers(0, len(country.tiles), n)]
    return tiles + rng.uniform(0, country.tile_m, tiles.shape)


def reached(sites: Places, guessed: Places) -> list[float]:
    """Share of sites within each radius of a guess."""
    distance = cKDTree(guessed).query(sites)[0]
    return [float((distance <= radius).mean()) for radius in RADII_M]


def chance_by_cell(country: Country, counts: Counts) -> NDArray[np.float64]:
    """The lister's chance for each site in a shown cell."""
    return np.repeat([1 / row.n_detections for row in counts.cells], [row.n_detections for row in counts.cells])


def chance_moved(sites: Places, rng: np.random.Generator) -> NDArray[np.float64]:
    """The lister's chance for each point that was moved by 1 to 2 km."""
    angle, distance = rng.uniform(0, 2 * np.pi, len(sites)), rng.uniform(*MOVED_M, len(sites))
    moved = sites + np.stack([np.cos(angle), np.sin(angle)], -1) * distance[:, None]
    tree = cKDTree(sites)
    near, far = (np.array(tree.query_ball_point(moved, r, return_length=True)) for r in MOVED_M)
    return 1 / np.maximum(far - near, 1)


def left_by_subtraction(counts: Counts) -> int:
    """Parents and totals that, minus what is shown in them, leave 1 to K - 1 sites."""
    shown = {row.cell: row.n_detections for row in counts.rows}
    parents = {row.cell for row in counts.rows if row.level == "parent"}
    left = dict(shown)
    for row in counts.rows:
        if row.level == TOTAL:
            continue
        up = h3.cell_to_parent(row.cell, counts.resolution - 1) if row.level == "cell" else TOTAL
        left[up if up in parents or up == TOTAL else TOTAL] -= row.n_detections
    return sum(0 < left[cell] < K for cell in [*parents, TOTAL])


def attack(country: Country, repeats: int, rng: np.random.Generator) -> dict[str, object]:
    """Release a country, and try to turn it back into places."""
    counts = count_cells(cells_of(*degrees(country.sites)))
    n = sum(row.n_detections for row in counts.cells)
    guessed = np.mean([reached(country.sites, guesses(counts, rng)) for _ in range(repeats)], axis=0)
    blind = np.mean([reached(country.sites, anywhere(country, n, rng)) for _ in range(repeats)], axis=0)
    by_cell, moved = chance_by_cell(country, counts), chance_moved(country.sites, rng)
    return {
        "country": country.name,
        "sites": len(country.sites),
        "median_spacing_m": round(float(np.median(next_site(country.sites)))),
        "resolution": counts.resolution,
        "cells": len(counts.cells),
        "share_shown": round(counts.share_in_cells, 3),
        "within_m": list(RADII_M),
        "guesser": [round(float(share), 4) for share in guessed],
        "guesser_without_release": [round(float(share), 4) for share in blind],
        "lister_mean_chance": round(float(by_cell.mean()), 4),
        "lister_highest_chance": round(float(by_cell.max()), 4),
        "lister_mean_chance_if_moved_1_2_km": round(float(moved.mean()), 4),
        "lister_sure_if_moved_1_2_km": round(float((moved == 1).mean()), 4),
        "left_by_subtraction": left_by_subtraction(counts),
    }


def told(facts: dict) -> str:
    guessed, blind = (" ".join(f"{s:6.1%}" for s in facts[k]) for k in ("guesser", "guesser_without_release"))
    return (
        f"{facts['country']:<8} {facts['sites']:>6,} {facts['median_spacing_m']:>5} m  r{facts['resolution']} "
        f"{facts['cells']:>4} cells {facts['share_shown']:>4.0%}  {guessed}  {blind}  "
        f"{facts['lister_mean_chance']:.3f} {facts['lister_highest_chance']:.3f}  "
        f"{facts['lister_mean_chance_if_moved_1_2_km']:.3f} {facts['lister_sure_if_moved_1_2_km']:>4.0%}  "
        f"{facts['left_by_subtraction']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(20_180_101)
    countries = [made_country(3000, rng)]
    data = Path(os.environ.get("GEOSLAVE_DATA", "../shared/data")) / "site_frames"
    frames = sorted(data.glob("frame_*.csv")) if data.is_dir() else []
    countries += [frame_country(path, rng) for path in (frames[:1] if options.quick else frames)]
    print(
        f"{'':<8} {'sites':>6} {'apart':>7}  {'shown':<18}  "
        f"{'guesser: 100, 500, 1000 m':<20}  {'anywhere':<20}  lister (most)  if moved, sure  subtraction"
    )
    results = []
    for country in countries:
        results.append(attack(country, QUICK_REPEATS if options.quick else REPEATS, rng))
        print(told(results[-1]), flush=True)
    print(json.dumps({"benchmark": "reidentify", "quick": options.quick, "countries": results}))


if __name__ == "__main__":
    main()
