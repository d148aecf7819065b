"""What a model's gate saves and what it loses: real kilns in real country without kilns, as rare as they are.

    GEOSLAVE_DATA=... uv run --all-extras scripts/bench/gate.py --model kiln-s2          a quarter of an hour
    ... --quick                                                                          within a minute or two

The country: chips of the galleries that neither the network nor the gate was trained on (mines_s2, label 0, not
cloudy), turned and mirrored, side by side. In it lie chips of kilns_s2 with kilns that the gate was not trained on
(the network was), brought to the scene's range of brightness, so that there are 4 kilns per 100 km2. Both
runs are `geoslave region run` and `export` in processes of their own, one after the other.
Starting those processes takes some ten seconds of processor, whatever the scene: with --quick that hides what the
gate saves.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import rasterio
import yaml
from affine import Affine
from common import say

from geoslave.imagery.scaling import Radiometry, Scaling, scene_statistics
from geoslave.labels.split import named
from geoslave.model.chip_pools import background_groups
from geoslave.model.package import open_package
from geoslave.model.recipe import load_config
from geoslave.region.setup import init_region

ROOT = Path(__file__).resolve().parents[2]
KILNS_PER_100KM2 = 4
NEAR_M = 50
"""A site found by both is no farther apart."""
_DISPLAY = Radiometry((1 / 255,) * 3, (0.0,) * 3)


@dataclass(frozen=True)
class Haystack:
    """A scene and where its kilns are."""

    path: Path
    kilns: int
    places: gpd.GeoSeries
    """Outlines of the chips with kilns, in the scene's CRS."""


def haystack(path: Path, data: Path, side: int, scaling: Scaling, seed: int = 0) -> Haystack:
    """Write the scene, side x side pixels of 10 m, uint8 red, green, blue."""
    os.environ.setdefault("GEOSLAVE_DATA", str(data))
    rng = np.random.default_rng(seed)
    settings = yaml.safe_load((ROOT / "configs" / "kiln-s2-gate.yaml").read_text(encoding="utf-8"))
    country = _country(settings["test"]["groups"], side, rng)
    low, width = _range(country, scaling)
    kilns = list(_kilns(data, settings["test"]["scenes"], scaling))
    size = max(max(chip.shape[1:]) for chip, _ in kilns)
    slots = [(row, col) for row in range(0, side - size + 1, size) for col in range(0, side - size + 1, size)]
    wanted = max(1, round(KILNS_PER_100KM2 * side**2 / 1e6))
    placed, outlines = 0, []
    place = Affine(10, 0, 500_000, 0, -10, 2_650_000)
    for number, slot in enumerate(rng.permutation(len(slots))):
        if placed >= wanted:
            break
        chip, count = kilns[number % len(kilns)]
        turned = np.rot90(chip, int(rng.integers(4)), (1, 2))[:, :, :: int(rng.choice([-1, 1]))]
        shown = (turned + 1) / 2 * width[:, None, None] + low[:, None, None]
        row, col = slots[slot]
        high, wide = shown.shape[1:]
        country[:, row : row + high, col : col + wide] = np.rint(shown * 255).clip(1, 255).astype(np.uint8)
        outlines.append(_outline(place, row, col, high, wide))
        placed += count
    with rasterio.open(path, "w", driver="GTiff", dtype="uint8", count=3, height=side, width=side, crs="EPSG:32645",
                       transform=place, tiled=True, blockxsize=512, blockysize=512, compress="deflate",
                       predictor=2, zlevel=1, photometric="RGB", nodata=0) as file:  # fmt: skip
        file.write(country)
        for band, name in enumerate(("red", "green", "blue"), start=1):
            file.set_band_description(band, name)
    return Haystack(path, placed, gpd.GeoSeries(outlines, crs="EPSG:32645"))


def _country(groups: list[str], side: int, rng: np.random.Generator) -> np.ndarray:
    """[band, y, x] of chips side by side, those of a gallery in rows, each turned by chance."""
    recipe = load_config(ROOT / "configs" / "kiln-s2.yaml")
    free = recipe.model_copy(
        update={"backgrounds": tuple(b.model_copy(update={"held_out": ()}) for b in recipe.backgrounds)}
    )
    chips = np.concatenate([chips for name, chips in background_groups(free) if name in groups])
    high = chips.shape[1]
    count = -(-side // high)
    order = np.concatenate([rng.permutation(len(chips)) for _ in range(-(-(count**2) // len(chips)))])
    country = np.empty((3, count * high, count * high), np.uint8)
    for number in range(count**2):
        row, col = divmod(number, count)
        chip = np.rot90(chips[order[number]], int(rng.integers(4)))[:, :: int(rng.choice([-1, 1]))]
        country[:, row * high : (row + 1) * high, col * high : (col + 1) * high] = chip.transpose(2, 0, 1)
    return np.maximum(country[:, :side, :side], 1)


def _range(pixels: np.ndarray, scaling: Scaling) -> tuple[np.ndarray, np.ndarray]:
    """(low, width) [band] of what becomes -1 and +1, in display values."""
    few = pixels[:, ::7, ::7]
    statistics = scene_statistics(few, np.ones(few.shape[1:], bool), _DISPLAY, scaling)
    low, high = np.array(statistics.low), np.array(statistics.high)
    return low, np.maximum(high - low, scaling.min_range)


def _kilns(data: Path, patterns: list[str], scaling: Scaling):  # type: ignore[no-untyped-def]
    """(scaled chip [band, y, x], how many kilns) of the chips that the gate has not seen."""
    labels = gpd.read_file(data / "kilns_s2" / "kilns.geojson")
    for path in sorted((data / "kilns_s2" / "chips").glob("*.tif")):
        if not named(path.name, patterns):
            continue
        with rasterio.open(path) as file:
            pixels, bounds = file.read(), file.bounds
        low, width = _range(np.repeat(np.repeat(pixels, 7, 1), 7, 2), scaling)
        points = labels.geometry.representative_point()
        inside = points.x.between(bounds.left, bounds.right) & points.y.between(bounds.bottom, bounds.top)
        yield (pixels / 255 - low[:, None, None]) * 2 / width[:, None, None] - 1, max(1, int(inside.sum()))


def _outline(place: Affine, row: int, col: int, high: int, wide: int):  # type: ignore[no-untyped-def]
    from shapely.geometry import box

    left, top = place * (col, row)
    return box(left, top - 10 * high, left + 10 * wide, top)


def gate_figures(folder: Path, model: str, data: Path, side: int) -> dict[str, object]:
    """Seconds with and without the gate, and what is lost; null for a model without one."""
    package = open_package(model)
    if package.spec.gate is None:
        return {"gate_speedup": None, "gate_lost_fraction": None, "gate_mpx_s": None}
    scene = haystack(folder / "haystack_20200101.tif", data, side, package.spec.scaling)
    seconds, work, layers = {}, {}, {}
    for name, flags in (("without", ("--no-gate",)), ("with", ())):
        before = _work()
        seconds[name], layers[name] = _run(folder, name, model, scene.path, flags)
        work[name] = _work() - before
    found, kept = layers["without"], layers["with"]
    lost = _unmatched(found, kept)
    in_chips = _inside(found, scene)  # what is found elsewhere is a false alarm: no kiln lies there
    mpx = side**2 / 1e6
    return {
        "gate_speedup": round(seconds["without"] / seconds["with"], 2),
        "gate_lost_fraction": round(float(lost[in_chips].mean()), 4) if in_chips.any() else None,
        "gate_sites": int(in_chips.sum()),
        "gate_sites_lost": int(lost[in_chips].sum()),
        "gate_false_alarms": int((~_inside(kept, scene)).sum()),
        "no_gate_false_alarms": int((~in_chips).sum()),
        "gate_lost_fraction_of_alarms_too": round(float(lost.mean()), 4) if len(found) else None,
        "gate_kilns_embedded": scene.kilns,
        "gate_speedup_of_processor_time": round(work["without"] / work["with"], 2),
        "gate_mpx_s": round(mpx / seconds["with"], 3),
        "no_gate_mpx_s": round(mpx / seconds["without"], 3),
        "gate_scene_mpx": round(mpx, 2),
    }


def data_folder() -> Path | None:
    """Where the real chips lie; None where they are not at hand."""
    data = Path(os.environ.get("GEOSLAVE_DATA", ROOT.parent / "shared" / "data"))
    return data if (data / "mines_s2").is_dir() and (data / "kilns_s2").is_dir() else None


def _work() -> float:
    """Seconds of processor that finished commands have taken: what others do on the machine does not matter."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _inside(sites: gpd.GeoDataFrame, scene: Haystack) -> np.ndarray:
    return sites.geometry.centroid.within(scene.places.union_all()).to_numpy(bool)


def _unmatched(found: gpd.GeoDataFrame, kept: gpd.GeoDataFrame) -> np.ndarray:
    """[site] of `found`: no site of `kept` is near."""
    if not len(kept):
        return np.ones(len(found), bool)
    near = kept.geometry.centroid.union_all()
    return found.geometry.centroid.distance(near).to_numpy() > NEAR_M


def _run(folder: Path, name: str, model: str, scene: Path, flags: tuple[str, ...]) -> tuple[float, gpd.GeoDataFrame]:
    """(seconds of run and export, the detections the model stands by, in the scene's CRS)."""
    region = init_region(folder / "gate" / name, None, None, model, [str(scene)])
    where = ("--regions", str(region.path.parent), "--json")
    out = folder / f"{name}.parquet"
    start = time.perf_counter()
    for verb, more in (("run", flags), ("export", ("--out", str(out)))):
        told = subprocess.run([sys.executable, "-m", "geoslave.cli.main", "region", verb, name, *more, *where],
                              capture_output=True, text=True)  # fmt: skip
        if told.returncode:
            sys.exit(f"region {verb} failed: {told.stderr}")
    seconds = time.perf_counter() - start
    sites = gpd.read_parquet(out).to_crs("EPSG:32645")
    return seconds, sites[sites["confidence"] >= json.loads(told.stdout)["operating_confidence"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", default="kiln-s2")
    parser.add_argument("--side", type=int, help="of the scene, in pixels")
    asked = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("the chips are missing: set GEOSLAVE_DATA to the folder with mines_s2 and kilns_s2")
    with TemporaryDirectory() as folder:
        say(gate_figures(Path(folder), asked.model, data, asked.side or (1_152 if asked.quick else 10_980)))


if __name__ == "__main__":
    main()
