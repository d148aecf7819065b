"""What notebooks use: a scene, its sites, how good they are, and how many there are, in a handful of calls.

Each call is a thin wrapper over the functions behind the command of the same purpose, and gives back
a small frozen object: tables as (Geo)DataFrame, imagery as xarray, and a display of its own in Jupyter.

    scene = geoslave.open_scene("scene.tif")
    found = geoslave.find_sites("scene.tif", model="kiln-s2")
    report = geoslave.evaluate("kiln-s2", "scene.tif", "known.geojson")
    plan = geoslave.plan_review("frame.csv", reviews=500)
    count = geoslave.count_sites("frame.csv", "reviews.csv")

Outputs show where sites are: clear them before a notebook leaves your hands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox
from odc.geo.xr import wrap_xr
from rasterio.windows import Window

from geoslave import display
from geoslave.demo import render_demo_scene
from geoslave.detect import Request, detect_scenes, provenance
from geoslave.detections.assess import outcomes
from geoslave.detections.export import filter_detections, read_detections, read_provenance, write_detections
from geoslave.detections.schema import STATEMENT
from geoslave.errors import GeoslaveError, ModelError
from geoslave.estimate import count as counting
from geoslave.estimate.rates import detector_rates
from geoslave.estimate.sample import Assumptions, Design, draw, propose
from geoslave.estimate.tables import checked_frame, read_table
from geoslave.evaluation import Report, evaluate_model, read_area, write_report
from geoslave.evaluation import evaluate_layer as compare_layer
from geoslave.files import refuse_existing, scratch_folder
from geoslave.imagery.aoi import read_aoi
from geoslave.imagery.geotiff import Reading, gdal_environment
from geoslave.imagery.geotiff import open_scene as open_file
from geoslave.imagery.preview import Layer, draw_scene
from geoslave.imagery.raster import Raster, decode_scores
from geoslave.imagery.scenefolder import find_scenes
from geoslave.labels.formats import read_labels
from geoslave.model.gate import gate_facts, gated
from geoslave.model.package import ModelPackage, list_packages, open_package
from geoslave.model.predict import load_network
from geoslave.targets import get_target

if TYPE_CHECKING:
    from PIL import Image

Table: TypeAlias = str | Path | pd.DataFrame
"""A table, or the CSV or Parquet file that holds it."""
Sites: TypeAlias = str | Path | gpd.GeoDataFrame
"""Sites with their outlines, or a file of labels in any of the formats that geoslave reads."""
NOTICE = "A detection is an indicator of a kind of site, never evidence of a crime."
_OVERVIEW = 1600
"""Pixels of the longest side of what pictures are drawn from."""
_LARGEST = 400_000_000
"""Pixels that are read into memory without a window."""


# ---------------------------------------------------------------- scenes


@dataclass(frozen=True, slots=True)
class SceneView:
    """A scene, opened: what is known of it, and its pixels when they are asked for."""

    path: str
    scene_id: str
    bands: tuple[str, ...]
    geobox: GeoBox = field(repr=False)
    """CRS, affine transform and shape (y, x)."""
    date: date | None
    notes: tuple[str, ...]
    reading: Reading = field(repr=False, default=Reading())

    def pixels(self, rows: slice = slice(None), cols: slice = slice(None)) -> xr.DataArray:
        """Stored values [band, y, x] at full resolution, with coordinates and CRS; 0 where nothing was measured.

        The coordinate `valid` [y, x] tells where something was.

        Raises:
            GeoslaveError: if the window is too large for memory.
            SceneError: if the file is damaged there.
        """
        height, width = self.geobox.shape
        top, bottom, _ = rows.indices(height)
        left, right, _ = cols.indices(width)
        count = max(bottom - top, 0) * max(right - left, 0) * len(self.bands)
        if not 0 < count <= _LARGEST:
            raise GeoslaveError(f"{self.path}: {count:,} values are asked for: give rows and cols, e.g. slice(0, 1000)")
        with gdal_environment(), open_file(self.path, self.reading) as scene:
            return _array(scene.read(Window(left, top, right - left, bottom - top)), self.bands)

    def overview(self, longest: int = 1024) -> xr.DataArray:
        """The whole scene [band, y, x], at most `longest` pixels on its longer side."""
        return _array(_overview(self.path, self.reading, longest), self.bands)

    def picture(self) -> Image.Image:
        """The scene as people see it, with scale bar and north arrow."""
        return draw_scene(_overview(self.path, self.reading, _OVERVIEW), title=self.scene_id, insets=0, side=720)

    def _repr_html_(self) -> str:
        rows, cols = self.geobox.shape
        told = (
            f"{cols:,} x {rows:,} pixels, {', '.join(self.bands)}, {self.geobox.crs}, {self.date or 'date not known'}"
        )
        return display.page(
            self.scene_id, *map(display.line, (told, *self.notes)), display.picture(self.picture(), self.scene_id)
        )


def open_scene(
    path: str | Path,
    *,
    bands: Mapping[str, int] | None = None,
    crs: str | None = None,
    nodata: float | None = None,
) -> SceneView:
    """Open a scene: a GeoTIFF or any raster that GDAL reads, on disk or behind an address.

    Args:
        bands: band numbers (from 1) by common name, where the file does not tell: {"red": 3, ...}.
        crs: of a file that declares none.
        nodata: the value that means nodata, over what the file says.

    Raises:
        SceneError: if it cannot be read.
    """
    reading = Reading(None if bands is None else tuple(bands), bands, None, crs, nodata)
    with gdal_environment(), open_file(path, reading) as scene:
        notes = (scene.validity.note,) if scene.validity.note else ()
        return SceneView(str(path), scene.scene_id, scene.bands, scene.geobox, scene.date, notes, reading)


@dataclass(frozen=True, slots=True)
class DemoScene:
    """A rendered scene with known truth. It shows no real place."""

    scene: Path
    truth: Path
    sites: gpd.GeoDataFrame
    """The kilns that are in it, in the scene's CRS."""

    def _repr_html_(self) -> str:
        told = f"A rendered landscape with {len(self.sites)} brick kilns: no real place"
        return display.page("SYNTHETIC SCENE", display.line(told)) + open_scene(self.scene)._repr_html_()


def render_demo(
    folder: str | Path = "demo-scene", *, seed: int = 7, size: int = 640, overwrite: bool = False
) -> DemoScene:
    """Render a landscape with brick kilns (10 m pixels) and their truth into a folder, with nothing to download.

    Args:
        size: of a side, in pixels.

    Raises:
        OutputError: if the files are there and `overwrite` is false.
    """
    place = Path(folder)
    for name in ("scene.tif", "truth.geojson"):
        refuse_existing(place / name, overwrite)
    place.mkdir(parents=True, exist_ok=True)
    with scratch_folder(place / "scene.tif") as work:
        rendered = render_demo_scene(work, seed=seed, size=size)
        for path in work.iterdir():
            path.replace(place / path.name)
    return DemoScene(place / "scene.tif", place / "truth.geojson", rendered.sites)


# ---------------------------------------------------------------- models and detections


def list_models() -> pd.DataFrame:
    """The models that can be used by name, one row each."""
    rows = []
    for folder in list_packages():
        try:
            spec = open_package(folder, verify=False).spec
        except ModelError:
            continue  # `geoslave models verify` says what is wrong with it
        told = spec.model_dump(include={"name", "version", "title", "target", "gsd_m", "licence"})
        rows.append({**told, "bands": ", ".join(spec.bands), "calibrated": spec.confidence.calibrated})
    return pd.DataFrame(rows).set_index("name") if rows else pd.DataFrame()


@dataclass(frozen=True, slots=True)
class Findings:
    """What a model found in scenes."""

    detections: gpd.GeoDataFrame
    """All of them, also those of low confidence; columns: `geoslave.detections.schema.COLUMNS`."""
    provenance: dict[str, Any] = field(repr=False)
    """Model, scenes, dates and thresholds."""
    operating: float
    """Detections of at least this confidence are the map."""
    scenes: tuple[str, ...]
    reading: Reading = field(repr=False, default=Reading())
    score_maps: tuple[Path, ...] = ()

    @property
    def sure(self) -> gpd.GeoDataFrame:
        """Those of at least the model's operating confidence."""
        return filter_detections(self.detections, self.operating)

    def scores(self, number: int = 0) -> xr.DataArray:
        """The score map [class, y, x] of a scene, 0 to 1, nan where the imagery is not valid.

        Raises:
            GeoslaveError: if `find_sites` was not given `scores`.
        """
        if not self.score_maps:
            raise GeoslaveError("no score map was kept: ask for it with find_sites(..., scores='scores.tif')")
        return _scores(self.score_maps[number])

    def picture(self, insets: int = 6) -> Image.Image:
        """The first scene with its sites, the surest enlarged."""
        overview = _overview(self.scenes[0], self.reading, _OVERVIEW)
        name = self.provenance["scenes"][0]
        shown = self.sure[self.sure["scene_id"] == name]
        with gdal_environment(), open_file(self.scenes[0], self.reading) as scene:
            return draw_scene(
                overview,
                [Layer(shown, "detected")],
                title=name,
                subtitle=f"looked at by {self.provenance['model_id']}",
                notices=(NOTICE,),
                side=720,
                insets=insets,
                source=scene,
            )

    def save(self, path: str | Path, *, min_confidence: float = 0.0, overwrite: bool = False) -> Path:
        """Write the layer with its provenance: .gpkg, .geojson, .fgb or .parquet.

        Raises:
            OutputError: if it is there and `overwrite` is false, or cannot be written.
        """
        kept = filter_detections(self.detections, min_confidence)
        origin = {**self.provenance, "min_confidence": min_confidence}
        write_detections(kept, Path(path), provenance=origin, overwrite=overwrite)
        return Path(path)

    def _repr_html_(self) -> str:
        sure = len(self.sure)
        told = (
            f"{sure} detections with a confidence of {self.operating:.2f} or more, "
            f"{len(self.detections) - sure} of lower confidence, in {len(self.scenes)} scene(s)"
        )
        best = self.sure.sort_values("confidence", ascending=False).head(8)
        sizes = ("length_m", "width_m", "area_m2")
        rows = [
            (row["detection_id"], f"{row['confidence']:.2f}", *(f"{row[size]:,.0f}" for size in sizes))
            for _, row in best.iterrows()
        ]
        more = [f"the first of {len(self.scenes)} scenes is shown"] if len(self.scenes) > 1 else []
        return display.page(
            told,
            display.picture(self.picture(), told),
            display.table(("the surest", "confidence", "length (m)", "width (m)", "area (m²)"), rows) if rows else "",
            *map(display.line, more),
            small=STATEMENT,
        )


def find_sites(
    scenes: str | Path | Sequence[str | Path],
    model: str | Path = "kiln-s2",
    *,
    aoi: str | Path | gpd.GeoSeries | None = None,
    bands: Mapping[str, int] | None = None,
    crs: str | None = None,
    nodata: float | None = None,
    threshold: float | None = None,
    taken: date | None = None,
    scores: str | Path | None = None,
    threads: int | None = None,
    gate: bool = True,
    overwrite: bool = False,
) -> Findings:
    """Find sites in one scene or several, as `geoslave detect` does; what overlaps is reported once.

    Args:
        model: a name (`list_models`) or a folder.
        aoi: polygons; only sites inside are reported.
        bands, crs, nodata: as of `open_scene`.
        threshold: score that makes a detection. None: the model's.
        taken: when the scenes were taken. None: what they say.
        scores: where the score map goes (.tif), or the folder for those of several scenes.
        threads: of the processor. None: all cores.
        gate: False looks everywhere closely, though the model has a gate.

    Raises:
        GeoslaveError: if a scene or the model cannot be used.
    """
    paths = [str(scenes)] if isinstance(scenes, str | Path) else [str(path) for path in scenes]
    package = open_package(model)
    area = read_aoi(Path(aoi)) if isinstance(aoi, str | Path) else aoi
    request = Request(bands, crs, nodata, False, area, threshold, taken)
    place = None if scores is None else Path(scores)
    network = gated(load_network(package, "auto", threads), package, threads, use=gate)
    found, results = detect_scenes(paths, package, network, request=request, scores=place, overwrite=overwrite)
    origin = provenance(package, results, request, **gate_facts(package, used=gate))
    maps = () if place is None else _maps(place, [result.scene_id for result in results])
    operating = package.spec.confidence.operating
    return Findings(found, origin, operating, tuple(paths), request.reading(package.spec), maps)


def read_layer(path: str | Path) -> gpd.GeoDataFrame:
    """The detections of a layer that geoslave wrote; its origin is in `.attrs["provenance"]`.

    Raises:
        GeoslaveError: if it is no such layer.
    """
    layer = read_detections(Path(path))
    layer.attrs["provenance"] = read_provenance(Path(path))
    return layer


# ---------------------------------------------------------------- evaluation


@dataclass(frozen=True, slots=True)
class Evaluated:
    """How good a model or a layer is where sites are known."""

    report: Report = field(repr=False)

    @property
    def facts(self) -> dict[str, Any]:
        """Every figure, as `evaluation.json` of `geoslave evaluate --out` holds it."""
        return self.report.facts

    @property
    def figures(self) -> pd.DataFrame:
        """The main figures with 95 % intervals: columns value, low, high."""
        return pd.DataFrame(
            {
                title: [_rate(self.facts, path, end) for end in ("", "_low", "_high")]
                for title, path in _FIGURES.items()
            },
            index=["value", "low", "high"],
        ).T

    @property
    def errors(self) -> gpd.GeoDataFrame:
        """What became of each object: column `outcome` is hit, miss, false_alarm, ..."""
        return outcomes(self.report.comparison)

    def by(self, name: str) -> pd.DataFrame:
        """Figures for each group of a way to take sites apart (`facts["by"]` lists them).

        Raises:
            GeoslaveError: if there is no such way.
        """
        groups = self.facts["by"]
        if name not in groups:
            raise GeoslaveError(f"figures were not taken apart by '{name}': there are {', '.join(groups) or 'none'}")
        return pd.DataFrame(groups[name]).T

    def save(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write figures, charts, a contact sheet and the layer of errors, as `geoslave evaluate --out` does.

        Raises:
            OutputError: if they are there and `overwrite` is false, or cannot be written.
            MissingExtra: without matplotlib.
        """
        return write_report(self.report, Path(folder), overwrite)

    def _repr_html_(self) -> str:
        facts = self.facts
        told = (
            f"{facts['n_hits']} of {facts['n_sites']} sites found, {facts['n_false_alarms']} false alarms, on "
            f"{facts['counted_area_km2']:,.1f} km², at a confidence of {facts['min_confidence']:.2f}"
        )
        shares = self.figures.loc[list(_SHARES)].dropna(subset=["value"])
        bars = [display.Bar(str(name), *_ends(row)) for name, row in shares.iterrows()]
        others = self.figures.drop(index=list(_SHARES))
        rows = [
            (name, display.number(row["value"], 2), display.number(row["low"], 2), display.number(row["high"], 2))
            for name, row in others.iterrows()
        ]
        return display.page(
            told,
            display.intervals(bars, 2, top=1.0),
            display.table(("", "value", "low", "high"), rows),
            small="95 % intervals from a bootstrap over spatial blocks",
        )


_FIGURES = {
    "precision": ("precision",),
    "recall": ("recall",),
    "F1": ("f1",),
    "average precision": ("average_precision",),
    "calibration error (ECE)": ("reliability", "ece"),
    "false alarms per 100 km²": ("false_alarms_per_100km2",),
    "count error (relative)": ("count", "relative_error"),
}
_SHARES = ("precision", "recall", "F1", "average precision")


def evaluate(
    model: str | Path,
    scenes: str | Path,
    labels: Sites,
    *,
    by: Sequence[str] = (),
    min_confidence: float | None = None,
    bands: Mapping[str, int] | None = None,
    threads: int | None = None,
) -> Evaluated:
    """Measure a model against labelled sites, as `geoslave evaluate` does.

    Args:
        scenes: a scene, or a folder of scenes, all of them labelled.
        labels: the known sites, none missing where was searched.
        by: columns of the labels to take figures apart by.
        min_confidence: the operating point. None: the model's.

    Raises:
        GeoslaveError: if a scene cannot be used, or no label lies in any.
    """
    package = open_package(model)
    operating = package.spec.confidence.operating if min_confidence is None else min_confidence
    network = load_network(package, "onnx", threads)
    sites = _sites(labels, package)
    return Evaluated(
        evaluate_model(package, network, find_scenes(Path(scenes)), sites, operating, Request(numbers=bands), by=by)
    )


def evaluate_layer(
    detections: Sites,
    area: str | Path | gpd.GeoSeries,
    labels: Sites,
    *,
    by: Sequence[str] = (),
    min_confidence: float = 0.5,
) -> Evaluated:
    """Measure a layer of detections against labelled sites, as `geoslave evaluate --detections` does.

    Args:
        area: the polygons that were searched, all of them labelled.

    Raises:
        GeoslaveError: if no label lies in the area.
    """
    layer = read_layer(detections) if isinstance(detections, str | Path) else detections
    meant = layer.attrs.get("provenance", {}).get("target")
    target = None if meant is None else get_target(meant)
    searched = read_area(Path(area)) if isinstance(area, str | Path) else area
    sites = read_labels(labels, target=target) if isinstance(labels, str | Path) else labels
    name = Path(detections).stem if isinstance(detections, str | Path) else "layer"
    return Evaluated(compare_layer(layer, name, searched, sites, min_confidence, by=by, target=target))


# ---------------------------------------------------------------- counts


@dataclass(frozen=True, slots=True)
class ReviewPlan:
    """Which tiles to review, and what to expect of it."""

    designs: tuple[Design, ...]
    """The best first."""
    sample: pd.DataFrame = field(repr=False)
    """Drawn by the best: `tile_id, stratum, stratum_size, inclusion_probability`, and `n_sites` to be filled in."""
    seed: int

    @property
    def table(self) -> pd.DataFrame:
        """The strata of the best design: tiles and reviews."""
        strata = self.designs[0].strata
        return pd.DataFrame({"tiles": [s.tiles for s in strata], "reviews": [s.reviews for s in strata]},
                            index=[s.name for s in strata])  # fmt: skip

    def _repr_html_(self) -> str:
        best = self.designs[0]
        rows = [(name, f"{row['reviews']:,}", f"{row['tiles']:,}") for name, row in self.table.iterrows()]
        bars = [
            display.Bar(f"{one.kind}, {one.n_reviews:,}", one.expected, one.expected_low, one.expected_high)
            for one in self.designs
        ]
        return display.page(
            f"{best.kind}: {best.n_reviews:,} tiles to review",
            display.table(("stratum", "reviews", "of tiles"), rows),
            display.line("Then expect (design, reviews):"),
            display.intervals(bars),
            small=best.assumptions.words() + "; wrong suppositions cost width, not honesty",
        )


def plan_review(
    frame: Table,
    reviews: int | None = None,
    *,
    half_width: float | None = None,
    kind: str | None = None,
    recall: float = 0.75,
    precision: float = 0.75,
    clustering: float = 2.5,
    level: float = 0.95,
    gaps: str = "refuse",
    seed: int = 0,
) -> ReviewPlan:
    """Propose which tiles of a frame to review and draw them, as `geoslave estimate design` does.

    Args:
        frame: one row a tile: tile_id, n_flagged, ... (see `geoslave.estimate.tables`).
        reviews: how many can be reviewed; or give `half_width`, the interval you want, as a share of the count.
        kind: stratified, census+audit or random. None: the best.
        recall, precision, clustering: what you suppose of the detector.

    Raises:
        EstimateError: if the frame cannot be used, or no design can do it.
    """
    tiles = checked_frame(_table(frame), gaps)
    supposed = Assumptions(recall, precision, clustering)
    designs = propose(tiles, reviews, half_width, kind, supposed, level)
    return ReviewPlan(tuple(designs), draw(tiles, designs[0], seed).assign(n_sites=np.nan, n_hits=np.nan), seed)


@dataclass(frozen=True, slots=True)
class Count:
    """How many sites there are, with what the figure rests on."""

    total: counting.Estimate
    parts: dict[str, dict[str, counting.Estimate]] = field(default_factory=dict)
    """By column, then by value."""
    rates: dict[str, counting.Estimate] = field(default_factory=dict)
    """Recall and precision of the detector, where the reviews have them."""

    @property
    def table(self) -> pd.DataFrame:
        """Every figure: columns value, low, high, n_reviewed; rows total, then (column, value)."""
        rows = {("total", ""): self.total}
        rows |= {(by, name): one for by, groups in self.parts.items() for name, one in groups.items()}
        rows |= {("detector", name): one for name, one in self.rates.items()}
        figures = [(one.value, one.low, one.high, one.n_reviewed) for one in rows.values()]
        index = pd.MultiIndex.from_tuples(list(rows), names=["by", "of"])
        return pd.DataFrame(figures, index, ["value", "low", "high", "n_reviewed"])

    def _repr_html_(self) -> str:
        one = self.total
        bars = [display.Bar("all", one.value, one.low, one.high)]
        charts = [display.intervals(bars)]
        for by, groups in self.parts.items():
            bars = [display.Bar(name, part.value, part.low, part.high) for name, part in groups.items()]
            charts += [display.line(f"By {by}:"), display.intervals(bars)]
        if self.rates:
            bars = [display.Bar(name, rate.value, rate.low, rate.high) for name, rate in self.rates.items()]
            charts += [display.line("The detector:"), display.intervals(bars, 2, top=1.0)]
        said = display.said(display.Bar("", one.value, one.low, one.high))
        return display.page(
            f"{said} sites, {one.level:.0%} interval, from {one.n_reviewed:,} reviewed tiles",
            *charts,
            *(display.line(f"Note: {warning}") for warning in one.warnings),
            small=one.assumptions,
        )


def count_sites(
    frame: Table,
    reviews: Table,
    *,
    by: Sequence[str] = (),
    rates: bool = False,
    method: str = "gamma",
    level: float = 0.95,
    gaps: str = "refuse",
    votes: Table | None = None,
    gold: Table | None = None,
    seed: int = 0,
) -> Count:
    """How many sites a frame holds, from reviews of a sample of its tiles, as `geoslave estimate count` does.

    Args:
        frame, reviews: see `geoslave.estimate.tables`.
        by: columns to take the count apart by.
        rates: also recall and precision of the detector.
        votes, gold: reviewers' votes and known tiles: their errors are carried through.

    Raises:
        EstimateError: if the tables cannot be used.
    """
    tiles, found = _table(frame), _table(reviews)
    cast, known = (None if one is None else _table(one) for one in (votes, gold))
    options: dict[str, Any] = {"level": level, "gaps": gaps}
    erring: dict[str, Any] = {"votes": cast, "gold": known, "seed": seed}
    total = counting.count_sites(tiles, found, method, **options, **erring)
    parts = {name: counting.count_by(tiles, found, name, method, **options, **erring) for name in by}
    return Count(total, parts, detector_rates(tiles, found, **options) if rates else {})


# ---------------------------------------------------------------- helpers


def _table(given: Table) -> pd.DataFrame:
    return given if isinstance(given, pd.DataFrame) else read_table(given)


def _sites(given: Sites, package: ModelPackage) -> gpd.GeoDataFrame:
    return read_labels(given, target=package.spec.sought) if isinstance(given, str | Path) else given


def _overview(path: str, reading: Reading, longest: int) -> Raster:
    with gdal_environment(), open_file(path, reading) as scene:
        return scene.overview(longest)


def _crs(geobox: GeoBox) -> str:
    epsg = geobox.crs.epsg
    return f"EPSG:{epsg}" if epsg else str(geobox.crs.proj.name)


def _array(raster: Raster, bands: Sequence[str]) -> xr.DataArray:
    """A Raster as xarray, [band, y, x]."""
    array = wrap_xr(raster.pixels, raster.geobox, axis=1, dims=("band", "y", "x"))
    valid = xr.DataArray(raster.valid, dims=array.dims[1:])
    return array.assign_coords(band=list(bands), valid=valid)


def _scores(path: Path) -> xr.DataArray:
    with gdal_environment(), rasterio.open(path) as file:
        geobox = GeoBox((file.height, file.width), file.transform, file.crs.to_wkt())
        scores = decode_scores(file.read(), geobox)
        names = [title or f"class {n}" for n, title in enumerate(file.descriptions, start=1)]
    array = _array(Raster(np.where(scores.valid, scores.pixels, np.nan), scores.valid, geobox), names)
    return array.rename(band="class")


def _maps(place: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Where `detect_scenes` put the score maps."""
    if place.suffix.lower() in (".tif", ".tiff"):
        return (place,)
    return tuple(place / f"{name}-scores.tif" for name in names)


def _rate(facts: Mapping[str, Any], path: Sequence[str], end: str) -> float:
    for part in path[:-1]:
        facts = facts[part]
    value = facts.get(path[-1] + end)
    return float("nan") if value is None else float(value)


def _ends(row: pd.Series) -> tuple[float, float, float]:
    """Value, low and high; an interval that is not defined shrinks to the value."""
    value = float(row["value"])
    low, high = (value if np.isnan(row[name]) else float(row[name]) for name in ("low", "high"))
    return value, low, high
