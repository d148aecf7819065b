"""`geoslave estimate registry`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import DISTANCE, PATH, SHARE, answer, example, json_option, note, overwrite_option
from geoslave.cli.estimate_files import made_from, read_layer, write_layer

if TYPE_CHECKING:
    import geopandas as gpd


@click.command(
    "registry",
    epilog=example("geoslave estimate registry kilns.gpkg register.csv --out matched.gpkg"),
)
@click.argument("detections", type=PATH)
@click.argument("register", type=PATH)
@click.option(
    "--distance",
    "max_distance_m",
    type=DISTANCE,
    default=150.0,
    show_default=True,
    metavar="METRES",
    help="A detection and an entry so close are one place.",
)
@click.option("--min-confidence", type=SHARE, default=0.0, help="Leave out detections below.")
@click.option("--out", type=PATH, help="Every place with its status: .gpkg, .geojson, .fgb or .parquet.")
@click.option("--counts", type=PATH, help="The figures as JSON with their provenance, for geoslave estimate report.")
@overwrite_option
@json_option
def command(
    detections: Path,
    register: Path,
    max_distance_m: float,
    min_confidence: float,
    out: Path | None,
    counts: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Which detections an official REGISTER knows (any vector file, or CSV with lon and lat), and what both miss.

    Unregistered says that no entry is near, not that a site is illegal. The total from the two lists (Chapman)
    holds only if the lists are independent and detections were reviewed: false ones count as sites.
    """
    from geoslave.detections.register import NOT_SEEN, REGISTERED, UNREGISTERED, match_register
    from geoslave.estimate.count import count_chapman
    from geoslave.estimate.record import write_record
    from geoslave.files import refuse_existing

    for path in (out, counts):
        if path is not None:
            refuse_existing(path, overwrite)
    seen = read_layer(detections, empty=True)
    if "confidence" in seen:
        seen = seen[seen["confidence"] >= min_confidence]
    listed = _register(register)
    matched = match_register(seen, listed, max_distance_m)
    status = {name: int((matched["status"] == name).sum()) for name in (REGISTERED, UNREGISTERED, NOT_SEEN)}
    total = count_chapman(len(seen), len(listed), status[REGISTERED])
    if out is not None:
        write_layer(matched, out, overwrite)
    facts: dict[str, Any] = {
        "kind": "registry",
        "n_detections": len(seen),
        "n_registered": len(listed),
        "status": status,
        "total": total.to_dict(),
        "out": None if out is None else str(out),
        "provenance": made_from(
            [("detections", detections), ("register", register)],
            method=total.method,
            max_distance_m=max_distance_m,
            min_confidence=min_confidence,
        ),
    }
    if counts is not None:
        write_record(counts, {**facts, "out": None if out is None else out.name}, overwrite=overwrite)
    lines = [f"{len(seen):,} detections, {len(listed):,} entries in the register"]
    lines += [f"  {name:<22} {n:>7,}" for name, n in status.items()]
    lines.append(
        f"  from both lists: {total.value:,.0f} sites  [{total.low:,.0f}, {total.high:,.0f}]  ({total.method})"
    )
    answer(as_json, facts, lines if out is None else [*lines, f"  ->  {out}"])
    if not as_json:
        for warning in total.warnings:
            note(warning)


def _register(path: Path) -> gpd.GeoDataFrame:
    """A vector file, or a table with lon and lat in degrees."""
    from geoslave.errors import EstimateError
    from geoslave.estimate.tables import read_table

    if path.suffix.lower() != ".csv":
        return read_layer(path)
    import geopandas as gpd
    import pandas as pd

    table = read_table(path)
    if not {"lon", "lat"} <= set(table):
        raise EstimateError(f"{path} has no columns lon and lat (degrees): it has {', '.join(map(str, table.columns))}")
    lon, lat = (pd.to_numeric(table[name], errors="coerce") for name in ("lon", "lat"))
    odd = ~(lon.between(-180, 180) & lat.between(-90, 90))
    if odd.any():
        raise EstimateError(f"{path}: row {int(odd.to_numpy().argmax()) + 2} has no place in degrees: mend lon and lat")
    return gpd.GeoDataFrame(table.drop(columns=["lon", "lat"]), geometry=gpd.points_from_xy(lon, lat), crs=4326)
