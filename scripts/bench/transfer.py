"""What starting from a shipped model's weights gains where there are few labels.

    uv run --all-extras scripts/bench/transfer.py            kilns and roofs, three seeds, half an hour, one core
    uv run --all-extras scripts/bench/transfer.py --quick    kilns, few steps: within a minute, says little

Two cases, each with the same network trained from scratch and from the shipped weights, with the same few labels, steps
and seeds:

* kilns from mine-s2: Sentinel-2 both, another kind of site, another continent. Trained on one district of kilns_s2
  (a dozen kilns), measured on the two others. This is what a search for fish camps does.
* kilns from imagenet: the encoder has seen photographs, never a satellite's image (`--start-from imagenet`).
* roofs from kiln-s2 and from mine-s2: aerial imagery of 0.13 m; only what all imagery has in common carries over.
  Trained on two and eight tiles of buildings_banepa, measured on two columns apart.

F1 and average precision are by object, iou is the overlap of pixels at the best of nine thresholds. One thread. The
last line is one JSON object; gain is the mean difference to scratch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import torch
from common import say

from geoslave.imagery.scaling import Scaling
from geoslave.model.augment import IGNORE
from geoslave.model.package import open_package
from geoslave.model.recipe import TrainConfig
from geoslave.model.train import TrainResult, train
from geoslave.model.validation import score_scene, validate
from geoslave.search.training import OF_IMAGENET

QUICK_STEPS, STEPS = 25, 200
IMAGENET = "imagenet"
TILES = ("OAM-386690-22024[12]-*.tif", "OAM-386690-22024[1-8]-*.tif")
TEST_TILES = ("OAM-386694-*.tif", "OAM-386695-*.tif")
HITS = {"max_distance_m": 0, "min_iou": 0.5, "duplicate_m": 0.5, "edge_m": 1}


@dataclass(frozen=True)
class Case:
    """What is trained on what."""

    name: str
    start: str
    settings: dict[str, Any]


def cases(data: Path, quick: bool) -> list[Case]:
    starts = ("mine-s2",) if quick else ("mine-s2", IMAGENET)
    found = [
        Case(f"kilns of {one}", start, kilns(data, one))
        for start in starts
        for one in districts(data)[: 1 if quick else None]
    ]
    if not quick:
        found += [
            Case(f"roofs of {n} tiles", start, roofs(data, tiles))
            for start in ("kiln-s2", "mine-s2")
            for n, tiles in zip((2, 8), TILES, strict=True)
        ]
    return found


def districts(data: Path) -> list[str]:
    return sorted(gpd.read_file(data / "kilns_s2" / "kilns.geojson")["region"].unique())


def kilns(data: Path, district: str) -> dict[str, Any]:
    """Trained on one district, measured on the others."""
    others = tuple(one for one in districts(data) if one != district)
    source = {
        "scenes": str(data / "kilns_s2" / "chips"),
        "labels": str(data / "kilns_s2" / "kilns.geojson"),
        "unsure": str(Path(__file__).resolve().parents[2] / "configs" / "kiln-s2-unsure.yaml"),
        "region_column": "region",
        "stretched": True,
    }
    return {
        "target": "brick_kiln", "gsd_m": 10, "scenes": [source], "rendered": {"count": 0}, "chip": 48, "batch": 16,
        "validation": {"by": "region", "regions": others},
    }  # fmt: skip


def roofs(data: Path, tiles: str) -> dict[str, Any]:
    folder = data / "buildings_banepa" / "train"
    labels = str(folder / "osm" / "osm_features_ac7e343eb1faacd2.geojson")
    source = {"scenes": str(folder / "oam"), "labels": labels, "edge_m": 0}
    return {
        "target": "building", "gsd_m": 0.3, "outline_m": 0.3, "gap_m": 0.6, "chip": 96, "batch": 8,
        "scenes": [{**source, "files": tiles}, *({**source, "files": one, "aside": True} for one in TEST_TILES)],
        "augmentation": {"gain": [0.75, 1.3], "haze": [0, 0.08], "blotches": 0, "paste_decoy": 0, "coarsen": 0.2},
        "loss": {"bce": 0.2, "dice": 1, "focal_gamma": 0}, "validation": {"by": "list", **HITS},
    }  # fmt: skip


def recipe(case: Case, from_scratch: bool, steps: int, seed: int) -> TrainConfig:
    """As a campaign is trained: weights that are there move at half the rate."""
    if case.start == IMAGENET:
        architecture, scaling = OF_IMAGENET["architecture"], Scaling(min_range=0.4)
    else:
        spec = open_package(case.start).spec
        architecture, scaling = spec.architecture, spec.scaling
    settings = {
        "name": "transfer", "architecture": architecture, "scaling": scaling.model_dump(),
        "shares": {"site": 0.5, "scene": 0.5}, "steps": steps, "warm_up": min(50, steps // 4), "ema": 0.99,
        "mine_at": [], "learning_rate": 2e-3 if from_scratch else 1e-3, "threads": 1, "workers": 0, "seed": seed,
        "device": "cpu", **case.settings,
    }  # fmt: skip
    settings["validation"] = {**case.settings["validation"], "every": steps}
    start = {"pretrained": IMAGENET} if case.start == IMAGENET else {"start_from": case.start}
    return TrainConfig.model_validate(settings if from_scratch else {**settings, **start})


def measured(result: TrainResult) -> dict[str, float]:
    """On the tiles put aside: by object, and by pixel."""
    data = result.data.validation
    figures = validate(result.network, data, result.config, torch.device("cpu"))
    scores = [
        score_scene(result.network, placed, result.config, torch.device("cpu")).pixels[0] for placed in data.scenes
    ]
    truth = [placed.scene.patch.truth for placed in data.scenes]
    known = np.concatenate([(one != IGNORE).ravel() for one in truth])
    roof = np.concatenate([(one == 1).ravel() for one in truth])[known]
    score = np.concatenate([one.ravel() for one in scores])[known]
    overlaps = [(roof & (score >= t)).sum() / max((roof | (score >= t)).sum(), 1) for t in np.linspace(0.1, 0.9, 9)]
    return {
        "f1": round(figures.f1 or 0.0, 4),
        "average_precision": round(figures.average_precision or 0.0, 4),
        "iou": round(float(max(overlaps)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one district of kilns, few steps")
    options = parser.parse_args()
    if "GEOSLAVE_DATA" not in os.environ:
        sys.exit("GEOSLAVE_DATA is not set: name the folder with kilns_s2 and buildings_banepa")
    torch.set_num_threads(1)
    seeds, steps = ((0,), QUICK_STEPS) if options.quick else ((0, 1, 2), STEPS)
    rows: list[dict[str, Any]] = []
    for case in cases(Path(os.environ["GEOSLAVE_DATA"]), options.quick):
        for seed in seeds:
            for scratch in (True, False):
                result = train(recipe(case, scratch, steps, seed))
                facts = {"case": case.name, "start": case.start, "scratch": scratch, "seed": seed}
                rows.append({**facts, "labels": result.n_sites, **measured(result), "seconds": round(result.seconds)})
                print(rows[-1], flush=True)
    say({"steps": steps, "quick": options.quick, "gain": gains(rows)})


def gains(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By case: mean figures from the shipped weights, from scratch, and the difference."""
    out = []
    for name, start in dict.fromkeys((row["case"], row["start"]) for row in rows):
        here = [row for row in rows if (row["case"], row["start"]) == (name, start)]
        told: dict[str, Any] = {"case": name, "start": start, "labels": here[0]["labels"], "seeds": len(here) // 2}
        for figure in ("f1", "average_precision", "iou"):
            ours, theirs = (
                float(np.mean([row[figure] for row in here if row["scratch"] is scratch])) for scratch in (False, True)
            )
            told |= {figure: round(ours, 4), f"{figure}_scratch": round(theirs, 4)}
            told[f"{figure}_gain"] = round(ours - theirs, 4)
        out.append(told)
    return out


if __name__ == "__main__":
    main()
