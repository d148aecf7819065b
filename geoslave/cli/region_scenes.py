"""`geoslave region scenes`."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, answer, example, json_option, note, overwrite_option

if TYPE_CHECKING:
    import geopandas as gpd
    import pystac

    from geoslave.region.config import RegionConfig
    from geoslave.region.layout import RegionFolder

Dates = tuple[date | None, date | None]


def _dates(_context: click.Context, _option: click.Parameter, value: str | None) -> Dates | None:
    """FROM/TO; either may be left open."""
    if value is None:
        return None
    first, separator, last = value.partition("/")
    try:
        ends = tuple(None if part.strip() in ("", "..") else date.fromisoformat(part.strip()) for part in (first, last))
    except ValueError:
        ends = ()
    if len(ends) != 2 or not separator:
        raise click.BadParameter(f"'{value}' is no span of days: write it as 2023-11-01/2024-03-31")
    return ends[0], ends[1]


@click.command(
    "scenes",
    epilog=example(
        "geoslave region scenes bihar tiles/ more/mosaic.vrt",
        "geoslave region scenes bihar catalogue/collection.json --max-cloud 20",
        "geoslave region scenes bihar --api https://earth-search.aws.element84.com/v1 --collection sentinel-2-l2a \\",
        "      --dates 2023-11-01/2024-03-31 --max-cloud 10 --limit 8",
    ),
)
@click.argument("name")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--api", metavar="URL", help="Search a STAC API for the region's area.")
@click.option("--collection", default="sentinel-2-l2a", show_default=True, help="What is searched there.")
@click.option("--dates", callback=_dates, metavar="FROM/TO", help="Days, both included; either may be left out.")
@click.option("--max-cloud", type=click.FloatRange(0, 100), metavar="PERCENT", help="Most cloud of a scene.")
@click.option("--limit", type=click.IntRange(1), help="Most scenes of a place: the clearest, then the newest.")
@click.option("--add", is_flag=True, help="Keep the scenes found before as well.")
@click.option("--regions", type=PATH, default="regions", show_default=True, help="The folder of regions.")
@overwrite_option
@json_option
def command(
    name: str,
    sources: tuple[str, ...],
    api: str | None,
    collection: str,
    dates: Dates | None,
    max_cloud: float | None,
    limit: int | None,
    add: bool,
    regions: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Find the scenes of the region NAME and keep them as STAC items in its folder scenes/.

    SOURCE is a folder of rasters, a raster, a VRT, or a static STAC catalogue, collection or item
    collection (.json, on disk or at an address). With --api a STAC API is searched instead. Only
    scenes that meet the region's area are kept.
    """
    if bool(sources) == bool(api):
        raise click.UsageError(
            "name the scenes (a folder, rasters, a STAC catalogue), or search with --api: one of them"
        )
    from geoslave.errors import SceneError
    from geoslave.imagery.catalog import choose_items, load_items, save_items, search_items, with_projection
    from geoslave.region.config import read_config
    from geoslave.region.layout import find_region

    region = find_region(name, regions)
    config = read_config(region.config)
    before = _before(region, add, overwrite)
    area = _area(region, config)
    if api is not None:
        if area is None:
            raise SceneError(
                f"{region.config} names no area of interest (aoi:), and a search needs one: name one there"
            )
        found = search_items(api, collection, area, dates, max_cloud, limit)
    else:
        found = choose_items(_listed(sources, config), area, dates, max_cloud, limit)
        if not found:
            raise SceneError(
                "none of the scenes named meets the region's area, days and cloud: check them, and the area's axes"
            )
    found = [with_projection(item) for item in found]
    _refuse_without_bands(found, config)
    if before:
        kept = {item.id: item for item in [*load_items(region.scenes), *found]}
        found = list(kept.values())
    save_items(found, region.scenes)
    if config.scenes:
        note(f"{region.config} names scenes of its own (scenes:), and they go first: set  scenes: []  to use these")
    facts = _facts(region, found)
    answer(as_json, facts, _lines(name, facts))


def _before(region: RegionFolder, add: bool, overwrite: bool) -> bool:
    """True if scenes found before are kept as well."""
    from geoslave.errors import OutputError

    standing = region.scenes.is_dir() and any(region.scenes.glob("*.json"))
    if standing and not (add or overwrite):
        raise OutputError(f"{region.scenes} holds scenes already: --add to them, or ask for --overwrite")
    return bool(standing and add)


def _area(region: RegionFolder, config: RegionConfig) -> gpd.GeoSeries | None:
    from geoslave.imagery.aoi import read_aoi

    return None if config.aoi is None else read_aoi(region.path / config.aoi)


def _listed(sources: tuple[str, ...], config: RegionConfig) -> list[pystac.Item]:
    """The items of everything named."""
    from geoslave.imagery.catalog import local_items, read_catalogue

    items: list[Any] = []
    rasters = [source for source in sources if not _is_catalogue(source)]
    if rasters:
        nodata = None if config.nodata == "none" else config.nodata
        items += local_items(rasters, crs=config.crs, nodata=nodata)
    for source in sources:
        if _is_catalogue(source):
            items += read_catalogue(source)
    return items


def _is_catalogue(source: str) -> bool:
    return source.split("?")[0].lower().endswith((".json", ".geojson"))


def _refuse_without_bands(items: list[pystac.Item], config: RegionConfig) -> None:
    """Say now, not after hours, that a scene lacks a band of the model."""
    from geoslave.imagery.assets import band_assets
    from geoslave.model.package import open_package

    bands = open_package(config.model).spec.bands
    for item in items:
        band_assets(item, bands, config.bands or None)


def _facts(region: RegionFolder, items: list[pystac.Item]) -> dict[str, Any]:
    from geoslave.imagery.items import day_of, item_crs

    days = sorted(day for day in map(day_of, items) if day is not None)
    codes = sorted({f"EPSG:{crs.epsg}" if crs.epsg else "no EPSG code" for crs in map(item_crs, items) if crs})
    clouds = [item.properties["eo:cloud_cover"] for item in items if item.properties.get("eo:cloud_cover") is not None]
    return {
        "region": region.name,
        "folder": str(region.scenes),
        "n_scenes": len(items),
        "first_day": str(days[0]) if days else None,
        "last_day": str(days[-1]) if days else None,
        "crs": codes,
        "most_cloud_percent": max(clouds) if clouds else None,
    }


def _lines(name: str, facts: dict[str, Any]) -> list[str]:
    count = facts["n_scenes"]
    lines = [f"{count} scene{'s' if count > 1 else ''}  ->  {facts['folder']}"]
    if facts["first_day"]:
        same = facts["first_day"] == facts["last_day"]
        lines.append(f"  taken {facts['first_day']}" + ("" if same else f" to {facts['last_day']}"))
    lines.append(f"  in {', '.join(facts['crs'])}")
    if facts["most_cloud_percent"] is not None:
        lines.append(f"  at most {facts['most_cloud_percent']:.0f} % cloud")
    return [*lines, f"  next:  geoslave region plan {name}"]
