"""`geoslave estimate frame`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, SHARE, answer, example, json_option, note, overwrite_option
from geoslave.cli.estimate_files import read_layer

if TYPE_CHECKING:
    import geopandas as gpd

    from geoslave.region.layout import RegionFolder, RunFolder


@click.command(
    "frame",
    epilog=example(
        "geoslave estimate frame regions/bihar --min-confidence 0.5 --out frame.csv",
        "geoslave estimate frame kilns.gpkg --ground searched.geojson --out frame.csv",
    ),
)
@click.argument("searched", type=PATH, metavar="WHERE")
@click.option("--ground", type=PATH, help="Polygons of what was searched; a column state says done, failed, to do.")
@click.option("--aoi", type=PATH, help="Only tiles whose middle lies in these polygons. [default: the region's]")
@click.option(
    "--tile",
    "tile_m",
    type=click.FloatRange(50, 20_000),
    default=1_000,
    show_default=True,
    metavar="METRES",
    help="Side of a tile.",
)
@click.option("--min-confidence", type=SHARE, default=0.0, help="Detections below flag nothing. [default: all]")
@click.option("--out", type=PATH, required=True, help="The frame (.csv).")
@overwrite_option
@json_option
def frame_command(
    searched: Path,
    ground: Path | None,
    aoi: Path | None,
    tile_m: float,
    min_confidence: float,
    out: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Cut searched ground into tiles with their detections: the frame of a count.

    WHERE is a region, by its name or folder, whose blocks say what failed or was not run, or a layer of detections with
    --ground. Tiles that were not searched are in the frame with their status: a count refuses them, or reviews them.
    """
    from geoslave.detections.frame import gaps, make_frame
    from geoslave.files import atomic_file, refuse_existing

    refuse_existing(out, overwrite)
    layer, blocks, around = _sources(searched, ground, aoi)
    found = read_layer(layer, empty=True)
    if "confidence" in found:
        found = found[found["confidence"] >= min_confidence]
    frame = make_frame(found, read_layer(blocks), tile_m, None if around is None else _outline(around))
    with atomic_file(out, overwrite=overwrite) as draft:
        frame.to_csv(draft, index=False)
    missing = gaps(frame)
    flagged = int((frame["n_flagged"] > 0).sum())
    facts: dict[str, Any] = {
        "tiles": len(frame),
        "flagged": flagged,
        "n_detections": int(frame["n_flagged"].sum()),
        "gaps": missing,
        "out": str(out),
    }
    answer(as_json, facts, [f"{len(frame):,} tiles, {flagged:,} with a detection  ->  {out}"])
    if missing and not as_json:
        told = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in missing.items())
        note(f"not searched: {told}; a count refuses them unless --gaps stratum takes them as a stratum of their own")


def _sources(searched: Path, ground: Path | None, aoi: Path | None) -> tuple[Path, Path, Path | None]:
    """The layer of detections, the polygons that were searched, and the area of interest."""
    from geoslave.errors import EstimateError
    from geoslave.region.layout import region_named

    region = None if searched.is_file() else region_named(str(searched))
    run = None if region is None else region.latest_run()
    if region is None and not searched.is_dir() and (ground is not None or searched.suffix):
        if ground is None:
            raise click.UsageError("a layer does not say where was looked: give --ground, or the region it is of")
        return searched, ground, aoi
    if region is None or run is None:
        raise EstimateError(f"{searched} is no region that was run: give its name or folder, or a layer")
    layer = run.path / "detections.gpkg"
    if not layer.is_file():
        raise EstimateError(f"{run.path.name} has no detections.gpkg yet: make it with  geoslave region export")
    if ground is None:
        _check_one_run(region, run, layer)
    own = run.aoi if run.aoi.is_file() else None
    return layer, ground or region.blocks, aoi or own


def _check_one_run(region: RegionFolder, run: RunFolder, layer: Path) -> None:
    """Refuse blocks and detections that are not of one state of one run.

    Raises:
        EstimateError: then.
    """
    from geoslave.detections.export import read_provenance
    from geoslave.errors import EstimateError

    blocks, told = region.blocks_run(), read_provenance(layer)
    if blocks not in (None, run.path.name):
        raise EstimateError(
            f"{region.blocks} shows the blocks of {blocks}, the detections are of {run.path.name}: run it again "
            f"(geoslave region run {region.name}; nothing is done twice), then export it again"
        )
    missing = int(told.get("blocks_missing") or 0)
    if told.get("run", run.path.name) != run.path.name or (missing and missing > _left(region, run)):
        raise EstimateError(
            f"{layer} is older than what was run since: run it again (geoslave region run {region.name}; nothing is "
            "done twice), then export it again"
        )


def _left(region: RegionFolder, run: RunFolder) -> int:
    """What a run has not done: blocks, and inputs nobody could look at, which have no blocks yet."""
    from geoslave.region.layout import read_json

    ground = read_layer(region.blocks)
    inputs = (read_json(run.description) or {}).get("inputs", ())
    unseen = sum(not run.grid(one["name"]).is_file() for one in inputs)
    return unseen + (int((ground["state"] != "done").sum()) if "state" in ground else 0)


def _outline(path: Path) -> Any:
    import shapely

    layer: gpd.GeoDataFrame = read_layer(path)
    return shapely.union_all(layer.geometry.to_crs(4326).to_numpy())
