"""`geoslave estimate ...`: designs, counts, accuracy, comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, SHARE, answer, example, json_option, note, overwrite_option
from geoslave.cli.estimate_change import command as change_command
from geoslave.cli.estimate_registry import command as registry_command

if TYPE_CHECKING:
    import pandas as pd

    from geoslave.estimate.accuracy import Accuracy
    from geoslave.estimate.compare import Comparison
    from geoslave.estimate.result import Estimate
    from geoslave.estimate.sample import Design

# the words of geoslave.estimate; importing them here would make --help slow
METHODS = ("gamma", "gamma-poisson", "fay-feuer", "wald", "difference", "discount", "ppi")
DESIGNS = ("best", "stratified", "census+audit", "random")
VECTORS = (".gpkg", ".geojson", ".fgb", ".shp", ".json")

LEVEL = click.option(
    "--level", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.95, show_default=True
)
SEED = click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same answer.")
GAPS = click.option(
    "--gaps",
    type=click.Choice(("refuse", "stratum")),
    default="refuse",
    show_default=True,
    help="Tiles not searched: refuse, or a stratum of their own; unanswered tasks: refuse, or missing at random.",
)
OUT = click.option("--out", type=PATH, help="Also write the answer here, as JSON.")


@click.group(
    "estimate",
    epilog=example(
        "geoslave estimate design frame.csv --reviews 1500 --out sample.csv",
        "geoslave estimate count frame.csv reviews.csv",
    ),
)
def command() -> None:
    """How many sites there are, and how sure that is.

    A frame is a table with one row a tile: tile_id, n_flagged (detections in it), and if you have them
    stratum, score, predicted, status, areas. Reviews are the sample's rows with n_sites filled in.
    """


@command.command(
    "design",
    epilog=example(
        "geoslave estimate design frame.csv --reviews 1500 --out sample.csv",
        "geoslave estimate design frame.csv --half-width 0.1 --recall 0.6",
    ),
)
@click.argument("frame", type=PATH)
@click.option("--reviews", type=click.IntRange(2), help="How many tiles can be reviewed.")
@click.option("--half-width", type=float, help="The interval you want, half of it, as a share of the count: 0.1.")
@click.option("--design", "kind", type=click.Choice(DESIGNS), default="best", show_default=True)
@click.option("--recall", type=SHARE, default=0.75, show_default=True, help="What you suppose the detector finds.")
@click.option("--precision", type=SHARE, default=0.75, show_default=True, help="The share of true detections.")
@click.option("--clustering", type=float, default=2.5, show_default=True, help="Variance over mean of missed sites.")
@LEVEL
@GAPS
@SEED
@click.option("--out", type=PATH, help="Draw the sample and write it here (.csv); fill in n_sites.")
@overwrite_option
@json_option
def design_command(
    frame: Path,
    reviews: int | None,
    half_width: float | None,
    kind: str,
    recall: float,
    precision: float,
    clustering: float,
    level: float,
    gaps: str,
    seed: int,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Propose which tiles of FRAME to review, say what interval to expect, and draw them.

    Strata are the frame's, or made of the number of detections in a tile. Wrong suppositions about the
    detector cost width, not honesty: the interval comes from what reviewers find.
    """
    from geoslave.estimate.sample import Assumptions, draw, propose
    from geoslave.estimate.tables import checked_frame
    from geoslave.files import atomic_file, refuse_existing

    if (reviews is None) == (half_width is None):
        raise click.UsageError("give either --reviews (a budget) or --half-width (a wish)")
    if out is not None:
        refuse_existing(out, overwrite)
    table = checked_frame(_read(frame), gaps)
    supposed = Assumptions(recall, precision, clustering)
    designs = propose(table, reviews, half_width, None if kind == "best" else kind, supposed, level)
    if out is not None:
        drawn = draw(table, designs[0], seed).assign(n_sites="", n_hits="")
        with atomic_file(out, overwrite=overwrite) as draft:
            drawn.to_csv(draft, index=False)
    facts = {
        "designs": [_design_facts(design) for design in designs],
        "assumptions": supposed.words(),
        "seed": seed,
        "out": None if out is None else str(out),
    }
    answer(as_json, facts, _design_lines(designs, out, seed))


@command.command(
    "count",
    epilog=example(
        "geoslave estimate count frame.csv reviews.csv --by district --rates",
        "geoslave estimate count frame.gpkg reviews.csv --areas districts.gpkg --area-name name",
        "geoslave estimate count frame.csv reviews.csv --votes votes.csv --gold gold.csv",
    ),
)
@click.argument("frame", type=PATH)
@click.argument("reviews", type=PATH)
@click.option("--method", type=click.Choice(METHODS), default="gamma", show_default=True)
@LEVEL
@GAPS
@click.option("--by", multiple=True, metavar="COLUMN", help="Also counts for each value, e.g. stratum.")
@click.option("--areas", type=PATH, help="Polygons to count within; FRAME is then a vector file or has lon and lat.")
@click.option("--area-name", metavar="COLUMN", help="The polygons' column of names. [default: the first with text]")
@click.option("--by-class", is_flag=True, help="Also counts by class, from the reviews' columns n_<class>.")
@click.option("--rates", is_flag=True, help="Also recall and precision of the detector.")
@click.option("--votes", type=PATH, help="tile_id, reviewer, answer: carries reviewers' errors through.")
@click.option("--gold", type=PATH, help="tile_id, answer: known tiles that measured the reviewers.")
@SEED
@OUT
@overwrite_option
@json_option
def count_command(
    frame: Path,
    reviews: Path,
    method: str,
    level: float,
    gaps: str,
    by: tuple[str, ...],
    areas: Path | None,
    area_name: str | None,
    by_class: bool,
    rates: bool,
    votes: Path | None,
    gold: Path | None,
    seed: int,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """How many sites FRAME holds, from the REVIEWS of a sample of its tiles.

    gamma, the default, is the stratified total with a compound Fay-Feuer gamma interval: the one that
    held in every setting measured (docs/coverage.md). The others say where they are known to fail.
    """
    from geoslave.estimate.count import class_counts, count_by, count_sites
    from geoslave.estimate.rates import detector_rates
    from geoslave.estimate.tables import read_table
    from geoslave.files import refuse_existing

    if gold is not None and votes is None:
        raise click.UsageError("--gold needs --votes: known tiles measure the reviewers through their votes")
    if out is not None:
        refuse_existing(out, overwrite)
    tiles, found = _read(frame, areas, area_name), read_table(reviews)
    cast, known = (None if path is None else read_table(path) for path in (votes, gold))
    options: dict[str, Any] = {"level": level, "gaps": gaps}
    erring: dict[str, Any] = {"votes": cast, "gold": known, "seed": seed}
    total = count_sites(tiles, found, method, **options, **erring)
    parts = {
        name: count_by(tiles, found, name, method, **options, **erring)
        for name in (*by, *(("area",) if areas is not None else ()))
    }
    if by_class:
        parts["class"] = class_counts(tiles, found, method, **options)
    facts: dict[str, Any] = {
        "total": _facts(total),
        "by": {name: {key: _facts(part) for key, part in groups.items()} for name, groups in parts.items()},
    }
    found_rates = detector_rates(tiles, found, **options) if rates else {}
    facts |= {name: _facts(rate) for name, rate in found_rates.items()}
    _write(out, facts, overwrite)
    answer(as_json, facts, _count_lines(total, parts, found_rates, out))
    if not as_json:
        for warning in total.warnings:
            note(warning)


@command.command(
    "chapman",
    epilog=example("geoslave estimate chapman 346 184 49"),
)
@click.argument("n1", type=click.IntRange(0))
@click.argument("n2", type=click.IntRange(0))
@click.argument("both", type=click.IntRange(0))
@LEVEL
@json_option
def chapman_command(n1: int, n2: int, both: int, level: float, as_json: bool) -> None:
    """Sites there are when one list has N1 of them, an independent one N2, and BOTH are on the two."""
    from geoslave.estimate.count import count_chapman

    estimate = count_chapman(n1, n2, both, level)
    answer(as_json, _facts(estimate), [f"{_shown(estimate)} sites", f"  {estimate.method}"])
    if not as_json:
        for warning in estimate.warnings:
            note(warning)


@command.command(
    "accuracy",
    epilog=example(
        "geoslave estimate accuracy units.csv --mapped areas.csv",
        "geoslave estimate accuracy matrix.csv --mapped areas.csv --json",
    ),
)
@click.argument("table", type=PATH)
@click.option("--mapped", type=PATH, required=True, help="class_name, area: how much the map gives to each class.")
@LEVEL
@OUT
@overwrite_option
@json_option
def accuracy_command(table: Path, mapped: Path, level: float, out: Path | None, overwrite: bool, as_json: bool) -> None:
    """Accuracy and area of a map after Olofsson et al. 2014.

    TABLE has one row a sample unit with columns map and reference, or it is the error matrix itself: first
    column the map's class, then one column for each reference class.
    """
    from geoslave.files import refuse_existing

    if out is not None:
        refuse_existing(out, overwrite)
    found = _accuracy(table, mapped, level)
    rows = zip(found.classes, found.users, found.producers, found.areas, strict=True)
    facts = {
        "overall": _facts(found.overall),
        "classes": {
            name: {"users": _facts(user), "producers": _facts(producer), "area": _facts(area)}
            for name, user, producer, area in rows
        },
    }
    _write(out, facts, overwrite)
    answer(as_json, facts, _accuracy_lines(found, out))


@command.command(
    "compare",
    epilog=example("geoslave estimate compare frame.csv reviews.csv --by district --by season"),
)
@click.argument("frame", type=PATH)
@click.argument("reviews", type=PATH)
@click.option("--by", multiple=True, metavar="COLUMN", help="A column of frame or reviews; may be given again.")
@click.option("--areas", type=PATH, help="Polygons to compare; FRAME is then a vector file or has lon and lat.")
@click.option("--area-name", metavar="COLUMN", help="The polygons' column of names. [default: the first with text]")
@LEVEL
@GAPS
@SEED
@OUT
@overwrite_option
@json_option
def compare_command(
    frame: Path,
    reviews: Path,
    by: tuple[str, ...],
    areas: Path | None,
    area_name: str | None,
    level: float,
    gaps: str,
    seed: int,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Is the detector unfair to a place? Recall, precision and calibration by group, with a test.

    The test shuffles groups among the reviewed tiles of each stratum: p is how often chance alone makes
    groups as different as these.
    """
    from geoslave.estimate.compare import compare_groups
    from geoslave.estimate.tables import read_table
    from geoslave.files import refuse_existing

    if not by and areas is None:
        raise click.UsageError("give --by COLUMN or --areas POLYGONS: what should be compared?")
    if out is not None:
        refuse_existing(out, overwrite)
    tiles, found = _read(frame, areas, area_name), read_table(reviews)
    columns = (*by, *(("area",) if areas is not None else ()))
    compared = [one for name in columns for one in compare_groups(tiles, found, name, level, gaps, seed)]
    facts = {"comparisons": [_comparison_facts(one) for one in compared]}
    _write(out, facts, overwrite)
    answer(as_json, facts, [line for one in compared for line in _comparison_lines(one)])
    if not as_json:
        for warning in sorted({warning for one in compared for warning in one.warnings}):
            note(warning)


# ---------------------------------------------------------------- reading and writing


def _read(path: Path, areas: Path | None = None, area_name: str | None = None) -> pd.DataFrame:
    """The frame as a table; with polygons, it gets a column `area`."""
    from geoslave.errors import EstimateError
    from geoslave.estimate.tables import read_table

    if path.suffix.lower() not in VECTORS:
        table = read_table(path)
        if areas is None:
            return table
        if not {"lon", "lat"} <= set(table):
            raise EstimateError(f"{path} has no columns lon and lat to find its tiles in {areas.name}: add them")
        import geopandas as gpd

        return _with_areas(
            gpd.GeoSeries(gpd.points_from_xy(table["lon"], table["lat"]), crs=4326), table, areas, area_name
        )
    layer = _layer(path)
    table = layer.drop(columns=layer.geometry.name)
    return table if areas is None else _with_areas(layer.geometry.representative_point(), table, areas, area_name)


def _with_areas(points: Any, table: pd.DataFrame, areas: Path, area_name: str | None) -> pd.DataFrame:
    """The polygon each tile's point lies in; "(outside)" for none, the first of several."""
    import geopandas as gpd

    from geoslave.errors import EstimateError

    polygons = _layer(areas)
    others = polygons.drop(columns=polygons.geometry.name)
    texts = list(others.select_dtypes(include=["object", "string"]).columns)
    name = area_name or (texts[0] if texts else None)
    if name is None or name not in polygons:
        raise EstimateError(f"{areas} has no column '{name or 'of names'}': say --area-name, one of its columns")
    if points.crs is None:
        raise EstimateError("the frame has no CRS: say where its tiles are, e.g. with ogr2ogr -a_srs")
    joined = gpd.sjoin(gpd.GeoDataFrame(geometry=points.to_crs(polygons.crs)), polygons[[name, polygons.geometry.name]])
    found = joined[~joined.index.duplicated()][name].reindex(table.index)
    if found.isna().all():
        raise EstimateError(f"no tile of the frame lies in {areas}: check that both are the same part of the world")
    return table.assign(area=found.astype(object).where(found.notna(), "(outside)").astype(str))


def _layer(path: Path, empty: bool = False) -> Any:
    import geopandas as gpd

    from geoslave.errors import EstimateError

    try:
        layer = gpd.read_parquet(path) if path.suffix.lower() == ".parquet" else gpd.read_file(path)
    except Exception as error:  # every reader has its own errors
        raise EstimateError(f"{path} cannot be read as a layer: {' '.join(str(error).split())}") from error
    if layer.crs is None:
        raise EstimateError(f"{path} has no CRS: say where it is, e.g. with ogr2ogr -a_srs")
    if layer.empty and not empty:
        raise EstimateError(f"{path} has no rows: give another layer")
    return layer


def _accuracy(table: Path, mapped: Path, level: float) -> Accuracy:
    from geoslave.errors import EstimateError
    from geoslave.estimate.accuracy import assess_accuracy, error_matrix
    from geoslave.estimate.tables import read_table

    given, share = read_table(table), read_table(mapped)
    for column in ("class_name", "area"):
        if column not in share:
            raise EstimateError(f"{mapped} has no column '{column}': it needs class_name and area")
    classes = tuple(share["class_name"].astype(str))
    if {"map", "reference"} <= set(given):
        matrix, classes = error_matrix(given, classes)
    else:
        square = given.set_index(given.columns[0])
        square.index, square.columns = square.index.astype(str), square.columns.astype(str)
        if set(square.index) != set(classes) or set(square.columns) != set(classes):
            raise EstimateError(f"{table}: rows and columns must be the classes of {mapped.name}: {', '.join(classes)}")
        matrix = square.loc[list(classes), list(classes)].to_numpy(float)
    return assess_accuracy(matrix, share["area"], classes, level)


def _write(out: Path | None, facts: dict[str, Any], overwrite: bool) -> None:
    from geoslave.files import atomic_file

    if out is None:
        return
    with atomic_file(out, overwrite=overwrite) as draft:
        draft.write_text(json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")


# ---------------------------------------------------------------- what is printed


def _facts(estimate: Estimate) -> dict[str, Any]:
    from dataclasses import asdict
    from math import isfinite

    told = {**asdict(estimate), "assumptions": estimate.assumptions}
    return {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in told.items()}


def _shown(estimate: Estimate, digits: int = 0) -> str:
    value, low, high = (f"{part:,.{digits}f}" for part in (estimate.value, estimate.low, estimate.high))
    return f"{value}  [{low}, {high}]"


def _design_facts(design: Design) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "design": design.kind,
        "n_reviews": design.n_reviews,
        "expected": round(design.expected, 1),
        "expected_low": round(design.expected_low, 1),
        "expected_high": round(design.expected_high, 1),
        "half_width": round(design.half_width, 4) if design.expected > 0 else None,
        "strata": [asdict(stratum) for stratum in design.strata],
    }


def _design_lines(designs: list[Design], out: Path | None, seed: int) -> list[str]:
    best = designs[0]
    lines = [f"{best.kind}: {best.n_reviews:,} tiles to review"]
    lines += [f"  {stratum.name:<16} {stratum.reviews:>6,} of {stratum.tiles:>8,}" for stratum in best.strata]
    lines.append(f"  {best.assumptions.words()}")
    lines.append("  then expect:")
    lines += [
        f"  {design.kind:<16} {design.n_reviews:>6,} reviews   {design.expected:,.0f} sites "
        f"[{design.expected_low:,.0f}, {design.expected_high:,.0f}], half-width {design.half_width:.0%}"
        for design in designs
    ]
    if out is not None:
        lines.append(f"  sample drawn with seed {seed}; fill in n_sites (and n_hits)  ->  {out}")
    return lines


def _count_lines(
    total: Estimate, parts: dict[str, dict[str, Estimate]], rates: dict[str, Estimate], out: Path | None
) -> list[str]:
    lines = [f"{_shown(total)} sites, {total.level:.0%} interval, from {total.n_reviewed:,} reviewed tiles"]
    lines.append(f"  {total.method}: {total.assumptions}")
    lines += [f"  {name:<10} {_shown(rate, 3)}" for name, rate in rates.items()]
    for by, groups in parts.items():
        lines += ["", f"  {'by ' + by:<24} {'reviewed':>8}  sites"]
        lines += [f"  {name[:24]:<24} {part.n_reviewed:>8,}  {_shown(part)}" for name, part in groups.items()]
    return lines if out is None else [*lines, f"  ->  {out}"]


def _accuracy_lines(found: Accuracy, out: Path | None) -> list[str]:
    lines = [f"overall accuracy {_shown(found.overall, 3)}, from {found.overall.n_reviewed:,} sample units"]
    lines.append(f"  {'class':<16} {'users':<22} {'producers':<22} area")
    rows = zip(found.classes, found.users, found.producers, found.areas, strict=True)
    for name, user, producer, area in rows:
        lines.append(f"  {name[:16]:<16} {_shown(user, 3):<22} {_shown(producer, 3):<22} {_shown(area, 1)}")
    lines.append(f"  {found.overall.level:.0%} intervals after Olofsson et al. 2014")
    return lines if out is None else [*lines, f"  ->  {out}"]


def _comparison_facts(one: Comparison) -> dict[str, Any]:
    return {
        "measure": one.measure,
        "by": one.by,
        "p_value": one.p_value,
        "differs": one.differs,
        "groups": {name: _facts(estimate) for name, estimate in one.groups.items()},
        "warnings": list(one.warnings),
    }


def _comparison_lines(one: Comparison) -> list[str]:
    verdict = "differs" if one.differs else "no difference seen"
    lines = [f"{one.measure} by {one.by}: {verdict} (p = {one.p_value:.3g})"]
    return [*lines, *(f"  {name[:24]:<24} {_shown(estimate, 3)}" for name, estimate in one.groups.items())]


command.add_command(change_command)
command.add_command(registry_command)
