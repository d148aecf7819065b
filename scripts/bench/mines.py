"""How a mine model does on whole galleries of Amazon Mining Watch's chips.

    uv run --all-extras scripts/bench/mines.py models/mine-f0 --fold 0    a model trained without fold 0
    uv run --all-extras scripts/bench/mines.py models/mine-f0 --fold 0 --galleries    and which galleries are confused
    uv run --all-extras scripts/bench/mines.py mine-s2 --quick            500 chips, within a minute

Each chip is a tiny scene of its own. Its score is the mean of its highest 5 % of pixels, as in training.
The folds are those of mine_baseline.py. A shipped model has seen all folds: its figures are of what it
was trained on; --fold with a model trained without that fold is what counts.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import say
from mine_baseline import (
    FOLDS,
    SPECIFICITY,
    area_under_curve,
    average_precision,
    gallery_folds,
    read_chips,
    sensitivity,
)
from numpy.typing import NDArray

from geoslave.imagery.scaling import coefficients, radiometry, scale, scene_statistics
from geoslave.model.package import ModelSpec, open_package
from geoslave.model.predict import Network, OnnxNetwork

TOP_SHARE = 0.05


def score_maps(pixels: NDArray[np.uint8], network: Network, spec: ModelSpec) -> NDArray[np.float32]:
    """Scores [n, y, x] of chips [n, y, x, band]."""
    unit = radiometry("uint8", (1.0,) * 3, (0.0,) * 3, 255)
    scaled = []
    for chip in pixels:
        stored = np.moveaxis(chip, 2, 0)
        valid = stored.any(axis=0)
        if not valid.any():
            valid[:] = True
        factor, summand = coefficients(unit, scene_statistics(stored, valid, unit, spec.scaling), spec.scaling)
        scaled.append(scale(stored, valid, factor, summand, spec.scaling.clip))
    batches = [np.stack(scaled[k : k + 128]) for k in range(0, len(scaled), 128)]
    return np.concatenate([network(batch)[:, 0] for batch in batches])


def chip_scores(maps: NDArray[np.float32]) -> NDArray[np.float64]:
    """[n] mean logit of each chip's highest pixels."""
    flat = np.clip(maps.reshape(len(maps), -1).astype(float), 1e-6, 1 - 1e-6)
    top = np.sort(flat, axis=1)[:, -max(1, round(TOP_SHARE * flat.shape[1])) :]
    return np.log(top / (1 - top)).mean(axis=1)


def say_galleries(score: NDArray[np.float64], truth: NDArray[np.bool_], gallery: NDArray[np.str_]) -> None:
    """The area under the curve of each gallery's chips against all chips of the other kind."""
    for kind, what in ((True, "mines"), (False, "no mines")):
        for name in np.unique(gallery[truth == kind]):
            rows = (truth != kind) | (gallery == name)
            area = area_under_curve(score[rows], truth[rows])
            print(f"AUC {area:.3f}  {int((rows & (truth == kind)).sum()):5d} {what:8s}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="mine-s2")
    parser.add_argument("--fold", type=int, choices=range(FOLDS), help="only the chips of this fold")
    parser.add_argument("--galleries", action="store_true", help="the area under the curve of each gallery too")
    parser.add_argument("--quick", action="store_true", help="500 chips, within a minute")
    options = parser.parse_args()
    chips = read_chips()
    chosen = (
        np.arange(len(chips.label)) if options.fold is None else np.flatnonzero(gallery_folds(chips) == options.fold)
    )
    if options.quick:
        chosen = np.random.default_rng(0).choice(chosen, min(500, len(chosen)), replace=False)
    package = open_package(options.model)
    score = chip_scores(score_maps(chips.pixels[chosen], OnnxNetwork(package), package.spec))
    truth = chips.label[chosen]
    if options.galleries:
        say_galleries(score, truth, chips.gallery[chosen])
    say({
        "model": package.model_id,
        "fold": options.fold,
        "n": len(chosen),
        "n_mines": int(truth.sum()),
        "auc": round(area_under_curve(score, truth), 4),
        "average_precision": round(average_precision(score, truth), 4),
        f"sensitivity_at_specificity_{SPECIFICITY}": round(sensitivity(score, truth), 4),
    })  # fmt: skip


if __name__ == "__main__":
    main()
