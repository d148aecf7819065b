"""Places hidden among others, from real imagery: what a search for a new kind of site is measured on.

A haystack is made so that its needles cannot be told by how they came here: one size, one resolution, and
chips of different collections brought to the same colours.
"""

from __future__ import annotations

import csv
import os
import re
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.features import rasterize

from geoslave.search.embedder import Embedder
from geoslave.search.index import ChipIndex, Settings, build_index, open_index, scenes_ground

SIDE = 32
"""Of a window with a kiln, pixels of 10 m: three kilns wide, as an index for kilns is cut."""
LARGE_M2 = 150.0
LOOKED_AT = (
    "ACAexpanded_amazon_positives2025-08_2024-01-01_2025-01-01",
    "BD_MineriaAurifera_Peru-curated2026-04-17_2025-01-01_2026-01-01",
    "MinesPos2018-2020Sentinel_points_2019-01-01_2020-01-01",
    "aquaculture-faziendas-negatives2025-08_2024-01-01_2025-01-01",
    "dredge_mining_positives2025-08_2024-08-01_2024-11-01",
    "full_amazon_v9_negatives_2019-01-01_2020-01-01",
    "landslide_negatives2025-08_2024-01-01_2025-01-01",
    "random_negatives10k_2025-08_2024-01-01_2025-01-01",
    "v0.5-0.8-0.9ensemble_2023_positives_2023-01-01_2024-01-01",
    "v0.X-SSL4EO-2025Q4-negatives_2025-10-01_2025-12-31",
    "v0.xx-SSL4EO-2023combined-negatives_2023-01-01_2024-01-01",
    "v2.4_amazon_negatives_2019-01-01_2020-01-01",
    "v2.4_amazon_positives_2019-01-01_2020-01-01",
    "v3.3_2023_positives_2023-01-01_2024-01-01",
    "v3.4_2023_negatives_2023-01-01_2024-01-01",
    "v3.6_2023_positives_2023-01-01_2024-01-01",
)
"""Galleries of mines_s2 on which the descriptors of texture were chosen (geoslave/search/texture.py)."""
_AWAY = 10
"""Pixels that a window keeps from the edge of a kiln chip: kilns cut by it are not labelled."""


@dataclass(frozen=True)
class Haystack:
    """Chips, and which of them hold a site."""

    name: str
    chips: NDArray[np.uint8]
    """[n, band, y, x]"""
    site: NDArray[np.bool_]
    """[n]"""
    places: NDArray[np.float64]
    """[n, 2] longitude and latitude; made up where nobody knows, far from each other."""
    about: str

    def cut(self, n: int, seed: int = 0) -> Haystack:
        """The same sites among fewer others, `n` chips in all."""
        rng = np.random.default_rng(seed)
        others = np.flatnonzero(~self.site)
        kept = np.sort(np.concatenate([np.flatnonzero(self.site), rng.permutation(others)[: n - int(self.site.sum())]]))
        return Haystack(
            self.name, self.chips[kept], self.site[kept], self.places[kept], f"{self.about}, of them {n} in all"
        )


def data_folder() -> Path:
    return Path(os.environ.get("GEOSLAVE_DATA", "../shared/data"))


def kilns(seed: int = 0) -> Haystack:
    """Each kiln of Bangladesh in a window of its own, among kiln-free windows around them and chips of the Amazon.

    The windows are brought to the channel means and spreads of the Amazon chips, quantile by quantile: by its
    stretch a window of Bangladesh cannot be told from a chip of the Amazon.
    """
    rng = np.random.default_rng(seed)
    needles, around = _kiln_windows(rng)
    hay, _ = _mine_chips(clear=True)
    hay = hay[~_labels(clear=True)][:, :, 8 : 8 + SIDE, 8 : 8 + SIDE]
    bangladesh = np.concatenate([needles, around])
    matched = _restyled(bangladesh, hay)
    chips = np.concatenate([matched, hay])
    site = np.arange(len(chips)) < len(needles)
    about = f"{len(needles)} kilns among {len(around)} windows around them and {len(hay)} chips of the Amazon"
    return _shuffled("kilns", chips, site, about, rng)


def mines(wanted: int = 100, seed: int = 0, *, not_looked_at: bool = False) -> Haystack:
    """So many chips with a gold mine among all clear ones without, of the same processing.

    Args:
        not_looked_at: of the galleries only that had no part in choosing what stands in a vector.
    """
    rng = np.random.default_rng(seed)
    chips, style = _mine_chips(clear=True)
    label = _labels(clear=True)
    if not_looked_at:
        style &= ~np.isin(_galleries(clear=True), LOOKED_AT)
    chosen = rng.permutation(np.flatnonzero(label & style))[:wanted]
    rows = np.concatenate([chosen, np.flatnonzero(~label & style)])
    site = np.arange(len(rows)) < len(chosen)
    about = f"{len(chosen)} chips with a gold mine (weak labels) among {len(rows) - len(chosen)} without"
    name = "mines_of_other_galleries" if not_looked_at else "mines"
    return _shuffled(name, chips[rows], site, about, rng)


def buildings(core: int = 64, side: int = 96) -> Haystack:
    """One kind of building in Banepa: halls of 150 m2 and more under a tin roof, as OpenStreetMap tells.

    Every 8 m of the aerial imagery is a chip of 13 m, a third of it margin, as an index cuts them. A chip is a site
    where such a roof covers half of its core or more.
    """
    picture, transform, layer = _banepa()
    covered = rasterize(_halls(layer), picture.shape[1:], transform=transform).astype(bool)
    chips, cells = _cut(picture, core, side)
    site = np.array([covered[r * core : (r + 1) * core, c * core : (c + 1) * core].mean() >= 0.5 for r, c in cells])
    about = f"{site.sum()} chips with a tin roof of {LARGE_M2:g} m2 and more among {(~site).sum()} others"
    return Haystack("buildings", chips, site, _middles(cells, core, transform), about)


def large_buildings(core: int = 64, side: int = 128) -> Haystack:
    """Buildings of 150 m2 and more in Banepa, whatever they are: no kind that a picture shows.

    Every 8 m of its aerial imagery is a chip of 17 m; a building belongs to the chip whose core holds its middle.
    """
    picture, transform, layer = _banepa()
    middles = layer.geometry[_is_large(layer)].representative_point()
    cols, rows = ~transform @ (middles.x.to_numpy(), middles.y.to_numpy())
    held = {(int(r // core), int(c // core)) for r, c in zip(rows, cols, strict=True)}
    chips, cells = _cut(picture, core, side)
    site = np.array([cell in held for cell in cells])
    about = f"{site.sum()} places of buildings of {LARGE_M2:g} m2 and more among {(~site).sum()} others"
    return Haystack("large_buildings", chips, site, _middles(cells, core, transform), about)


def _banepa() -> tuple[NDArray[np.uint8], rasterio.Affine, gpd.GeoDataFrame]:
    """(picture [band, y, x], its transform, outlines of buildings in longitude and latitude)."""
    folder = data_folder() / "buildings_banepa" / "train"
    picture, transform = _mosaic(sorted((folder / "oam").glob("*.tif")))
    return picture, transform, gpd.read_file(next((folder / "osm").glob("*.geojson")))


def banepa_index(folder: Path, embedder: Embedder) -> tuple[ChipIndex, NDArray[np.bool_]]:
    """(`buildings` as `geoslave search index` makes chips of the mosaic, which of them are sites [n])."""
    picture, transform, layer = _banepa()
    scene = folder / "banepa.tif"
    with rasterio.open(scene, "w", "GTiff", picture.shape[2], picture.shape[1], 3, 4326, transform, "uint8") as file:
        file.write(picture)
    settings = Settings(chip_px=96, core_px=64, gsd_m=0.1323)
    build_index(scenes_ground([scene], nodata=0), folder / "index", embedder, settings)
    index = open_index(folder / "index")
    cores, roofs = (one.to_crs(32645) for one in (index.chips.geometry, _halls(layer)))
    return index, (cores.intersection(roofs.union_all()).area / cores.area >= 0.5).to_numpy()


def _halls(layer: gpd.GeoDataFrame) -> gpd.GeoSeries:
    return layer.geometry[layer["roof:material"].str.lower().eq("tin").to_numpy() & _is_large(layer)]


def _is_large(layer: gpd.GeoDataFrame) -> NDArray[np.bool_]:
    large: NDArray[np.bool_] = (layer.to_crs(32645).area >= LARGE_M2).to_numpy()
    return large


def _cut(picture: NDArray[np.uint8], core: int, side: int) -> tuple[NDArray[np.uint8], list[tuple[int, int]]]:
    """(chips [n, band, y, x] around every core that holds imagery, row and column of each core)."""
    margin = (side - core) // 2
    padded = np.pad(picture, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    cells = [
        (row, col)
        for row in range(picture.shape[1] // core)
        for col in range(picture.shape[2] // core)
        if picture[:, row * core : (row + 1) * core, col * core : (col + 1) * core].any()
    ]
    return np.stack([padded[:, r * core : r * core + side, c * core : c * core + side] for r, c in cells]), cells


def _middles(cells: list[tuple[int, int]], core: int, transform: rasterio.Affine) -> NDArray[np.float64]:
    return np.array([transform @ ((col + 0.5) * core, (row + 0.5) * core) for row, col in cells])


def _shuffled(
    name: str, chips: NDArray[np.uint8], site: NDArray[np.bool_], about: str, rng: np.random.Generator
) -> Haystack:
    order = rng.permutation(len(chips))
    far = np.column_stack([np.arange(len(chips)) % 100, np.arange(len(chips)) // 100]) * 0.1
    return Haystack(name, chips[order], site[order], far, about)


def _mine_table() -> list[dict[str, str]]:
    with (data_folder() / "mines_s2" / "chips.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _clear() -> NDArray[np.bool_]:
    return np.array([row["cloudy"] != "True" for row in _mine_table()])


def _labels(*, clear: bool) -> NDArray[np.bool_]:
    label = np.array([row["label"] == "1" for row in _mine_table()])
    return label[_clear()] if clear else label


def _galleries(*, clear: bool) -> NDArray[np.str_]:
    """Without the cloud limit: both halves of a gallery are one."""
    names = np.array([re.sub(r"_S2L1C_clear0\.\d+", "", row["gallery"]) for row in _mine_table()])
    return names[_clear()] if clear else names


def _mine_chips(*, clear: bool) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(chips [n, band, y, x], which of them come from Sentinel-2 L1C and not from another's preview)."""
    with np.load(data_folder() / "mines_s2" / "chips.npz") as file:
        chips = file["x"].transpose(0, 3, 1, 2)
    style = np.array(["rgb_preview" not in row["gallery"] for row in _mine_table()])
    kept = _clear() if clear else np.ones(len(chips), bool)
    return chips[kept], style[kept]


def _kiln_windows(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(windows with a kiln, one for each; windows without)."""
    folder = data_folder() / "kilns_s2"
    layer = gpd.read_file(folder / "kilns.geojson").to_crs(4326)
    needles, around, taken = [], [], []
    for path in sorted((folder / "chips").glob("*.tif")):
        with rasterio.open(path) as dataset:
            chip, transform = dataset.read((1, 2, 3)), dataset.transform
        middles = layer[layer.intersects(_box(transform, chip.shape))].geometry.representative_point()
        cols, rows = ~transform @ (middles.x.to_numpy(), middles.y.to_numpy())
        spots = list(zip(rows, cols, middles.x, middles.y, strict=True))
        for row, col, x, y in spots:
            if any(np.hypot((x - a) * 102_000, (y - b) * 111_000) < 50 for a, b in taken):
                continue
            taken.append((x, y))
            shift = rng.integers(-5, 6, 2)
            top, left = (int(np.clip(v + s - SIDE // 2, 0, 128 - SIDE)) for v, s in zip((row, col), shift, strict=True))
            needles.append(chip[:, top : top + SIDE, left : left + SIDE])
        free: list[tuple[int, int]] = []
        for top, left in rng.integers(_AWAY, 128 - SIDE - _AWAY + 1, (200, 2)):
            clear = all(
                not (top - 8 <= r <= top + SIDE + 8 and left - 8 <= c <= left + SIDE + 8) for r, c, _, _ in spots
            )
            if clear and all(max(abs(top - y), abs(left - x)) >= 12 for y, x in free):
                free.append((int(top), int(left)))
        around += [chip[:, y : y + SIDE, x : x + SIDE] for y, x in free]
    return np.stack(needles), np.stack(around)


def _box(transform: rasterio.Affine, shape: tuple[int, ...]) -> object:
    from shapely.geometry import box

    west, north = transform @ (0, 0)
    east, south = transform @ (shape[2], shape[1])
    return box(west, south, east, north)


def _restyled(chips: NDArray[np.uint8], like: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Chips [n, band, y, x] whose channel means and spreads are distributed as those of others.

    Quantile by quantile: the chip with the highest contrast of all gets the highest of the others, and so on.
    """
    axes = (2, 3)
    own = chips.astype(np.float64)
    mean, spread = own.mean(axes), own.std(axes)
    other = like.astype(np.float64)
    z = (own - mean[:, :, None, None]) / np.maximum(spread, 1e-6)[:, :, None, None]
    to_mean, to_spread = _as_distributed(mean, other.mean(axes)), _as_distributed(spread, other.std(axes))
    restyled = z * to_spread[:, :, None, None] + to_mean[:, :, None, None]
    return np.clip(np.rint(restyled), 0, 255).astype(np.uint8)


def _as_distributed(values: NDArray[np.float64], like: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values [n, band] replaced by the same quantiles of others [m, band]."""
    share = (values.argsort(axis=0).argsort(axis=0) + 0.5) / len(values)
    return np.stack([np.quantile(like[:, band], share[:, band]) for band in range(values.shape[1])], axis=1)


def _mosaic(paths: list[Path]) -> tuple[NDArray[np.uint8], rasterio.Affine]:
    from rasterio.merge import merge

    return merge(paths, indexes=[1, 2, 3])
