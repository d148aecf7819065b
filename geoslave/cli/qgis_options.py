"""What `geoslave export --qgis` and `geoslave region export --qgis` share: the layers beside detections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geoslave.cli.common import PATH

if TYPE_CHECKING:
    import geopandas as gpd

    from geoslave.detections.qgisproject import Companions

Function = TypeVar("Function", bound=Callable[..., Any])
NAMES = ("verdicts", "counts", "areas", "area_name", "changes")


def companion_options(function: Function) -> Function:
    """Options for what a project shows beside detections."""
    for option in (
        click.option("--changes", type=PATH, help="For --qgis: sites of `geoslave estimate change --out`."),
        click.option("--area-name", metavar="COLUMN", help="The areas' column of names. [default: the one that fits]"),
        click.option("--areas", type=PATH, help="For --counts: the polygons that it was counted within."),
        click.option("--counts", type=PATH, help="For --qgis: `geoslave estimate count --areas ... --out` (.json)."),
        click.option("--verdicts", metavar="REVIEW", help="For --qgis: a review (folder, database) or verdicts.gpkg."),
    ):
        function = option(function)
    return function


def check_companions(wanted: bool, given: dict[str, Any]) -> None:
    """Refuse options that would be passed over."""
    named = [f"--{name.replace('_', '-')}" for name in NAMES if given[name] is not None]
    if named and not wanted:
        raise click.UsageError(f"{named[0]} belongs to --qgis: a layer holds nothing else")
    if (given["counts"] is None) != (given["areas"] is None):
        raise click.UsageError("--counts and --areas belong together: the figures, and the polygons they are of")
    if given["area_name"] is not None and given["areas"] is None:
        raise click.UsageError("--area-name belongs to --areas")


def read_companions(given: dict[str, Any]) -> Companions:
    """The layers beside detections.

    Raises:
        GeoslaveError: if a file is missing or holds something else.
    """
    from geoslave.detections.qgislayers import read_changes, read_counts
    from geoslave.detections.qgisproject import Companions

    counted = given["counts"] is not None
    return Companions(
        verdicts=None if given["verdicts"] is None else _verdicts(given["verdicts"]),
        counts=read_counts(given["counts"], given["areas"], given["area_name"]) if counted else None,
        changes=None if given["changes"] is None else read_changes(given["changes"]),
    )


def _verdicts(review: str) -> gpd.GeoDataFrame:
    """From a layer of verdicts, or from a review as it stands."""
    from geoslave.detections.qgislayers import read_verdicts

    if "://" not in review and Path(review).suffix.lower() in (".gpkg", ".geojson", ".fgb", ".parquet"):
        return read_verdicts(Path(review))
    from geoslave.cli.review import open_review
    from geoslave.review.verdicts import outcome

    with open_review(review) as store:
        found = outcome(store).verdicts
    return found[found.geometry.notna()].reset_index(drop=True)
