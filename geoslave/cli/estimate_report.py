"""`geoslave estimate report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, SHARE, answer, example, json_option, overwrite_option
from geoslave.cli.estimate_files import area_column, read_layer
from geoslave.release.exportlog import NAME as LOG_NAME

if TYPE_CHECKING:
    import geopandas as gpd

    from geoslave.release.report import Ground


@click.command(
    "report",
    epilog=example(
        "geoslave estimate report count.json --detections kilns.gpkg --out report.html",
        "geoslave estimate report count.json compare.json change.json --detections regions/bihar/runs/2026 \\\n"
        "      --areas districts.gpkg --title 'Brick kilns of Bihar, 2026' --out report.html --pdf report.pdf",
    ),
)
@click.argument("figures", nargs=-1, required=True, type=PATH, metavar="FIGURES...")
@click.option("--out", type=PATH, required=True, help="The report (.html).")
@click.option("--pdf", type=PATH, help="Also as PDF; needs Chromium, Chrome or Edge on this machine.")
@click.option("--detections", type=PATH, help="A layer, a region or its run: for the map and the model.")
@click.option("--min-confidence", type=SHARE, help="Of detections on the map. [default: what the model stands by]")
@click.option("--areas", type=PATH, help="Polygons to draw; coloured where FIGURES hold a count by area.")
@click.option("--area-name", metavar="COLUMN", help="The polygons' column of names. [default: the first with text]")
@click.option("--title", help="[default: made from what was looked for]")
@click.option("--place", default="", help="Below the title, e.g. 'Bihar, India, dry season of 2026'.")
@click.option("--author", "authors", multiple=True, help="May be given again.")
@click.option("--notice", default="", help="Something a reader must see first.")
@click.option("--precise", is_flag=True, help="Exact places on the map; needs --purpose and --recipient, is logged.")
@click.option("--purpose", help="What a precise report is for.")
@click.option("--recipient", help="Who gets a precise report.")
@click.option("--log", type=PATH, help=f"Where a precise report is written down. [default: {LOG_NAME} beside --out]")
@overwrite_option
@json_option
def command(figures: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Write FIGURES (the .json of estimate count, compare, accuracy --out; change, registry --counts) as a report.

    One HTML file with everything in it: counts with intervals, a map, plots, methods in words, assumptions,
    warnings, limits, provenance. The map shows hexagons of at least five detections, never places, unless --precise.
    """
    from geoslave.estimate.record import read_record
    from geoslave.files import refuse_existing
    from geoslave.release.report import Cover, write_report
    from geoslave.release.report_pdf import find_browser, print_pdf

    _check_usage(out, options)
    pdf: Path | None = options["pdf"]
    if pdf is not None:
        find_browser()
        refuse_existing(pdf, options["overwrite"])
    refuse_existing(out, options["overwrite"])
    records = [read_record(path) for path in figures]
    ground = _ground(options)
    cover = Cover(
        options["title"] or _title(ground),
        options["place"],
        options["authors"],
        options["notice"] or _notice(ground, records),
        _today(),
    )
    if options["precise"]:
        _write_down(options["log"] or out.absolute().parent / LOG_NAME, out, options)
    write_report(out, records, cover, ground, overwrite=options["overwrite"])
    if pdf is not None:
        print_pdf(out, pdf, overwrite=options["overwrite"])
    facts = {
        "out": str(out),
        "pdf": None if pdf is None else str(pdf),
        "precise": options["precise"],
        "kinds": [record["kind"] for record in records],
        "bytes": out.stat().st_size,
    }
    lines = [f"a report of {len(records)} file(s) of figures  ->  {out}"]
    lines += [] if pdf is None else [f"  as PDF  ->  {pdf}"]
    answer(as_json, facts, lines)


def _check_usage(out: Path, options: dict[str, Any]) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"{out.name} is no name for a report: end it in .html, and ask for --pdf besides")
    if options["precise"] and not (options["purpose"] and options["recipient"]):
        raise click.UsageError("--precise needs --purpose and --recipient: who gets exact places, and for what?")
    if not options["precise"] and (options["purpose"] or options["recipient"]):
        raise click.UsageError("--purpose and --recipient belong to --precise")
    if options["precise"] and options["detections"] is None:
        raise click.UsageError("--precise shows exact places: give them with --detections")


def _ground(options: dict[str, Any]) -> Ground:
    from geoslave.release.report import Ground

    found, origin = None, None
    if options["detections"] is not None:
        found, origin = _detections(options["detections"], options["min_confidence"])
    areas = None if options["areas"] is None else _areas(options["areas"], options["area_name"])
    return Ground(found, origin, areas, options["precise"])


def _detections(path: Path, min_confidence: float | None) -> tuple[gpd.GeoDataFrame, dict[str, Any]]:
    from geoslave.detections.export import filter_detections, read_detections, read_provenance
    from geoslave.errors import EstimateError
    from geoslave.region.layout import region_named

    region = None if path.is_file() else region_named(str(path))
    if region is not None or path.is_dir():
        run = None if region is None else region.latest_run()
        inside = (run.path if run else path) / "detections.gpkg"
        if not inside.is_file():
            raise EstimateError(
                f"{path} holds no detections.gpkg: make it with  geoslave region export, or give a layer"
            )
        path = inside
    origin = read_provenance(path)
    # a GeoPackage of a region keeps what the model does not stand by, to be filtered later
    own = max(float(origin.get(name) or 0.0) for name in ("min_confidence", "operating_confidence"))
    lowest = own if min_confidence is None else min_confidence
    return filter_detections(read_detections(path), lowest), {**origin, "min_confidence": lowest}


def _areas(path: Path, area_name: str | None) -> gpd.GeoDataFrame:
    """Polygons in longitude/latitude with a column `name`; parts of one name are one area."""
    layer = read_layer(path)
    name = area_column(layer, path, area_name)
    table = layer.assign(name=layer[name].astype(str))[["name", layer.geometry.name]].to_crs(4326)
    return table.dissolve("name").reset_index()


def _title(ground: Ground) -> str:
    told = (ground.provenance or {}).get("target")
    what = str(told).replace("_", " ") + "s" if told else "Sites"
    return f"{what[:1].upper()}{what[1:]}: how many, and how sure"


def _notice(ground: Ground, records: list[dict[str, Any]]) -> str:
    files = [one for record in records for one in (record.get("provenance") or {}).get("inputs") or ()]
    synthetic = any(one.get("synthetic") for one in [ground.provenance or {}, *files])
    return "SYNTHETIC: rendered landscapes, not a real place." if synthetic else ""


def _write_down(log: Path, out: Path, options: dict[str, Any]) -> None:
    """A precise report is on record before it is there."""
    from geoslave.release import exportlog

    told = {name: options[name] for name in ("purpose", "recipient")}
    exportlog.append(log, {"release_id": f"report {out.name}", "kind": "precise", **told})


def _today() -> Any:
    from geoslave.release.folder import today

    return today()
