"""What the benchmarks share: a scene, a model of known cost, a process whose memory is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from geoslave.imagery.geotiff import Reading, open_scene
from geoslave.imagery.scaling import Scaling, scale
from geoslave.labels.synthetic import render_scene
from geoslave.model.package import ModelPackage, ModelSpec, open_package, write_package

BANDS = ("red", "green", "blue", "nir")


_LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.run(sys.argv[1:]).returncode
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


@dataclass(frozen=True)
class Finished:
    """A command that ran in a process of its own."""

    seconds: float
    peak_rss_mb: float
    output: str


def write_scene(path: Path, side: int, *, tile: int = 1098) -> Path:
    """A Sentinel-2 like scene, uint16 [4, side, side], deflated in blocks of 512: rendered country, repeated."""
    rendered = render_scene(1, (tile, tile), dtype="uint16").raster.pixels
    near_infrared = np.clip(rendered[1:2].astype(np.int32) * 2 - rendered[0:1] // 2, 1, 10_000).astype(np.uint16)
    unit = np.concatenate([rendered, near_infrared])
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 4, "dtype": "uint16", "crs": "EPSG:32645",
        "transform": Affine(10, 0, 500_000, 0, -10, 2_650_000), "tiled": True, "blockxsize": 512, "blockysize": 512,
        "compress": "deflate", "predictor": 2, "zlevel": 1, "nodata": 0, "bigtiff": "IF_SAFER",
    }  # fmt: skip
    columns = np.arange(side) % tile
    with rasterio.Env(GDAL_CACHEMAX=64 << 20), rasterio.open(path, "w", **profile) as file:
        for top in range(0, side, 512):
            height = min(512, side - top)
            rows = np.arange(top, top + height) % tile
            strip = unit[:, rows][:, :, columns]
            file.write(strip, window=rasterio.windows.Window(0, top, side, height))
        for number, name in enumerate(BANDS, start=1):
            file.set_band_description(number, name)
    return path


def unet_resnet18(folder: Path, scene: Path) -> ModelPackage:
    """A U-Net resnet18 on 4 bands at the scene's own grid, with about as many sites as kiln country has.

    Its weights are random; its last layer is set so that on `scene` scores are near 0 but for the
    highest 2 pixels in 10,000: some hundred objects per 1,000 km2, of which the size filter keeps a part.
    """
    import torch

    from geoslave.model.network import Architecture, build_network, stride
    from geoslave.model.publish import choose_tile

    torch.manual_seed(0)
    architecture = Architecture(encoder="resnet18", encoder_depth=5)
    network = build_network(architecture, len(BANDS), 1).eval()
    head = next(m for m in reversed(list(network.modules())) if isinstance(m, torch.nn.Conv2d))
    with open_scene(scene, Reading(BANDS)) as source, torch.inference_mode():
        factor, summand = source.scaling(Scaling())
        raster = source.read(rasterio.windows.Window(0, 0, 512, 512))
        logits = network(torch.from_numpy(scale(raster.pixels, raster.valid, factor, summand, Scaling().clip))[None])
    top, middle = (float(torch.quantile(logits, q)) for q in (0.9998, 0.5))
    with torch.no_grad():
        head.weight.mul_(8 / (top - middle))
        head.bias.copy_((head.bias - top) * 8 / (top - middle))
    halo, step = 64, stride(architecture)
    spec = ModelSpec(
        name="bench-unet", version="0", title="U-Net resnet18 for benchmarks", target="brick_kiln",
        classes=("brick_kiln",), bands=BANDS, gsd_m=10, scaling={}, tile=choose_tile(network, len(BANDS), halo, step),
        halo=halo, stride=step, thresholds={"high": 0.5, "low": 0.3}, architecture=architecture.model_dump(mode="json"),
        licence="none", data="none",
    )  # fmt: skip
    return open_package(write_package(folder, spec, network, "# a model for benchmarks\n"))


def run_measured(command: list[str]) -> Finished:
    """Run a command; the largest resident memory is that of this child alone."""
    # Linux counts what a process had in memory before it became another program: so a small one starts it
    launched = subprocess.run([sys.executable, "-c", _LAUNCHER, *command], capture_output=True, text=True)
    if launched.returncode != 0:
        sys.exit(f"the command failed: {' '.join(command)}\n{launched.stderr}")
    output, _, measured = launched.stdout.rstrip("\n").rpartition("\n")
    seconds, peak_kb = measured.split()
    return Finished(float(seconds), int(peak_kb) / 1024, output)


def detect_command(scene: Path, model: Path | str, out: Path) -> list[str]:
    """The command line a user would type, scores included."""
    return [
        sys.executable, "-m", "geoslave.cli.main", "detect", str(scene), "--model", str(model), "--out", str(out),
        "--scores", str(out.with_suffix(".tif")), "--backend", "onnx", "--json", "--overwrite",
    ]  # fmt: skip


def say(facts: dict[str, object]) -> None:
    """The last line: one JSON object; with what the machine's host gave to others meanwhile, where it tells."""
    print(json.dumps(facts | {"stolen_share": stolen_share()}))


def stolen_share() -> float | None:
    """Of the processor time since the start, what a virtual machine did not get (Linux): above .02, measure again."""
    now = _processor_ticks()
    if now is None or _STARTED is None:
        return None
    return round((now[1] - _STARTED[1]) / max(1, now[0] - _STARTED[0]), 3)


def _processor_ticks() -> tuple[int, int] | None:
    """All of them, and those stolen."""
    if not _STAT.exists():
        return None
    ticks = [int(field) for field in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks), ticks[7]


_STAT = Path("/proc/stat")
_STARTED = _processor_ticks()
