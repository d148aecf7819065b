"""Peak memory of `geoslave detect` does not grow with the scene.

uv run --all-extras scripts/bench/memory.py            5,000 and 20,000 pixels a side, 4 bands uint16
uv run --all-extras scripts/bench/memory.py --quick    1,000 and 2,000, within a minute
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from common import detect_command, run_measured, say, unet_resnet18, write_scene

from geoslave.model.package import open_package


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small scenes, within a minute")
    parser.add_argument("--model", default="kiln-s2", help="a package, or 'unet-resnet18'")
    options = parser.parse_args()
    sides = (1_000, 2_000) if options.quick else (5_000, 20_000)
    peaks = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        unet = options.model == "unet-resnet18"
        first = write_scene(folder / "first.tif", sides[0])
        package = unet_resnet18(folder / "bench-unet", first) if unet else open_package(options.model)
        for side in sides:
            scene = first if side == sides[0] else write_scene(folder / f"{side}.tif", side)
            run = run_measured(detect_command(scene, package.folder, folder / f"{side}.gpkg"))
            peaks[side] = run.peak_rss_mb
            print(f"{side} x {side}: {run.peak_rss_mb:.0f} MB, {side * side / 1e6 / run.seconds:.2f} Mpx/s")
            scene.unlink()
    small, large = (peaks[side] for side in sides)
    say({
        "model": package.spec.name,
        "sides": list(sides),
        "small_mb": round(small),
        "large_mb": round(large),
        "growth": round(large / small - 1, 4),
    })  # fmt: skip


if __name__ == "__main__":
    main()
