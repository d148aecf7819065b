"""Sites in a notebook: the models at hand, what one finds in scenes, layers that were written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox

from geoslave import display
from geoslave.api.scenes import OVERVIEW, as_array, overview_of
from geoslave.detect import Request, detect_scenes, provenance
from geoslave.detections.export import filter_detections, read_detections, read_provenance, write_detections
from geoslave.detections.schema import STATEMENT
from geoslave.errors import GeoslaveError, ModelError
from geoslave.imagery.aoi import read_aoi
from geoslave.imagery.geotiff import Reading, gdal_environment
from geoslave.imagery.geotiff import open_scene as open_file
from geoslave.imagery.preview import Layer, draw_scene
from geoslave.imagery.raster import Raster, decode_scores
from geoslave.model.gate import gate_facts, gated
from geoslave.model.package import list_packages, open_package
from geoslave.model.predict import load_network

if TYPE_CHECKING:
    from PIL import Image

NOTICE = "A detection is an indicator of a kind of site, never evidence of a crime."


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
        overview = overview_of(self.scenes[0], self.reading, OVERVIEW)
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


def _scores(path: Path) -> xr.DataArray:
    with gdal_environment(), rasterio.open(path) as file:
        geobox = GeoBox((file.height, file.width), file.transform, file.crs.to_wkt())
        scores = decode_scores(file.read(), geobox)
        names = [title or f"class {n}" for n, title in enumerate(file.descriptions, start=1)]
    array = as_array(Raster(np.where(scores.valid, scores.pixels, np.nan), scores.valid, geobox), names)
    return array.rename(band="class")


def _maps(place: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Where `detect_scenes` put the score maps."""
    if place.suffix.lower() in (".tif", ".tiff"):
        return (place,)
    return tuple(place / f"{name}-scores.tif" for name in names)
