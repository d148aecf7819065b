"""How much of the bare model's speed is left end to end.

    uv run --all-extras scripts/bench/detect.py            a Sentinel-2 tile at 20 m: 5,490 x 5,490 x 4
    uv run --all-extras scripts/bench/detect.py --quick    a small one, within a minute

End to end is `geoslave detect` as a user runs it, in a process of its own: start, decode, model, scores
to disk (COG), polygons, export. Bare is ONNX Runtime alone on tensors in memory, every pixel fed to
it counted, the halo too: the whole network, as other programs run it. Both in turns in one run on one
machine: only the ratio means something elsewhere.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from common import BANDS, detect_command, run_measured, say, unet_resnet18, write_scene

from geoslave.model.package import ModelPackage, open_package
from geoslave.model.predict import usable_cores


def bare_mpx_s(package: ModelPackage, seconds: float) -> float:
    """ONNX Runtime with its default options, on the tiles detect uses: Mpx/s fed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(package.onnx), options, providers=["CPUExecutionProvider"])
    pixels = tile_tensor(package)
    name = session.get_inputs()[0].name
    return rate(lambda: session.run(None, {name: pixels}), pixels, seconds)


def eager_mpx_s(package: ModelPackage, seconds: float) -> float:
    """PyTorch, eager, channels last: Mpx/s fed."""
    from geoslave.model.predict import TorchNetwork

    network = TorchNetwork(package, device="cpu", threads=usable_cores())
    pixels = tile_tensor(package)
    return rate(lambda: network(pixels), pixels, seconds)


def tile_tensor(package: ModelPackage) -> np.ndarray:
    side = package.spec.tile + 2 * package.spec.halo
    return np.random.default_rng(0).normal(size=(1, len(package.spec.bands), side, side)).astype(np.float32)


def rate(call: object, pixels: np.ndarray, seconds: float) -> float:
    assert callable(call)
    call()
    runs, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        call()
        runs += 1
    return runs * pixels.shape[2] * pixels.shape[3] / 1e6 / (time.perf_counter() - start)


def row(package: ModelPackage, scene: Path, side: int, folder: Path, seconds: float, turns: int) -> dict[str, object]:
    """Bare and end to end in turns, because the machine's speed drifts: the median of the turns' ratios."""
    command = detect_command(scene, package.folder, folder / f"{package.spec.name}.gpkg")
    bare, runs = [bare_mpx_s(package, seconds)], []
    for _ in range(turns):
        runs.append(run_measured(command))
        bare.append(bare_mpx_s(package, seconds))
    end_to_end = [side * side / 1e6 / run.seconds for run in runs]
    around = [(before + after) / 2 for before, after in pairwise(bare)]
    ratios = [speed / beside for speed, beside in zip(end_to_end, around, strict=True)]
    return {
        "model": package.spec.name,
        "tile": package.spec.tile,
        "halo": package.spec.halo,
        "n_detections": json.loads(runs[0].output)["n_detections"],
        "end_to_end_mpx_s": round(median(end_to_end), 4),
        "bare_mpx_s": round(median(around), 4),
        "ratio": round(median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "eager_mpx_s": round(eager_mpx_s(package, seconds), 4),
        "peak_rss_mb": round(max(run.peak_rss_mb for run in runs)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small scene, within a minute")
    parser.add_argument("--side", type=int, help="pixels a side")
    parser.add_argument("--turns", type=int, help="how often detect runs [default: 3; quick: 1]")
    parser.add_argument("--skip-kiln", action="store_true", help="without the row for kiln-s2")
    options = parser.parse_args()
    side = options.side or (1_098 if options.quick else 5_490)
    seconds = 0.5 if options.quick else 10
    turns = options.turns or (1 if options.quick else 3)
    with TemporaryDirectory() as name:
        folder = Path(name)
        scene = write_scene(folder / "scene.tif", side, tile=549 if options.quick else 1_098)
        rows = [row(unet_resnet18(folder / "bench-unet", scene), scene, side, folder, seconds, turns)]
        if not options.skip_kiln:
            rows.append(row(open_package("kiln-s2"), scene, side, folder, seconds, turns))
    for facts in rows:
        print("  ".join(f"{key} {value}" for key, value in facts.items()))
    say({"scene": [side, side, len(BANDS)], "cores": usable_cores(), **rows[0], "rows": rows})


if __name__ == "__main__":
    main()
