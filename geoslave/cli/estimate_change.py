"""`geoslave estimate change`."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import DISTANCE, PATH, SHARE, answer, example, json_option, note, overwrite_option
from geoslave.cli.estimate_files import made_from, read_layer, write_layer

if TYPE_CHECKING:
    import geopandas as gpd

    from geoslave.detections.change import Epoch, Observed
    from geoslave.estimate.change import Change, Rate


@click.command(
    "change",
    epilog=example(
        "geoslave estimate change 2019.gpkg 2021.gpkg 2023.gpkg --recall 0.85,0.8,0.9 --out sites.gpkg",
        "geoslave estimate change a.gpkg b.gpkg --date 2019-01-20 --date 2021-02-01 \\\n"
        "      --observed a_valid.tif --observed b_valid.tif --plot series.png",
    ),
)
@click.argument("layers", nargs=-1, required=True, type=PATH, metavar="A B [C...]")
@click.option("--date", "dates", multiple=True, metavar="YYYY-MM-DD", help="One a layer. [default: their column date]")
@click.option("--observed", multiple=True, type=PATH, help="One a layer: polygons, or a raster valid where was seen.")
@click.option(
    "--recall", multiple=True, metavar="R[,LOW,HIGH]", help="Of the detector: once, or one a layer; or a count's .json."
)
@click.option("--precision", multiple=True, metavar="P[,LOW,HIGH]", help="Likewise. [default: 1, layers were reviewed]")
@click.option("--min-confidence", type=SHARE, default=0.0, help="Leave out detections below.")
@click.option(
    "--distance",
    "max_distance_m",
    type=DISTANCE,
    default=50.0,
    show_default=True,
    metavar="METRES",
    help="Detections of two dates so close are one site.",
)
@click.option("--iou", "min_iou", type=SHARE, default=0.1, show_default=True, help="So are those that overlap so much.")
@click.option("--out", type=PATH, help="Every site with its history: .gpkg, .geojson, .fgb or .parquet.")
@click.option("--counts", type=PATH, help="The figures as JSON with their provenance, for geoslave estimate report.")
@click.option("--plot", type=PATH, help="A chart of the counts over time (.png); needs --recall.")
@overwrite_option
@json_option
def command(
    layers: tuple[Path, ...],
    dates: tuple[str, ...],
    observed: tuple[Path, ...],
    recall: tuple[str, ...],
    precision: tuple[str, ...],
    min_confidence: float,
    max_distance_m: float,
    min_iou: float,
    out: Path | None,
    counts: Path | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """What became of the sites between layers of detections, A first.

    Sites are matched one to one. A site is closed after two observable absences; with --recall after as many as
    make that right 19 times in 20. With --recall, counts of change are corrected for misses, with
    intervals. Use images of the same season: kilns stop in the monsoon.
    """
    from geoslave.detections.change import LEAST_ABSENCES, absences_needed, follow
    from geoslave.estimate.change import MEANINGS
    from geoslave.estimate.record import write_record
    from geoslave.files import refuse_existing

    _check_usage(layers, dates, observed, recall, precision, plot)
    for path in (out, counts, plot):
        if path is not None:
            refuse_existing(path, overwrite)
    epochs = _epochs(layers, dates, observed, min_confidence)
    recalls, precisions = _rates(recall, len(layers), "recall"), _rates(precision or ("1",), len(layers), "precision")
    least = min((rate.value for rate in recalls), default=None)
    sites = follow(epochs, max_distance_m, min_iou, least)
    facts: dict[str, Any] = {
        "kind": "change",
        "n_sites": len(sites),
        "absences_needed": LEAST_ABSENCES if least is None else absences_needed(least),
        "status": {name: int((sites["status"] == name).sum()) for name in MEANINGS},
        "series": _series(epochs, sites, recalls, precisions),
        "changes": _changes(epochs, sites, recalls, precisions),
        "out": None if out is None else str(out),
        "provenance": made_from(
            [*((f"layer of {epoch.date}", path) for epoch, path in zip(epochs, layers, strict=True)),
             *(("observed", path) for path in observed)],
            method="sites matched one to one, at most so far apart or overlapping",
            max_distance_m=max_distance_m,
            min_iou=min_iou,
            min_confidence=min_confidence,
            recall=list(recall),
            precision=list(precision),
        ),
    }  # fmt: skip
    if out is not None:
        write_layer(sites, out, overwrite)
    if counts is not None:
        write_record(counts, {**facts, "out": None if out is None else out.name}, overwrite=overwrite)
    if plot is not None:
        _draw(plot, facts["series"], overwrite)
    answer(as_json, facts, _lines(facts))
    if not as_json and not recalls:
        note("without --recall misses look like changes, and two absences of a weak detector like closures")


def _check_usage(
    layers: tuple[Path, ...],
    dates: tuple[str, ...],
    observed: tuple[Path, ...],
    recall: tuple[str, ...],
    precision: tuple[str, ...],
    plot: Path | None,
) -> None:
    if len(layers) < 2:
        raise click.UsageError("give at least two layers, the earliest first")
    for name, given in (("--date", dates), ("--observed", observed)):
        if given and len(given) != len(layers):
            raise click.UsageError(f"{name} is given {len(given)} times for {len(layers)} layers: give one for each")
    for name, given_rates in (("--recall", recall), ("--precision", precision)):
        if len(given_rates) not in (0, 1, len(layers)):
            raise click.UsageError(f"{name}: once for all layers, or once for each")
    if plot is not None and not recall:
        raise click.UsageError("--plot needs --recall: bare detections over time show the detector, not the sites")


def _rates(given: tuple[str, ...], n: int, name: str) -> list[Rate]:
    rates = [_rate_of(Path(text), name) if text.endswith(".json") else _rate(text) for text in given]
    return rates * n if len(rates) == 1 else rates


def _rate(text: str) -> Rate:
    from geoslave.estimate.change import Rate

    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 3):
        raise click.UsageError(f"'{text}' is no rate: write 0.85, or 0.85,0.80,0.90 with its interval, or a .json")
    return Rate(*(parts if len(parts) == 3 else parts * 3))


def _rate_of(path: Path, name: str) -> Rate:
    """Recall or precision as `geoslave estimate count --rates --out` measured it."""
    from geoslave.errors import EstimateError
    from geoslave.estimate.change import Rate
    from geoslave.estimate.record import read_record

    told = read_record(path).get(name)
    if not isinstance(told, dict):
        raise EstimateError(
            f"{path} has no {name}: make it with  geoslave estimate count ... --rates --out {path.name}"
        )
    return Rate(told["value"], told["low"], told["high"])


def _epochs(
    layers: tuple[Path, ...], dates: tuple[str, ...], observed: tuple[Path, ...], min_confidence: float
) -> list[Epoch]:
    from geoslave.detections.change import Epoch

    epochs = []
    for k, path in enumerate(layers):
        table = read_layer(path, empty=True)
        if "confidence" in table:
            table = table[table["confidence"] >= min_confidence]
        when = _date(dates[k] if dates else None, table, path)
        epochs.append(Epoch(when, table, _observed(observed[k]) if observed else None))
    return epochs


def _date(given: str | None, table: gpd.GeoDataFrame, path: Path) -> date:
    from geoslave.errors import GeoslaveError

    text = given
    if text is None and "date" in table and table["date"].notna().any():
        text = str(table["date"].dropna().astype(str).max())[:10]
    try:
        return date.fromisoformat(text or "")
    except ValueError:
        said = f"'{text}' is no date" if text else f"{path} has no dates in a column 'date'"
        raise GeoslaveError(f"{said}: give --date YYYY-MM-DD once for each layer") from None


def _observed(path: Path) -> Observed:
    """Which points a polygon layer covers, or a raster has valid pixels at."""
    import numpy as np
    import shapely

    if path.suffix.lower() not in (".tif", ".tiff", ".vrt"):
        ground = shapely.union_all(read_layer(path).geometry.to_crs(4326).to_numpy())
        shapely.prepare(ground)
        return lambda points: np.asarray(shapely.covers(ground, points), bool)

    def sampled(points: Any) -> Any:
        import geopandas as gpd
        import rasterio

        with rasterio.open(path) as scene:
            at = gpd.GeoSeries(list(points), crs=4326).to_crs(scene.crs)
            inside = shapely.covers(shapely.box(*scene.bounds), at.to_numpy())
            values = scene.sample(zip(at.x, at.y, strict=True), masked=True)
            return inside & np.array([not np.ma.getmaskarray(value).all() for value in values], bool)

    return sampled


def _series(
    epochs: list[Epoch], sites: gpd.GeoDataFrame, recalls: list[Rate], precisions: list[Rate]
) -> list[dict[str, Any]]:
    from geoslave.estimate.change import corrected_count

    series = []
    for k, epoch in enumerate(epochs):
        state = sites["states"].str[k]
        row: dict[str, Any] = {
            "date": epoch.date.isoformat(),
            "found": int((state == "P").sum()),
            "unobservable": int((state == "U").sum()),
        }
        if recalls:
            count = corrected_count(row["found"], recalls[k], precisions[k])
            row["sites"] = replace(count, warnings=(*count.warnings, *_hidden(row["unobservable"]))).to_dict()
        series.append(row)
    return series


def _hidden(unobservable: int) -> tuple[str, ...]:
    """What the count of a date lacks."""
    if not unobservable:
        return ()
    one = "1 known site" if unobservable == 1 else f"{unobservable:,} known sites"
    return (f"{one} could not be seen at a date (cloud, nodata) and are not in its count: a drop there is no closure",)


def _changes(
    epochs: list[Epoch], sites: gpd.GeoDataFrame, recalls: list[Rate], precisions: list[Rate]
) -> list[dict[str, Any]]:
    """From each date to the next, on sites that could be seen at both."""
    from geoslave.estimate.change import corrected_change

    changes = []
    for k in range(len(epochs) - 1):
        a, b = sites["states"].str[k], sites["states"].str[k + 1]
        seen = (a != "U") & (b != "U")
        n_a, n_b, both = (int((part & seen).sum()) for part in (a == "P", b == "P", (a == "P") & (b == "P")))
        row: dict[str, Any] = {
            "from": epochs[k].date.isoformat(),
            "to": epochs[k + 1].date.isoformat(),
            "found_first": n_a,
            "found_then": n_b,
            "found_both": both,
        }
        if recalls:
            change: Change = corrected_change(
                n_a, n_b, both, recalls[k], recalls[k + 1], precisions[k], precisions[k + 1]
            )
            row |= {name: getattr(change, name).to_dict() for name in ("persisted", "closed", "opened", "net")}
        changes.append(row)
    return changes


def _draw(plot: Path, series: list[dict[str, Any]], overwrite: bool) -> None:
    from geoslave.charts import draw_series

    counts = [row["sites"] for row in series]
    draw_series(
        plot,
        [date.fromisoformat(row["date"]) for row in series],
        [count["value"] for count in counts],
        [count["low"] for count in counts],
        [count["high"] for count in counts],
        [row["found"] for row in series],
        subtitle="where somebody could see; 95 % interval",
        overwrite=overwrite,
    )


# ---------------------------------------------------------------- what is printed


def _lines(facts: dict[str, Any]) -> list[str]:
    from geoslave.estimate.change import MEANINGS

    lines = [f"{facts['n_sites']:,} sites seen at any date"]
    lines += [f"  {name:<16} {n:>7,}   {MEANINGS[name]}" for name, n in facts["status"].items()]
    lines.append(f"  closed: {facts['absences_needed']} observable absences in a row")
    for row in facts["changes"]:
        found = f"{row['found_first']:,} found, then {row['found_then']:,}, both times {row['found_both']:,}"
        lines += ["", f"  {row['from']} to {row['to']}: {found}"]
        figures = {name: row[name] for name in ("persisted", "closed", "opened", "net") if name in row}
        lines += [f"    {name:<12} {_shown(figure)}" for name, figure in figures.items()]
    return lines if facts["out"] is None else [*lines, "", f"  ->  {facts['out']}"]


def _shown(figure: dict[str, Any]) -> str:
    return f"{figure['value']:,.0f}  [{figure['low']:,.0f}, {figure['high']:,.0f}]"
