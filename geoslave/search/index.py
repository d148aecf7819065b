"""An index of chips: every chip of a region embedded once, so that asking for more like these takes an instant.

    <index>/
      index.json      the embedder, the chips' size, the scenes with their stamps, checksums; complete, or absent
      chips.parquet   GeoParquet: chip_id, scene_id, date, valid_fraction, row, col, geometry (longitude, latitude)
      vectors.npy     float16 [chip, number], rows as in chips.parquet, each of length one
      near.usearch    a graph of neighbours, where there are so many chips that it pays; alone of all files its
                      bytes may differ from run to run
      campaigns/      what is searched with it (geoslave.search.campaign)
      building.json, parts/   while it is made: killed at any moment, it goes on where it stopped

A chip answers for its core; cores tile each scene exactly once. What is embedded is the core and a margin
around it, so that a site on the edge of its core is seen whole.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from rasterio.windows import Window

from geoslave import __version__
from geoslave.detect import scene_ids
from geoslave.detections.measure import to_wgs84
from geoslave.errors import GeoslaveError, MissingExtra, ModelError
from geoslave.files import atomic_file, free_bytes
from geoslave.grid import Cell, cells_within, partition
from geoslave.imagery.aoi import choose_cells
from geoslave.imagery.geotiff import gdal_environment, shown_path
from geoslave.imagery.raster import Raster
from geoslave.imagery.scaling import scale
from geoslave.model.package import ModelSpec, Thresholds
from geoslave.model.predict import ahead
from geoslave.region.config import RegionConfig
from geoslave.region.gridrecord import GridRecord
from geoslave.region.grids import area_on, ground, measure, open_input
from geoslave.region.inputs import Input, own_stamp
from geoslave.region.layout import RegionFolder, digest, read_json, write_json, write_whole
from geoslave.region.run import prepare
from geoslave.region.stamps import stamp
from geoslave.search import SearchError
from geoslave.search.embedder import Embedder, open_embedder, standardised
from geoslave.search.lock import alone
from geoslave.search.ranking import Background, learn_background
from geoslave.search.windows import Lattice
from geoslave.targets import Target, get_target

FORMAT = 1
PART = 24
"""Chips along a side of a part: a piece of work that is done, or lost and done again, as one."""
_READ_AHEAD = 2
_SEALED = ("chips.parquet", "vectors.npy")
"""Files whose SHA-256 stands in index.json."""
_SAMPLE = 200_000
"""Chips that tell how vectors are spread."""
_GRAPH_FROM = 50_000
"""Chips from which on a graph of neighbours pays: below it, looking at every vector takes less than 100 ms."""

Step = Callable[[str, int, int], None]


class Settings(BaseModel):
    """How chips are cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chip_px: int = Field(default=48, ge=8, le=512)
    """What is embedded, in pixels."""
    core_px: int = Field(default=32, ge=4, le=512)
    """What a chip answers for, in pixels: the step from chip to chip."""
    gsd_m: float | None = Field(default=None, gt=0)
    """Ground sampling distance. None: the embedder's."""
    min_valid: float = Field(default=0.01, gt=0, le=1)
    """Chips with a smaller share of valid pixels in their core are left out."""

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if self.core_px > self.chip_px or (self.chip_px - self.core_px) % 2:
            raise ValueError("core_px must not exceed chip_px, and differ from it by an even number")
        return self

    @property
    def margin_px(self) -> int:
        """What is seen around a core on each side."""
        return (self.chip_px - self.core_px) // 2


def settings_for(chip_m: float, gsd_m: float) -> Settings:
    """Chips of a width on the ground (`Target.search_chip_m`), 16 to 128 pixels; two thirds of it are the core."""
    chip = int(np.clip(2 * round(chip_m / gsd_m / 2), 16, 128))
    core = 2 * round(chip / 3)
    return Settings(chip_px=chip, core_px=core)


@dataclass(frozen=True, slots=True)
class Ground:
    """The imagery that an index is made of."""

    inputs: tuple[Input, ...]
    config: RegionConfig
    """How it is read."""
    aoi: gpd.GeoSeries | None = None
    items: Path | None = None
    """STAC items of composites."""
    own_target: Target | None = None
    """What `config.target` means, where that is no preset."""
    model: ModelSpec | None = None
    """Of the region's model."""

    @property
    def sought(self) -> Target:
        """What the region's model looks for."""
        return self.own_target or get_target(self.config.target)


@dataclass(frozen=True, slots=True)
class Built:
    """What making an index took."""

    folder: Path
    chips: int
    """In the index."""
    empty: int
    """Left out: without enough valid pixels."""
    done_before: int
    """Parts that an earlier run had made."""
    parts: int
    seconds: float
    chips_per_second: float
    """Embedded in this run."""
    reading_share: float
    """Of the time that reading and embedding took in this run; they go on side by side."""
    bytes_per_chip: float
    notes: tuple[str, ...] = ()


def region_ground(region: RegionFolder) -> Ground:
    """A region's scenes (or composites) and its area of interest.

    Raises:
        GeoslaveError: if region.yaml, area, scenes or model cannot be used.
    """
    job = prepare(region)
    inputs = tuple(_absolute(one) for one in job.inputs.values())
    return Ground(inputs, job.config, job.aoi, job.items.absolute(), job.package.spec.own_target, job.package.spec)


def scenes_ground(
    paths: Sequence[str | Path],
    *,
    aoi: gpd.GeoSeries | None = None,
    bands: dict[str, int] | None = None,
    crs: str | None = None,
    nodata: float | Literal["none"] | None = None,
) -> Ground:
    """Rasters by their paths.

    Raises:
        SceneError: if one is not there.
    """
    given = [str(path) for path in paths]
    inputs = tuple(
        _absolute(Input(name, path, (), None, own_stamp(path)))
        for path, name in zip(given, scene_ids(given), strict=True)
    )
    if not inputs:
        raise SearchError("there is no scene to index: give one or more rasters with --scenes")
    facts: dict[str, Any] = {"target": "brick_kiln", "model": "none", "bands": bands or {}, "crs": crs}
    return Ground(inputs, RegionConfig(**facts, aoi=None, nodata=nodata), aoi)


def build_index(
    on: Ground,
    folder: Path,
    embedder: Embedder,
    settings: Settings | None = None,
    *,
    overwrite: bool = False,
    step: Step = lambda *_: None,
) -> Built:
    """Embed every chip once. Running it again goes on where it stopped; a finished index is left as it is.

    Args:
        overwrite: make it anew where it is damaged, older than its scenes, or was made of other scenes, by another
            embedder, or with other chips. Campaigns are kept: chips keep their ids.

    Raises:
        SearchError: if another index is there or it is damaged, another process is at work, no chip is left, or the
            disk is too small.
        GeoslaveError: if a scene cannot be read or has not the embedder's bands; what is done stays.
    """
    settings = settings or Settings()
    began = time.perf_counter()
    with _alone(folder):
        job = _prepare(on, folder, embedder, settings, overwrite)
        if read_json(folder / "index.json") is not None:
            return _standing(job)
        times = _embed_parts(job, step)
        n, empty = _finish(job, step)
        shutil.rmtree(folder / "parts", ignore_errors=True)
        (folder / "building.json").unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return Built(
        folder=folder,
        chips=n,
        empty=empty,
        done_before=times.before,
        parts=times.parts,
        seconds=time.perf_counter() - began,
        chips_per_second=times.chips / max(times.wall, 1e-9),
        reading_share=times.reading / max(times.reading + times.embedding, 1e-9),
        bytes_per_chip=size / n,
        notes=tuple(note for record in job.records.values() for note in record.notes),
    )


@dataclass(frozen=True)
class ChipIndex:
    """An index that is opened."""

    folder: Path
    facts: dict[str, Any]
    """What index.json says."""
    chips: gpd.GeoDataFrame
    """chip_id, scene_id, date, valid_fraction, row, col, geometry: the cores, in longitude and latitude."""
    vectors: NDArray[np.float16]
    """[chip, number], rows as in `chips`, each of length one; on disk, read as it is looked at."""
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.chips)

    @property
    def settings(self) -> Settings:
        return Settings.model_validate(self.facts["settings"])

    @property
    def rows(self) -> dict[str, int]:
        """Row by chip_id."""
        if "rows" not in self._kept:
            self._kept["rows"] = {chip: row for row, chip in enumerate(self.chips["chip_id"])}
        known: dict[str, int] = self._kept["rows"]
        return known

    @property
    def background(self) -> Background:
        """What the ground is like: learned once, for reading its chips takes longer than a query."""
        if "background" not in self._kept:
            self._kept["background"] = learn_background(self.vectors)
        learned: Background = self._kept["background"]
        return learned

    @property
    def has_graph(self) -> bool:
        """Whether the nearest are found by a graph of neighbours."""
        return (self.folder / "near.usearch").is_file()

    def nearest(self, vector: NDArray[np.floating[Any]], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(rows [k], cosine similarity [k]) of the chips most like a vector [number], nearest first.

        With the graph of neighbours a few of them may be missed; without it they are exact.
        """
        wanted = min(k, len(self))
        direction = np.asarray(vector, np.float32)
        direction = direction / max(float(np.linalg.norm(direction)), 1e-12)
        graph = self._graph()
        if graph is not None:
            found = graph.search(direction.astype(np.float16), wanted)
            rows = np.asarray(found.keys, np.int64)
            return rows, self.vectors[rows].astype(np.float32) @ direction
        similar = products(self.vectors, direction)
        rows = np.argpartition(-similar, wanted - 1)[:wanted] if wanted < len(self) else np.arange(len(self))
        rows = rows[np.lexsort((rows, -similar[rows]))]
        return rows.astype(np.int64), similar[rows]

    def window(self, row: int, side_px: int | None = None) -> Window:
        """The window of a chip on its scene's grid; it may hang over the edge.

        Args:
            side_px: how much is seen, in pixels; None: what was embedded.
        """
        settings = self.settings
        side = side_px or settings.chip_px
        chip = self.chips.iloc[row]
        middle = settings.core_px // 2
        top, left = (int(chip[name]) * settings.core_px + middle - side // 2 for name in ("row", "col"))
        return Window(left, top, side, side)

    @contextmanager
    def source(self, scene_id: str) -> Iterator[Any]:
        """A scene, opened as it was for the index: a `Source` with `.scene_id`, `.date` and `.overview()`.

        Raises:
            GeoslaveError: if it cannot be opened.
        """
        told = next(scene for scene in self.facts["scenes"] if scene["record"]["scene_id"] == scene_id)
        config = RegionConfig.read_again(self.facts["config"])
        items = None if self.facts["items"] is None else Path(self.facts["items"])
        spec = ModelSpec.model_validate(self.facts["reading"])
        with gdal_environment(), open_input(Input.from_dict(told["input"]), config, spec, items) as opened:
            yield opened

    def read(self, row: int, side_px: int | None = None) -> Raster:
        """The pixels of a chip, as stored."""
        with self.source(str(self.chips["scene_id"].iloc[row])) as opened:
            raster: Raster = opened.read(self.window(row, side_px))
            return raster

    def record(self, scene_id: str) -> GridRecord:
        """Grid and scaling of a scene."""
        told = next(scene for scene in self.facts["scenes"] if scene["record"]["scene_id"] == scene_id)
        return GridRecord.from_dict(told["record"])

    def changed_scenes(self) -> list[str]:
        """Scenes whose files are not the ones that were indexed, or are gone."""
        changed = []
        for scene in self.facts["scenes"]:
            try:
                _refuse_replaced(scene["record"]["stamps"])
            except GeoslaveError:
                changed.append(str(scene["record"]["scene_id"]))
        return changed

    def damaged_files(self) -> list[str]:
        """Files that are not as they were written: all of them are read."""
        return [name for name, told in self.facts["files"].items() if _sha256_of(self.folder / name) != told]

    def _graph(self) -> Any:
        path = self.folder / "near.usearch"
        if "graph" not in self._kept:
            self._kept["graph"] = _opened_graph(path) if path.is_file() else None
        return self._kept["graph"]


def open_index(folder: str | Path, *, fresh: bool = True) -> ChipIndex:
    """An index by its folder (or by its region's).

    Args:
        fresh: refuse an index that is older than its scenes.

    Raises:
        SearchError: if there is none, it is not finished, it is damaged, or a scene was replaced since.
    """
    folder = Path(folder)
    if not (folder / "index.json").is_file() and (folder / "search" / "index.json").is_file():
        folder = folder / "search"
    facts = read_json(folder / "index.json")
    if facts is None:
        raise SearchError(_why_not(folder))
    try:
        chips = gpd.read_parquet(folder / "chips.parquet")
        vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SearchError(f"{folder} is damaged ({_short(error)}): make it anew with --overwrite") from error
    if len(chips) != len(vectors) or len(chips) != facts["chips"]:
        raise SearchError(f"{folder} is damaged (chips and vectors differ in number): make it anew with --overwrite")
    index = ChipIndex(folder, facts, chips, vectors)
    changed = index.changed_scenes() if fresh else []
    if changed:
        raise SearchError(
            f"{folder} is older than its scenes ({', '.join(changed[:3])}{' ...' if len(changed) > 3 else ''} changed "
            "or gone): run  geoslave search index  again with --overwrite; answers are kept"
        )
    return index


def made_with(folder: Path, threads: int | None = None) -> Embedder | None:
    """The embedder that a finished index was made with, so that it is gone on with; None if there is none any more."""
    facts = read_json(folder / "index.json")
    if facts is None:
        return None
    try:
        embedder = open_embedder(facts["embedder"]["name"], threads)
    except ModelError:
        return None
    return embedder if embedder.checksum == facts["embedder"]["sha256"] else None


def products(vectors: NDArray[np.float16], direction: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products [n] of vectors [n, d] with a direction [d], in bounded memory."""
    out = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), 16_384):
        out[start : start + 16_384] = vectors[start : start + 16_384].astype(np.float32) @ direction
    return out


# ---------------------------------------------------------------- making it


@dataclass
class _Job:
    on: Ground
    folder: Path
    embedder: Embedder
    settings: Settings
    spec: ModelSpec
    mark: str
    records: dict[str, GridRecord] = field(default_factory=dict)

    def part(self, name: str, block: Cell) -> Path:
        return self.folder / "parts" / name / f"{block.name}.npz"


@dataclass
class _Times:
    before: int = 0
    parts: int = 0
    chips: int = 0
    reading: float = 0.0
    embedding: float = 0.0
    wall: float = 0.0


def _prepare(on: Ground, folder: Path, embedder: Embedder, settings: Settings, overwrite: bool) -> _Job:
    """Check what stands in the folder, and look at every scene."""
    spec = _reading_spec(embedder, settings, on)
    mark = digest(
        FORMAT,
        embedder.checksum,
        settings.model_dump(mode="json"),
        on.config.of_the_result() | {"model": None, "scenes": None, "aoi": None, "threshold": None},
        [one.to_dict() for one in on.inputs],
        None if on.aoi is None else hashlib.sha256(on.aoi.union_all().wkb).hexdigest(),
    )
    finished = read_json(folder / "index.json")
    if finished is not None and finished["mark"] != mark and not overwrite:
        raise SearchError(
            f"{folder} holds an index of other scenes (or another embedder, or other chips, or an earlier geoslave): "
            "choose another folder, or ask for --overwrite; answers are kept"
        )
    if finished is not None and (finished["mark"] != mark or (overwrite and not _usable(folder))):
        (folder / "index.json").unlink()
        finished = None
    job = _Job(on, folder, embedder, settings, spec, mark)
    if finished is None:
        job.records = _look(job)
        _begin(job)
    return job


def _begin(job: _Job) -> None:
    """Parts of an earlier run are gone on with if they are of the same files: else old and new would be mixed."""
    now = {"mark": job.mark, "stamps": digest({name: record.stamps for name, record in job.records.items()})}
    if read_json(job.folder / "building.json") != now:
        shutil.rmtree(job.folder / "parts", ignore_errors=True)  # a draft: nothing that anybody made by hand
        write_json(job.folder / "building.json", now)


def _usable(folder: Path) -> bool:
    """Whether an index that was finished is whole, and as old as its scenes."""
    try:
        return not open_index(folder).damaged_files()
    except SearchError:
        return False


def _reading_spec(embedder: Embedder, settings: Settings, on: Ground) -> ModelSpec:
    """What the embedder needs, in the words that reading a region understands."""
    spec = embedder.spec
    return ModelSpec(
        name=spec.name,
        version=spec.version,
        title=spec.name,
        target=on.config.target,
        own_target=on.own_target,
        classes=("site",),
        bands=spec.bands,
        gsd_m=settings.gsd_m or spec.gsd_m,
        scaling=spec.scaling,
        tile=settings.core_px * PART,
        halo=0,
        stride=1,
        thresholds=Thresholds(high=0.5, low=0.5),
        architecture={},
        licence=spec.licence,
        data=spec.data,
    )


def _look(job: _Job) -> dict[str, GridRecord]:
    """Place, scaling and stamps of every scene; those outside the area or without data hold no chip."""
    config = job.on.config.model_copy(update={"block": job.settings.core_px * PART})
    records = {one.name: measure(one, config, job.spec, job.on.aoi, job.on.items) for one in job.on.inputs}
    if not any(record.status == "ok" for record in records.values()):
        why = {record.status for record in records.values()}
        cause = "the area of interest misses every scene" if why == {"outside"} else "no scene holds a valid pixel"
        raise SearchError(f"there is nothing to index: {cause}; check the scenes and the area")
    return records


def _blocks(job: _Job) -> Iterator[tuple[str, GridRecord, Cell, list[Cell]]]:
    """(grid, its record, block, its chips) of every part, in the order of the index."""
    size = job.settings.core_px
    for one in job.on.inputs:
        record = job.records[one.name]
        if record.status != "ok":
            continue
        area = area_on(ground(one, job.on.aoi, job.spec), record.geobox)
        for block in partition(record.shape, size * PART):
            chips: Iterator[Cell] = cells_within(record.shape, size, block.core)
            inside = list(chips if area is None else choose_cells(chips, area, record.geobox, 0.0))
            if inside:
                yield one.name, record, block, inside


def _embed_parts(job: _Job, step: Step) -> _Times:
    blocks = list(_blocks(job))
    times = _Times(parts=len(blocks))
    todo = [block for block in blocks if not _is_whole(job.part(block[0], block[2]))]
    times.before = len(blocks) - len(todo)
    chips_of = [sum(len(block[3]) for block in some) for some in (todo, blocks)]
    check_disk(job.folder, sum(chips_of), job.embedder.dimensions)
    began = time.perf_counter()
    opened = _Opened(job)

    def read(one: tuple[str, GridRecord, Cell, list[Cell]]) -> Any:
        start = time.perf_counter()
        name, record, block, chips = one
        cut = opened.cut(name, block)
        times.reading += time.perf_counter() - start
        return name, record, block, chips, cut

    def embed(one: Any) -> Any:
        start = time.perf_counter()
        name, record, block, chips, (raster, origin) = one
        content, n = _part(job, record, chips, raster, origin)
        return name, record, block, content, n, time.perf_counter() - start

    with gdal_environment():
        try:
            done = times.before
            threads = job.embedder.side_by_side
            parts = ahead(embed, ahead(read, todo, _READ_AHEAD), threads, threads)
            for name, record, block, content, n, seconds in parts:
                times.embedding += seconds
                _refuse_replaced(record.stamps)
                write_whole(job.part(name, block), content)
                done, times.chips = done + 1, times.chips + n
                step("embedding", done, len(blocks))
        finally:
            opened.close()
    times.wall = time.perf_counter() - began
    return times


class _Opened:
    """The scene that is read from: the next blocks are mostly of the same one. Used by one thread."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._name: str | None = None
        self._source: Any = None
        self._inputs = {one.name: one for one in job.on.inputs}

    def cut(self, name: str, block: Cell) -> tuple[Raster, tuple[int, int]]:
        """(a block with its margin, row and column of its upper left corner)."""
        with gdal_environment():  # of this thread
            if self._name != name:
                self.close()
                job = self._job
                self._source = open_input(self._inputs[name], job.on.config, job.spec, job.on.items)
                self._name = name
            # every chip is as large as the others, those on the edge too: what hangs over is invalid
            size = self._job.settings.core_px
            margin = self._job.settings.margin_px + self._job.embedder.rim(_lattice(self._job.settings))
            core = block.core
            rows, cols = (-(-int(side) // size) * size + 2 * margin for side in (core.height, core.width))
            top, left = int(core.row_off) - margin, int(core.col_off) - margin
            return self._source.read(Window(left, top, cols, rows)), (top, left)

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source = self._name = None


def _part(
    job: _Job, record: GridRecord, chips: Sequence[Cell], raster: Raster, origin: tuple[int, int]
) -> tuple[bytes, int]:
    """(the file of a part, chips embedded)."""
    settings = job.settings
    margin, size = settings.margin_px, settings.core_px
    kept: list[tuple[int, int, float]] = []
    corners: list[tuple[int, int]] = []
    for chip in chips:
        top, left = chip.row * size - margin - origin[0], chip.col * size - margin - origin[1]
        core = raster.valid[top + margin : top + margin + size, left + margin : left + margin + size]
        share = float(core.sum()) / (chip.core.width * chip.core.height)
        if share >= settings.min_valid:
            kept.append((chip.row, chip.col, share))
            corners.append((top, left))
    scaled = scale(raster.pixels, raster.valid, *record.coefficients, job.spec.scaling.clip)
    vectors = np.zeros((len(kept), job.embedder.dimensions), np.float16)
    if kept:
        vectors[:] = np.clip(_embedded(job, scaled, raster.valid, np.array(corners)), -60_000, 60_000)
    table = np.array(kept, np.float64).reshape(-1, 3)
    file = io.BytesIO()
    np.savez(file, cells=table[:, :2].astype(np.int32), valid=table[:, 2].astype(np.float32), vectors=vectors,
             empty=np.int64(len(chips) - len(kept)))  # fmt: skip
    content = file.getvalue()
    return content + hashlib.sha256(content).digest(), len(kept)


def _embedded(
    job: _Job, scaled: NDArray[np.float32], valid: NDArray[np.bool_], corners: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Raw vectors [n, number] of the chips of a block [band, y, x] by their upper left corners [n, 2]."""
    lattice = _lattice(job.settings)
    rim, step = job.embedder.rim(lattice), lattice.step
    first = corners.min(axis=0)
    cells = (corners - first) // step
    rows, cols = (int(last) + 1 for last in cells.max(axis=0))
    lattice = replace(lattice, rows=rows, cols=cols)
    top, left = (int(at) - rim for at in first)
    down, across = (side + 2 * rim for side in lattice.shape)
    place = (slice(top, top + down), slice(left, left + across))
    return job.embedder.windows(scaled[:, *place], valid[place], lattice, cells[:, 0] * cols + cells[:, 1])


def _lattice(settings: Settings) -> Lattice:
    return Lattice(1, 1, settings.core_px, settings.chip_px)


def _is_whole(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return len(content) > 32 and hashlib.sha256(content[:-32]).digest() == content[-32:]


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(path.read_bytes()[:-32]), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _finish(job: _Job, step: Step) -> tuple[int, int]:
    """Bring the parts together: (chips in the index, chips left out)."""
    blocks = list(_blocks(job))
    tables, empty = [], 0
    for name, record, block, _ in blocks:
        part = _load(job.part(name, block))
        tables.append(_table(job, record, part))
        empty += int(part["empty"])
    chips = gpd.GeoDataFrame(pd.concat(tables, ignore_index=True), crs="EPSG:4326") if tables else None
    if chips is None or chips.empty:
        raise SearchError("there is nothing to index: no chip holds enough valid pixels; check nodata and the area")
    centre, spread = _spread(job, blocks, len(chips))
    with atomic_file(job.folder / "vectors.npy", overwrite=True) as draft:
        _write_vectors(job, blocks, draft, (centre, spread), len(chips), step)
    with atomic_file(job.folder / "chips.parquet", overwrite=True) as draft:
        chips.to_parquet(draft, index=False)
    _write_graph(job.folder, len(chips), step)
    write_json(job.folder / "index.json", _facts(job, chips, centre, spread))
    return len(chips), empty


def _table(job: _Job, record: GridRecord, part: dict[str, NDArray[Any]]) -> gpd.GeoDataFrame:
    size = job.settings.core_px
    rows, cols = part["cells"][:, 0].astype(int), part["cells"][:, 1].astype(int)
    bottom, right = np.minimum((rows + 1) * size, record.shape[0]), np.minimum((cols + 1) * size, record.shape[1])
    boxes = shapely.box(cols * size, rows * size, right, bottom)
    placed = shapely.transform(boxes, lambda xy: np.column_stack(record.geobox.affine @ (xy[:, 0], xy[:, 1])))
    shapes = np.asarray(to_wgs84(placed, record.geobox.crs.proj))
    ids = [_chip_id(job, record, int(row), int(col)) for row, col in zip(rows, cols, strict=True)]
    facts = {
        "chip_id": ids,
        "scene_id": record.scene_id,
        "date": pd.Series([record.date] * len(ids), dtype="object"),
        "valid_fraction": part["valid"],
        "row": rows.astype(np.int32),
        "col": cols.astype(np.int32),
    }
    return gpd.GeoDataFrame(facts, geometry=shapes, crs="EPSG:4326")


def _chip_id(job: _Job, record: GridRecord, row: int, col: int) -> str:
    """Made from content (scene, day, place and size), so that answers survive another index of the same chips."""
    corner = record.geobox.affine @ (col * job.settings.core_px, row * job.settings.core_px)
    across = abs(record.geobox.affine.a) * job.settings.core_px
    told = f"{record.scene_id},{record.date or ''},{record.crs},{corner[0]:.6f},{corner[1]:.6f},{across:.6f}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _spread(job: _Job, blocks: Sequence[Any], n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(middle, standard deviation) [number] of the vectors of chips that are mostly valid."""
    every = max(1, n // _SAMPLE)
    total = np.zeros(job.embedder.dimensions)
    square, count, at = total.copy(), 0, 0
    for name, _, block, _ in blocks:
        part = _load(job.part(name, block))
        chosen = ((np.arange(len(part["valid"])) + at) % every == 0) & (part["valid"] >= 0.5)
        values = part["vectors"][chosen].astype(np.float64)
        total, square, count = total + values.sum(axis=0), square + (values**2).sum(axis=0), count + len(values)
        at += len(part["valid"])
    if count == 0:
        return np.zeros_like(total, np.float32), np.ones_like(total, np.float32)
    middle = total / count
    deviation = np.sqrt(np.maximum(square / count - middle**2, 0))
    return middle.astype(np.float32), np.maximum(deviation, 1e-4 + 1e-3 * np.abs(middle)).astype(np.float32)


def _write_vectors(
    job: _Job,
    blocks: Sequence[Any],
    draft: Path,
    scaling: tuple[NDArray[np.float32], NDArray[np.float32]],
    n: int,
    step: Step,
) -> None:
    out = np.lib.format.open_memmap(draft, mode="w+", dtype=np.float16, shape=(n, job.embedder.dimensions))
    at = 0
    for number, (name, _, block, _) in enumerate(blocks, start=1):
        raw = _load(job.part(name, block))["vectors"]
        out[at : at + len(raw)] = standardised(raw, *scaling, job.embedder.emphasis)
        at += len(raw)
        step("bringing together", number, len(blocks))
    out.flush()


def _write_graph(folder: Path, n: int, step: Step) -> None:
    """The graph of neighbours, where it pays and the library is there."""
    (folder / "near.usearch").unlink(missing_ok=True)
    if n < _GRAPH_FROM:
        return
    try:
        from usearch.index import Index
    except ImportError:
        return
    vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    # half the library's effort: of the 100 nearest 93 are found, and a graph of a million takes minutes, not an hour
    graph = Index(
        ndim=vectors.shape[1], metric="cos", dtype="i8", connectivity=12, expansion_add=32, expansion_search=128
    )
    for start in range(0, n, 10_000):
        graph.add(np.arange(start, min(start + 10_000, n)), np.asarray(vectors[start : start + 10_000]))
        step("graph of neighbours", min(start + 10_000, n), n)
    with atomic_file(folder / "near.usearch", overwrite=True) as draft:
        graph.save(str(draft))


def _opened_graph(path: Path) -> Any:
    try:
        from usearch.index import Index
    except ImportError:
        raise MissingExtra("a search among so many chips", "search") from None
    try:
        return Index.restore(str(path), view=True)
    except (ValueError, RuntimeError):  # damaged: looking at all vectors finds the same, only slower
        return None


def _facts(
    job: _Job, chips: gpd.GeoDataFrame, centre: NDArray[np.float32], spread: NDArray[np.float32]
) -> dict[str, Any]:
    spec = job.embedder.spec
    west, south, east, north = (float(value) for value in chips.total_bounds)
    return {
        "format": FORMAT,
        "version": __version__,
        "mark": job.mark,
        "chips": len(chips),
        "dimensions": job.embedder.dimensions,
        "settings": job.settings.model_dump(mode="json"),
        "embedder": {**spec.model_dump(mode="json"), "sha256": job.embedder.checksum},
        "centre": [float(value) for value in centre],
        "spread": [float(value) for value in spread],
        "bounds": [west, south, east, north],
        "files": {name: _sha256_of(job.folder / name) for name in _SEALED},
        "config": job.on.config.model_dump(mode="json"),
        "reading": job.spec.model_dump(mode="json"),
        "items": None if job.on.items is None else str(job.on.items),
        "scenes": [
            {"input": one.to_dict(), "record": {**job.records[one.name].to_dict(), "blocks": []}}
            for one in job.on.inputs
            if job.records[one.name].status == "ok"
        ],
    }


def _standing(job: _Job) -> Built:
    index = open_index(job.folder, fresh=False)
    if damaged := index.damaged_files():
        raise SearchError(f"{job.folder} is damaged ({', '.join(damaged)}): make it anew with --overwrite")
    return Built(job.folder, len(index), 0, 0, 0, 0.0, 0.0, 0.0, 0.0, ("the index was finished before",))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process make an index.

    Raises:
        SearchError: if another one is at it, or the folder holds other things.
    """
    known = {"index.json", "building.json", "lock", "chips.parquet", "vectors.npy"}
    if folder.exists() and not folder.is_dir():
        raise SearchError(f"{folder} is a file: give a folder for the index")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / name).exists() for name in known):
        raise SearchError(f"{folder} holds other things than an index: choose another folder")
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, "the index is being made by another process: wait for it"):
        for draft in folder.glob(".~*"):
            with suppress(OSError):
                draft.unlink()
        yield


def _refuse_replaced(stamps: dict[str, str]) -> None:
    for path, before in stamps.items():
        if stamp(path) != before:
            raise SearchError(
                f"{shown_path(path)} was replaced while the index was made: run the same again, it begins anew"
            )


def _absolute(one: Input) -> Input:
    if one.path is None or "://" in one.path or one.path.startswith("/vsi"):
        return one
    return replace(one, path=str(Path(one.path).absolute()))


def _why_not(folder: Path) -> str:
    if (folder / "building.json").is_file():
        return f"the index in {folder} is not finished: run  geoslave search index  again, it goes on where it stopped"
    if (folder / "index.json").is_file():
        return f"{folder / 'index.json'} is damaged: make the index anew with --overwrite"
    return f"there is no index in {folder}: make it with  geoslave search index"


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _sha256_of(path: Path) -> str:
    """Of a file's content; of none where it is gone."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def check_disk(folder: Path, vectors: int, dimensions: int) -> None:
    """Make sure that an index fits on the disk.

    Args:
        vectors: to be written, those of parts counted with those of the index.

    Raises:
        SearchError: if it does not.
    """
    needed = vectors * dimensions * 2 * 1.4  # of each chip also its place, and its share of the graph
    standing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if needed > free_bytes(standing):
        raise SearchError(f"{folder}: {needed / 1e9:.1f} GB are needed, the disk has less: choose another folder")
