"""What the commands of `geoslave estimate` share: options, frames, layers, records, and how a figure is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geoslave.cli.common import PATH

if TYPE_CHECKING:
    import pandas as pd

    from geoslave.estimate.result import Estimate

VECTORS = (".gpkg", ".geojson", ".fgb", ".shp", ".json", ".parquet", ".geoparquet")
_DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf"}
_ABOUT_A_LAYER = (
    "model_id",
    "model_sha256",
    "target",
    "threshold_high",
    "threshold_low",
    "min_confidence",
    "calibrated",
    "first_date",
    "last_date",
    "scenes",
    "synthetic",
)

Function = TypeVar("Function", bound=Callable[..., Any])

LEVEL = click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="How often intervals are to hold the truth.",
)
SEED = click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same answer.")
GAPS = click.option(
    "--gaps",
    type=click.Choice(("refuse", "stratum")),
    default="refuse",
    show_default=True,
    help="Tiles not searched: refuse, or a stratum of their own; unanswered tasks: refuse, or missing at random.",
)
OUT = click.option("--out", type=PATH, help="Also write the answer here, as JSON, with its provenance.")


def area_options(function: Function) -> Function:
    """--areas and --area-name: polygons to take figures apart by."""
    name = click.option(
        "--area-name", metavar="COLUMN", help="The polygons' column of names. [default: the first with text]"
    )
    areas = click.option("--areas", type=PATH, help="Polygons, any layer; FRAME is then a layer or has lon and lat.")
    return areas(name(function))


# ---------------------------------------------------------------- reading


def read_frame(path: Path, areas: Path | None = None, area_name: str | None = None) -> pd.DataFrame:
    """The frame as a table; with polygons, it gets a column `area`."""
    from geoslave.estimate.tables import read_table

    if path.suffix.lower() not in VECTORS or (path.suffix.lower() == ".parquet" and not _has_geometry(path)):
        table = read_table(path)
        return table if areas is None else with_areas(table, areas, area_name, str(path))
    layer = read_layer(path)
    table = layer.drop(columns=layer.geometry.name)
    if areas is None:
        return table
    return _joined(layer.geometry.representative_point(), table, areas, area_name)


def with_areas(table: pd.DataFrame, areas: Path, area_name: str | None, what: str) -> pd.DataFrame:
    """A table with lon and lat gets a column `area`, the polygon each row lies in."""
    import geopandas as gpd
    import pandas as pd

    from geoslave.errors import EstimateError

    if not {"lon", "lat"} <= set(table):
        raise EstimateError(f"{what} has no columns lon and lat to find its tiles in {areas.name}: add them")
    lon, lat = (pd.to_numeric(table[name], errors="coerce") for name in ("lon", "lat"))
    if not (lon.between(-180, 180) & lat.between(-90, 90)).all():
        raise EstimateError(f"{what}: lon and lat must be degrees in every row, -180 to 180 and -90 to 90: mend them")
    return _joined(gpd.GeoSeries(gpd.points_from_xy(lon, lat), crs=4326), table, areas, area_name)


def read_layer(path: Path, empty: bool = False) -> Any:
    """A vector layer with its CRS, as a GeoDataFrame.

    Args:
        empty: a layer without rows will do.
    """
    import geopandas as gpd

    from geoslave.errors import EstimateError

    if not path.is_file():
        raise EstimateError(f"{path} is not there: check the name")
    try:
        parquet = path.suffix.lower() in (".parquet", ".geoparquet")
        layer = gpd.read_parquet(path) if parquet else gpd.read_file(path)
    except Exception as error:  # every reader has its own errors
        raise EstimateError(f"{path} cannot be read as a layer: {' '.join(str(error).split())}") from error
    if not hasattr(layer, "geometry") or layer.crs is None:
        raise EstimateError(f"{path} has no CRS: say where it is, e.g. with ogr2ogr -a_srs")
    if layer.empty and not empty:
        raise EstimateError(f"{path} has no rows: give another layer")
    return layer


def area_column(polygons: Any, path: Path, area_name: str | None) -> str:
    """The column that names polygons: the one asked for, else the first with text."""
    from geoslave.errors import EstimateError

    others = polygons.drop(columns=polygons.geometry.name)
    texts = list(others.select_dtypes(include=["object", "string"]).columns)
    name = area_name or (texts[0] if texts else None)
    if name is None or name not in polygons:
        raise EstimateError(f"{path} has no column '{name or 'of names'}': say --area-name, one of its columns")
    return str(name)


def _has_geometry(path: Path) -> bool:
    import pyarrow.parquet as pq

    try:
        return b"geo" in (pq.read_schema(path).metadata or {})
    except (OSError, ValueError):
        return False


def _joined(points: Any, table: pd.DataFrame, areas: Path, area_name: str | None) -> pd.DataFrame:
    """The polygon each tile's point lies in; "(outside)" for none, the first of several."""
    import geopandas as gpd

    from geoslave.errors import EstimateError

    polygons = read_layer(areas)
    name = area_column(polygons, areas, area_name)
    if points.crs is None:
        raise EstimateError("the frame has no CRS: say where its tiles are, e.g. with ogr2ogr -a_srs")
    joined = gpd.sjoin(gpd.GeoDataFrame(geometry=points.to_crs(polygons.crs)), polygons[[name, polygons.geometry.name]])
    found = joined[~joined.index.duplicated()][name].reindex(table.index)
    if found.isna().all():
        raise EstimateError(f"no tile of the frame lies in {areas}: check that both are the same part of the world")
    return table.assign(area=found.astype(object).where(found.notna(), "(outside)").astype(str))


# ---------------------------------------------------------------- writing


def write_layer(sites: Any, out: Path, overwrite: bool) -> None:
    """Write sites as a layer: .gpkg, .geojson, .fgb or .parquet."""
    from geoslave.errors import OutputError
    from geoslave.files import atomic_file

    ending = out.suffix.lower()
    if ending not in (*_DRIVERS, ".parquet"):
        raise OutputError(f"{out}: '{ending}' is no format for sites: use .gpkg, .geojson, .fgb or .parquet")
    with atomic_file(out, overwrite=overwrite) as draft:
        if ending == ".parquet":
            sites.to_parquet(draft)
        else:
            sites.to_file(draft, driver=_DRIVERS[ending], engine="pyogrio", layer="sites")


def made_from(inputs: Iterable[tuple[str, Path | None]], **told: Any) -> dict[str, Any]:
    """The provenance of figures: their files by role, and what layers say of their own origin."""
    from geoslave.estimate.record import Input, origin

    return origin([Input(role, path, _about(path)) for role, path in inputs if path is not None], **told)


def _about(path: Path) -> dict[str, Any]:
    """Of a layer of detections: its model, dates, thresholds and how many scenes."""
    from geoslave.detections.export import FORMATS, read_provenance

    if path.suffix.lower() not in FORMATS or not path.is_file():
        return {}
    told = read_provenance(path)
    return {key: told[key] for key in _ABOUT_A_LAYER if told.get(key) is not None}


# ---------------------------------------------------------------- what is printed


def shown(estimate: Estimate, digits: int = 0) -> str:
    """571  [542, 627]"""
    value, low, high = (f"{part:,.{digits}f}" for part in (estimate.value, estimate.low, estimate.high))
    return f"{value}  [{low}, {high}]"
