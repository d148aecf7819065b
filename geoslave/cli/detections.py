"""`geoslave detections ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, answer, example, json_option, overwrite_option
from geoslave.cli.estimate_files import read_layer, write_layer

if TYPE_CHECKING:
    import geopandas as gpd


@click.group(
    "detections",
    epilog=example("geoslave detections enrich kilns.gpkg --near school=schools.gpkg --out kilns_context.gpkg"),
)
def command() -> None:
    """Say more about detections that are there."""


@command.command(
    "enrich",
    epilog=example(
        "geoslave detections enrich kilns.gpkg --near school=schools.gpkg --near river=rivers.gpkg \\\n"
        "      --rules configs/rules/india-2022.yaml --out kilns_context.gpkg",
    ),
)
@click.argument("layer", type=PATH)
@click.option("--near", multiple=True, metavar="NAME=FILE", help="Features to measure to, any vector layer.")
@click.option("--rules", multiple=True, type=PATH, help="Siting rules (configs/rules/*.yaml); may be given again.")
@click.option(
    "--cluster-distance",
    type=click.FloatRange(1, 100_000),
    default=2000.0,
    show_default=True,
    metavar="METRES",
    help="Sites so close belong to one cluster.",
)
@click.option("--cluster-least", type=click.IntRange(2), default=5, show_default=True, help="Sites that make a core.")
@click.option(
    "--max-distance",
    type=click.FloatRange(1, 1_000_000),
    default=50_000.0,
    show_default=True,
    metavar="METRES",
    help="Nothing farther away is looked for.",
)
@click.option("--out", type=PATH, required=True, help="The layer with more columns: .gpkg, .geojson, .fgb or .parquet.")
@overwrite_option
@json_option
def enrich_command(
    layer: Path,
    near: tuple[str, ...],
    rules: tuple[Path, ...],
    cluster_distance: float,
    cluster_least: int,
    max_distance: float,
    out: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Distances to what is near, siting rules a site would break, and clusters, for each site of LAYER.

    A rule broken on a map is a question, not a verdict: the site may be older than the rule or the school.
    """
    from geoslave.detections.context import enrich, read_rules, summary
    from geoslave.files import refuse_existing

    refuse_existing(out, overwrite)
    books = [read_rules(path) for path in rules]
    around = {name: read_layer(path) for name, path in _named(near).items()}
    enriched = enrich(read_layer(layer), around, books, cluster_distance, cluster_least, max_distance)
    write_layer(_plain(enriched), out, overwrite)
    facts = {**summary(enriched, books), "out": str(out)}
    answer(as_json, facts, _lines(facts))


def _named(near: tuple[str, ...]) -> dict[str, Path]:
    named = {}
    for text in near:
        name, _, path = text.partition("=")
        if not name.isidentifier() or not path:
            raise click.UsageError(f"'{text}' is not understood: write --near school=schools.gpkg")
        if name in named:
            raise click.UsageError(f"--near {name} is given twice: merge the layers, or name them apart")
        named[name] = Path(path)
    return named


def _plain(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Without the file's own key, which a new file makes anew."""
    return table.drop(columns=[name for name in ("fid",) if name in table])


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [f"{facts['n_sites']:,} sites"]
    for name, metres in facts["median_m"].items():
        lines.append(
            f"  {name:<16} half of the sites within {metres:,.0f} m"
            if metres is not None
            else f"  {name:<16} none near"
        )
    for name, told in facts["rules"].items():
        lines.append(f"  {name}: {told['n_breaking']:,} would break a rule (in force from {told['in_force_from']})")
        if told["unchecked"]:
            lines.append(f"    not checked, no layer given: {told['unchecked']}")
        if told["unverified"]:
            lines.append(f"    distances nobody verified, read the source first: {told['unverified']}")
    lines.append(f"  {facts['n_clusters']:,} clusters hold {facts['n_in_clusters']:,} sites")
    return [*lines, f"  ->  {facts['out']}"]
