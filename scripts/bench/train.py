"""How much of the bare forward-backward rate is left in the training loop.

    uv run --all-extras scripts/bench/train.py            five minutes
    uv run --all-extras scripts/bench/train.py --quick    within a minute

The loop is `geoslave.model.train` as a user runs it, with kiln-s2's network, batch, augmentation and
precision: chips drawn and moved, forward, loss, backward, gradients clipped, the optimiser's step, weights averaged,
everything logged, a checkpoint written. Bare is the same network's forward, loss and backward on one batch in memory,
nothing else. Both on the same threads in one process, in turns, because a machine's speed drifts: each loop is
compared with the mean of the bare runs before and after it, and the median of these ratios counts. Only the ratio
means something elsewhere. A process that draws chips works beside the loop on the same cores: that is part of it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from common import say

from geoslave.model.losses import batch_loss
from geoslave.model.network import Architecture, build_network
from geoslave.model.predict import usable_cores
from geoslave.model.recipe import TrainConfig
from geoslave.model.train import Progress, train

WARM_UP = 4
"""Steps that are not counted: the first ones fetch memory and fill the queue of batches."""


def recipe(folder: Path, steps: int) -> TrainConfig:
    """kiln-s2's recipe on backgrounds of noise and on rendered scenes, which are there everywhere."""
    chips = np.random.default_rng(0).integers(20, 120, (400, 48, 48, 3), dtype=np.uint8)
    np.savez(folder / "chips.npz", x=chips)
    (folder / "chips.csv").write_text("gallery\n" + "".join(f"{k % 9}\n" for k in range(len(chips))))
    return TrainConfig.model_validate(
        {
            "name": "bench",
            "architecture": {
                "encoder": "tu-regnetx_002", "encoder_depth": 4, "decoder_channels": [96, 48, 32], "upsample": 2,
            },
            "backgrounds": [{"chips": str(folder / "chips.npz"), "table": str(folder / "chips.csv")}],
            "rendered": {"count": 4},
            "shares": {"background": 0.33, "rendered": 0.67},
            "augmentation": {"min_range": 0.25, "blotches": 0},
            "mine_at": [],
            "steps": steps,
            "warm_up": 10,
            "precision": "bfloat16",
            "threads": usable_cores(),
            "checkpoint_every": 100,
        }
    )  # fmt: skip


def loop_chips_s(config: TrainConfig, folder: Path) -> float:
    """Chips a second of the loop, without reading data and without the first steps."""
    times: list[float] = []

    def on_step(_now: Progress) -> None:
        times.append(time.perf_counter())

    train(config, folder, restart=True, on_step=on_step)
    return config.batch * (len(times) - WARM_UP) / (times[-1] - times[WARM_UP - 1])


def bare_chips_s(config: TrainConfig, steps: int) -> float:
    """Chips a second of forward, loss and backward on one batch."""
    torch.set_num_threads(usable_cores())
    network = build_network(Architecture.model_validate(config.architecture), 3, 1)
    network = network.to(memory_format=torch.channels_last).train()
    side, rng = config.chip, torch.Generator().manual_seed(0)
    imagery = torch.randn(config.batch, 3, side, side, generator=rng).contiguous(memory_format=torch.channels_last)
    truth = (torch.rand(config.batch, side, side, generator=rng) > 0.95).to(torch.uint8)
    valid, weak = torch.ones_like(truth, dtype=torch.bool), torch.full((config.batch, 1), -1, dtype=torch.int8)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(imagery)
        batch_loss(logits.float(), truth, valid, weak, config).total.backward()

    for _ in range(WARM_UP):
        step()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    return config.batch * steps / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="within a minute")
    options = parser.parse_args()
    turns, steps = (3, 15) if options.quick else (6, 80)
    loop, bare, ratios = [], [], []
    with TemporaryDirectory() as name:
        config = recipe(Path(name), steps + WARM_UP)
        bare.append(bare_chips_s(config, steps))
        for _ in range(turns):
            loop.append(loop_chips_s(config, Path(name) / "training"))
            bare.append(bare_chips_s(config, steps))
            ratios.append(2 * loop[-1] / (bare[-2] + bare[-1]))
            print(f"loop {loop[-1]:.1f}  bare {bare[-1]:.1f} chips/s  ratio {ratios[-1]:.3f}", flush=True)
    say(
        {
            "cores": usable_cores(),
            "batch": config.batch,
            "chip": config.chip,
            "chips_s": round(float(np.median(loop)), 1),
            "bare_chips_s": round(float(np.median(bare)), 1),
            "ratio": round(float(np.median(ratios)), 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        }
    )


if __name__ == "__main__":
    main()
