"""Frames and reviews made on the spot."""

from __future__ import annotations

import numpy as np
import pandas as pd


def strata(*sizes: tuple[int, int, int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A frame and its reviews from (tiles, reviewed, reviewed with one site) of each stratum."""
    frame, reviews = [], []
    for k, (tiles, reviewed, found) in enumerate(sizes):
        frame += [(f"{k}-{i}", f"s{k}") for i in range(tiles)]
        reviews += [(f"{k}-{i}", int(i < found)) for i in range(reviewed)]
    return pd.DataFrame(frame, columns=["tile_id", "stratum"]), pd.DataFrame(reviews, columns=["tile_id", "n_sites"])


def region(tiles: int = 3000, seed: int = 0, recall: float = 0.8) -> pd.DataFrame:
    """A frame with clustered sites; the columns sites and hits hold the truth."""
    rng = np.random.default_rng(seed)
    sites = rng.poisson(rng.gamma(0.1, 2.0, tiles))
    hits = rng.binomial(sites, recall)
    return pd.DataFrame(
        {
            "tile_id": [f"t{i}" for i in range(tiles)],
            "n_flagged": hits + rng.poisson(0.03, tiles),
            "district": np.where(np.arange(tiles) < tiles // 3, "north", "south"),
            "sites": sites,
            "hits": hits,
        }
    )


def reviewed(drawn: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """The drawn sample with what a perfect reviewer finds."""
    known = truth.set_index("tile_id").loc[drawn["tile_id"]]
    return drawn.assign(n_sites=known["sites"].to_numpy(), n_hits=known["hits"].to_numpy())
