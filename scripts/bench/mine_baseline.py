"""What colour alone knows about gold mines: the reference that mine-s2 must beat.

    uv run --all-extras scripts/bench/mine_baseline.py            five folds over whole galleries
    uv run --all-extras scripts/bench/mine_baseline.py --quick    one fold, within a minute

Percentiles of colour, brightness and texture of each chip go into a small network with one hidden layer.
Galleries differ in style, and nearly all hold only mines or none: chips of one gallery, at whatever cloud
limit it was made, stay in one fold, or the style would be learned in place of the mines.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import say
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

FOLDS = 5
PERCENTILES = (2, 10, 25, 50, 75, 90, 98)
SPECIFICITY = 0.99


@dataclass(frozen=True)
class Chips:
    """Amazon Mining Watch's chips."""

    pixels: NDArray[np.uint8]
    """[n, y, x, band]"""
    label: NDArray[np.bool_]
    """[n] a scar somewhere in the chip."""
    cloudy: NDArray[np.bool_]
    gallery: NDArray[np.str_]
    """[n] without the cloud limit, so that both halves of a gallery are one."""


def read_chips() -> Chips:
    folder = Path(os.environ.get("GEOSLAVE_DATA", "../shared/data")) / "mines_s2"
    table = pd.read_csv(folder / "chips.csv")
    gallery = table["gallery"].str.replace(r"_S2L1C_clear0\.\d+", "", regex=True)
    with np.load(folder / "chips.npz") as file:
        pixels = file["x"]
    return Chips(pixels, table["label"].to_numpy() == 1, table["cloudy"].to_numpy(bool), gallery.to_numpy(str))


def gallery_folds(chips: Chips, folds: int = FOLDS) -> NDArray[np.int64]:
    """[n] fold of each chip: whole galleries, largest first into the smallest fold, mines and others apart."""
    names, size = np.unique(chips.gallery, return_counts=True)
    mines = {name: bool(chips.label[chips.gallery == name].any()) for name in names}
    fold = {}
    for kind in (True, False):
        filled = [0] * folds
        for name, n in sorted(zip(names, size, strict=True), key=lambda item: (-item[1], item[0])):
            if mines[name] == kind:
                fold[name] = int(np.argmin(filled))
                filled[fold[name]] += n
    return np.array([fold[name] for name in chips.gallery])


def features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[n, feature] of chips [n, y, x, band]: percentiles of the bands, their ratios and their local change."""
    display = pixels.astype(np.float32) / 255
    total = display.sum(axis=3, keepdims=True) + 0.05
    brightness = display.mean(axis=3)
    change = np.abs(np.diff(brightness, axis=1))[:, :, :-1] + np.abs(np.diff(brightness, axis=2))[:, :-1]
    planes = [*np.moveaxis(display, 3, 0), *np.moveaxis(display / total, 3, 0), brightness, change]
    parts = [np.percentile(plane.reshape(len(pixels), -1), PERCENTILES, axis=1).T for plane in planes]
    return np.concatenate(parts, axis=1).astype(np.float32)


def fit_and_score(x: NDArray[np.float32], y: NDArray[np.bool_], train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Scores of the chips that are not trained on."""
    torch.manual_seed(0)
    mean, spread = x[train].mean(axis=0), x[train].std(axis=0) + 1e-6
    inputs = torch.from_numpy((x - mean) / spread)
    truth = torch.from_numpy(y.astype(np.float32))
    network = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    rows = np.flatnonzero(train)
    rng = np.random.default_rng(0)
    for _ in range(1_500):
        batch = rng.choice(rows, 256)
        loss = functional.binary_cross_entropy_with_logits(network(inputs[batch])[:, 0], truth[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        return network.eval()(inputs[~torch.from_numpy(train)])[:, 0].double().numpy()


def area_under_curve(score: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The chance that a mine scores above a chip without one (Mann-Whitney)."""
    from scipy.stats import rankdata

    n = truth.sum()
    return float((rankdata(score)[truth].sum() - n * (n + 1) / 2) / (n * (~truth).sum()))


def sensitivity(score: NDArray[np.float64], truth: NDArray[np.bool_], specificity: float = SPECIFICITY) -> float:
    """Share of mines above the score that `specificity` of the other chips stay below."""
    return float((score[truth] > np.quantile(score[~truth], specificity)).mean())


def average_precision(score: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The mean, over mines, of the precision at each mine's score."""
    found = truth[np.argsort(-score, kind="stable")]
    return float((np.cumsum(found) / np.arange(1, len(found) + 1))[found].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one fold, within a minute")
    options = parser.parse_args()
    chips = read_chips()
    fold = gallery_folds(chips)
    x = features(chips.pixels)
    rows = []
    for k in range(1 if options.quick else FOLDS):
        held_out = fold == k
        score, truth = fit_and_score(x, chips.label, ~held_out), chips.label[held_out]
        rows.append([area_under_curve(score, truth), average_precision(score, truth), sensitivity(score, truth)])
        print(f"fold {k}: {held_out.sum()} chips, AUC {rows[-1][0]:.3f}, AP {rows[-1][1]:.3f}, "
              f"sensitivity at specificity {SPECIFICITY} {rows[-1][2]:.2f}")  # fmt: skip
    auc, ap, sensitive = np.mean(rows, axis=0)
    say({"folds": len(rows), "auc": round(auc, 4), "average_precision": round(ap, 4),
         "sensitivity_at_specificity_099": round(sensitive, 4)})  # fmt: skip


if __name__ == "__main__":
    main()
