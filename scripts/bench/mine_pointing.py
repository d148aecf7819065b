"""Does a mine model point at the scars? The place of each chip's highest score, against scars marked by hand.

    uv run --all-extras scripts/bench/mine_pointing.py models/mine-f0 --fold 0    a model trained without fold 0
    uv run --all-extras scripts/bench/mine_pointing.py mine-s2                    all 100: it was trained on them

mine_scars.csv has 100 chips of Amazon Mining Watch with a mine, not cloudy, drawn at random; no score was looked at
while they were marked. A chip is named by what is in it (SHA-256 of its pixels), its scars are cells of 60 m: a to
h from the west, 1 to 8 from the north, c2-d3 the rectangle between two. A cell is marked where a good part of it is
bare ground, tailings or a pond of a mine. Such cells cut scars at their edges, so that a second figure takes what lies
one pixel (10 m) beside a marked cell as on it. Chance is the share of the ground that counts: what pointing blindly
would reach.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from pathlib import Path

import numpy as np
from common import say
from mine_baseline import FOLDS, gallery_folds, read_chips
from mines import score_maps
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from geoslave.model.package import open_package
from geoslave.model.predict import OnnxNetwork

SCARS = Path(__file__).with_name("mine_scars.csv")
CELLS = 8


def chip_key(chip: NDArray[np.uint8]) -> str:
    """A chip's name: the first 16 digits of the SHA-256 of its pixels [y, x, band]."""
    return hashlib.sha256(np.ascontiguousarray(chip).tobytes()).hexdigest()[:16]


def read_scars() -> dict[str, NDArray[np.bool_]]:
    """The marked cells [row, column] of each chip, by its key."""
    with SCARS.open(newline="") as file:
        return {row["chip"]: marked_cells(row["cells"]) for row in csv.DictReader(file)}


def marked_cells(cells: str) -> NDArray[np.bool_]:
    """Cells [row, column] of a line like `a1-b2 d5`."""
    marked = np.zeros((CELLS, CELLS), bool)
    for part in cells.split():
        first, _, last = part.partition("-")
        (left, top), (right, bottom) = ((ord(c[0]) - ord("a"), int(c[1]) - 1) for c in (first, last or first))
        marked[top : bottom + 1, left : right + 1] = True
    return marked


def pointed_at(score: NDArray[np.float32], ground: NDArray[np.bool_]) -> bool:
    """Whether a score map's [y, x] highest pixel lies on some ground [y, x]."""
    return bool(ground.flat[int(score.argmax())])


def figures(maps: NDArray[np.float32], scars: list[NDArray[np.bool_]], beside: int) -> dict[str, object]:
    """How often maps [chip, y, x] point at scars, those within some pixels beside a marked cell included."""
    side = maps.shape[1] // CELLS
    ground = [np.kron(marked, np.ones((side, side), bool)) for marked in scars]
    if beside:
        ground = [binary_dilation(scar, np.ones((3, 3)), iterations=beside) for scar in ground]
    hits = sum(pointed_at(score, scar) for score, scar in zip(maps, ground, strict=True))
    return {
        "share": round(hits / len(maps), 3),
        "interval": [round(limit, 3) for limit in wilson(hits, len(maps))],
        "chance": round(float(np.mean(ground)), 3),
    }


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    share, z2 = hits / n, z * z
    middle, half = share + z2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return float((middle - half) / (1 + z2 / n)), float((middle + half) / (1 + z2 / n))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="mine-s2")
    parser.add_argument("--fold", type=int, choices=range(FOLDS), help="only the chips of this fold")
    parser.add_argument("--quick", action="store_true", help="the same: it takes seconds")
    options = parser.parse_args()
    chips, scars = read_chips(), read_scars()
    keys = {row: key for row, chip in enumerate(chips.pixels) if (key := chip_key(chip)) in scars}
    if options.fold is not None:
        fold = gallery_folds(chips)
        keys = {row: key for row, key in keys.items() if fold[row] == options.fold}
    rows = sorted({key: row for row, key in keys.items()}.values())
    package = open_package(options.model)
    maps = score_maps(chips.pixels[rows], OnnxNetwork(package), package.spec)
    marked = [scars[keys[row]] for row in rows]
    say({
        "model": package.model_id,
        "fold": options.fold,
        "n": len(rows),
        "pointing": figures(maps, marked, beside=0),
        "pointing_within_10_m": figures(maps, marked, beside=1),
    })  # fmt: skip


if __name__ == "__main__":
    main()
