"""What a region job costs: the model's share of the time, scaling, overhead per block, resuming, memory.

    uv run --all-extras scripts/bench/region.py            twenty minutes on two idle cores
    uv run --all-extras scripts/bench/region.py --quick    within a minute

End to end is `geoslave region run` and `export` in processes of their own: start, scenes, decode, model,
scores, objects, layers. Bare is ONNX Runtime alone on tensors in memory, every pixel fed to it counted.
Both leave out the model's gate; what that saves and loses is measured beside (see gate.py), and brick_belt_hours
is reckoned with it. The last line is one JSON object; gate_* are null for a model without a gate, and where the
chips of GEOSLAVE_DATA are missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import noop
import numpy as np
import rasterio
import rasterio.warp
import yaml
from affine import Affine
from common import run_measured, say, write_scene
from detect import bare_mpx_s

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from geoslave.model.package import open_package
from geoslave.region.layout import RegionFolder
from geoslave.region.run import Choice, Progress, run_region
from geoslave.region.setup import init_region
from geoslave.region.status import region_status
from tests.factories import write_bright_model

BRICK_BELT_MPX = 15_520
"""1,551,997 km2 at 10 m."""


BLOCK = 1_536
"""Side of a block: two chips of kiln-s2."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", default="kiln-s2")
    parser.add_argument("--side", type=int, help="of the scene, in pixels")
    parser.add_argument("--blocks", type=int, help="without imagery, for the overhead")
    parser.add_argument(
        "--parts", default="speed,gate,overhead,memory", help="which are measured; beside these: sites (export of many)"
    )
    asked = parser.parse_args()
    side = asked.side or (768 if asked.quick else 10_980)  # 10,980: a whole Sentinel-2 tile
    blocks = asked.blocks or (200 if asked.quick else 100_000)
    parts = asked.parts.split(",")
    facts: dict[str, object] = dict.fromkeys(
        (
            "end_to_end_mpx_s", "bare_mpx_s", "ratio", "gate_speedup", "gate_lost_fraction", "brick_belt_hours",
            "two_worker_speedup", "overhead_ms_per_block", "resume_s", "peak_rss_mb",
        )
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        if "speed" in parts:
            facts |= speed(Path(folder), asked.model, side, 0.5 if asked.quick else 20)
        if "gate" in parts:
            facts |= gate(Path(folder), asked.model, side)
        if "overhead" in parts:
            facts |= overhead(Path(folder), blocks, min(blocks, 10_000))
        if "sites" in parts:
            facts |= sites(Path(folder), blocks)
        if "memory" in parts and not asked.quick:  # else that of the one worker of `speed`
            facts |= memory(Path(folder), asked.model, (5_000, 20_000, 60_000))
    say(facts)


def speed(folder: Path, model: str, side: int, seconds: float) -> dict[str, object]:
    """End to end and bare, in one run on one machine; and what a second worker brings."""
    package = open_package(model)
    scene = write_scene(folder / "scene_20200101.tif", side)
    before = bare_mpx_s(package, seconds)
    both, _ = timed_job(folder, "both", model, scene, "--workers", "2", "--no-gate")
    bare = (before + bare_mpx_s(package, seconds)) / 2  # the machine's speed drifts
    one, peak = timed_job(folder, "one", model, scene, "--workers", "1", "--no-gate", threads=1)
    scene.unlink()
    rate = side * side / 1e6 / both
    return {
        "end_to_end_mpx_s": round(rate, 3),
        "bare_mpx_s": round(bare, 3),
        "ratio": round(rate / bare, 3),
        "brick_belt_hours": brick_belt_hours(rate),
        "brick_belt_hours_no_gate": brick_belt_hours(rate),
        "two_worker_speedup": round(one / both, 2),
        "peak_rss_mb": {str(side): round(peak)},
    }


def gate(folder: Path, model: str, side: int) -> dict[str, object]:
    """See gate.py; nothing where the chips are missing, no hours for a model without a gate."""
    from gate import data_folder, gate_figures  # loads torch: the other parts go without

    if (data := data_folder()) is None:
        return {}
    facts = gate_figures(folder, model, data, side)
    rate = facts["gate_mpx_s"]
    return facts if rate is None else {**facts, "brick_belt_hours": brick_belt_hours(rate)}


def brick_belt_hours(mpx_s: float) -> float:
    return round(BRICK_BELT_MPX / mpx_s / 3600, 1)


def overhead(folder: Path, blocks: int, resumed: int) -> dict[str, object]:
    """What `blocks` blocks that do nothing cost the scheduler, the folder, the merge; and finding them all done.

    A block writes its record (without waiting for the disk), so that resuming and merging have something
    to read; its overhead is counted from the first block's end to the last one's. `block_floor_ms` is the least
    that a block of real work takes, with one chip of a network of no cost.
    """
    model = write_bright_model(folder / "tiny", tile=16, halo=0, stride=16)
    region = bare_region(folder, "many", model, empty_scene(folder / "many.tif", blocks))
    floor = run_region(
        bare_region(folder, "floor", model, empty_scene(folder / "fewer.tif", min(blocks, 500))), Choice(workers=0)
    )
    facts: dict[str, object] = {"blocks": blocks, "block_floor_ms": round(1000 * floor.seconds / floor.done_now, 2)}
    times: list[float] = []

    def watch(progress: Progress) -> None:
        if progress.stage == "blocks" and progress.done:
            times.append(time.perf_counter())

    summary = run_region(region, Choice(workers=2), watch, noop.empty_block)
    facts["overhead_ms_per_block"] = round(1000 * (times[-1] - times[0]) / (summary.done_now - 1), 3)
    facts["resume_all_s"] = round(run_region(region, Choice(workers=0)).seconds, 2)
    start = time.perf_counter()
    region_status(region)
    facts["status_s"] = round(time.perf_counter() - start, 2)
    merging = run_measured(command(region, "export", "--json"))
    facts["export_s"], facts["export_rss_mb"] = round(merging.seconds, 1), round(merging.peak_rss_mb)
    run = summary.run.path
    facts["folder_mb"] = round(sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) / 1e6, 1)
    facts["log_mb"] = round((run / "log.jsonl").stat().st_size / 1e6, 1)
    if resumed != blocks:
        region = bare_region(folder, "fewer", model, empty_scene(folder / "fewer.tif", resumed))
        run_region(region, Choice(workers=2), function=noop.empty_block)
    facts["resume_s"] = round(run_measured(command(region, "run", "--workers", "0", "--json")).seconds, 2)
    return facts


def sites(folder: Path, blocks: int) -> dict[str, object]:
    """What export costs where every block has four sites, two of them across seams."""
    model = write_bright_model(folder / "small", tile=16, halo=0, stride=16)
    scene = empty_scene(folder / "sites.tif", blocks, noop.SITES_SIDE)
    region = bare_region(folder, "sites", model, scene, block=noop.SITES_SIDE)
    run_region(region, Choice(workers=2), function=noop.block_of_sites)
    merging = run_measured(command(region, "export", "--json"))
    return {
        "sites": max(json.loads(merging.output)["layers"].values()),
        "sites_export_s": round(merging.seconds, 1),
        "sites_export_rss_mb": round(merging.peak_rss_mb),
    }


def memory(folder: Path, model: str, sides: tuple[int, ...]) -> dict[str, object]:
    """The largest resident memory of a worker, by side of the scene: of three blocks far apart, done by one process.

    The rest of the scene is not written (it is nodata), so that 60,000 pixels square need no hours.
    """
    peaks = {}
    for side in sides:
        rows = range(-(-side // BLOCK))
        chosen = sorted({rows[0], rows[len(rows) // 2], rows[-2 if len(rows) > 1 else -1]})  # the last may be narrow
        scene = sparse_scene(folder / f"memory{side}_20200101.tif", side, chosen)
        region = bare_region(folder, f"memory{side}", model, scene, threads=1)
        boxes = [middle_of_block(scene, row) for row in chosen]
        child = [sys.executable, "-c", _RUN_BOXES, str(region.path), json.dumps(boxes)]
        finished = run_measured(child)
        assert int(finished.output.splitlines()[-1]) >= len(chosen), "a block was not done"
        peaks[str(side)] = round(finished.peak_rss_mb)
        scene.unlink()
    return {"peak_rss_mb": peaks}


_RUN_BOXES = """
import json, sys
from pathlib import Path
from geoslave.region.layout import RegionFolder
from geoslave.region.run import Choice, run_region
done = 0
for box in json.loads(sys.argv[2]):
    done += run_region(RegionFolder(Path(sys.argv[1])), Choice(workers=0, only=tuple(box), gate=False)).done_now
print(done)
"""


def sparse_scene(path: Path, side: int, blocks: list[int]) -> Path:
    """As `write_scene`, but imagery is only in the blocks of the diagonal that are named, and around them."""
    tile = write_scene(path.with_name("unit.tif"), min(side, BLOCK + 512))
    with rasterio.open(tile) as unit:
        pixels, profile, bands = unit.read(), unit.profile, unit.descriptions
    profile |= {"width": side, "height": side, "sparse_ok": True, "bigtiff": "IF_SAFER"}
    with rasterio.open(path, "w", **profile) as file:
        for number in blocks:
            start = max(0, min(number * BLOCK - 256, side - pixels.shape[1]))
            file.write(pixels, window=rasterio.windows.Window(start, start, pixels.shape[2], pixels.shape[1]))
        file.descriptions = bands
    tile.unlink()
    return path


def middle_of_block(scene: Path, number: int) -> tuple[float, ...]:
    """A small box (degrees) in the middle of a block of the diagonal."""
    with rasterio.open(scene) as file:
        middle = min(number * BLOCK + BLOCK / 2, (number * BLOCK + file.width) / 2)
        x, y = file.transform @ (middle, middle)
        (lon,), (lat,) = rasterio.warp.transform(file.crs, "OGC:CRS84", [x], [y])
    return lon - 1e-4, lat - 1e-4, lon + 1e-4, lat + 1e-4


def timed_job(
    folder: Path, name: str, model: str, scene: Path, *options: str, **settings: object
) -> tuple[float, float]:
    """Seconds of a run and its export, and the largest resident memory (MB) of one of the run's processes."""
    region = bare_region(folder, name, model, scene, **settings)
    start = time.perf_counter()
    ran = run_measured(command(region, "run", "--json", *options))
    run_measured(command(region, "export", "--json"))
    return time.perf_counter() - start, ran.peak_rss_mb


def bare_region(folder: Path, name: str, model: str | Path, scene: Path, **settings: object) -> RegionFolder:
    region = init_region(folder / "regions" / name, None, None, str(model), [str(scene)])
    told = yaml.safe_load(region.config.read_text())
    block = {"block": 16} if scene.name in ("many.tif", "fewer.tif") else {"block": BLOCK}
    region.config.write_text(yaml.safe_dump({**told, **block, **settings}))
    return region


def empty_scene(path: Path, blocks: int, side: int = noop.SIDE) -> Path:
    """A scene of nodata but for its first corner, of `blocks` blocks of `side` pixels square."""
    rows = max(1, round(blocks**0.5))
    shape = (rows * side, -(-blocks // rows) * side)
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": shape[0], "width": shape[1], "nodata": 0}
    place = Affine(10, 0, 500_000, 0, -10, 2_650_000)
    with rasterio.open(path, "w", **profile, crs="EPSG:32645", transform=place, tiled=True, blockxsize=256,
                       blockysize=256, compress="deflate", photometric="RGB", sparse_ok=True) as file:  # fmt: skip
        pixels = np.random.default_rng(0).integers(40, 60, (3, 64, 64)).astype(np.uint8)
        file.write(pixels, window=rasterio.windows.Window(0, 0, 64, 64))
    return path


def command(region: RegionFolder, verb: str, *options: str) -> list[str]:
    where = ("--regions", str(region.path.parent))
    return [sys.executable, "-m", "geoslave.cli.main", "region", verb, region.name, *where, *options]


if __name__ == "__main__":
    main()
