"""`geoslave labels import`."""

from __future__ import annotations

from pathlib import Path

import click

from geoslave.cli.common import DISTANCE, GSD, PATH, answer, example, json_option, overwrite_option

# the words of geoslave.labels.importing.FORMATS; importing it here would make --help slow
FORMATS = ("auto", "vector", "points", "chips", "yolo", "dota", "coco", "labelstudio", "mask")


@click.group("labels", epilog=example("geoslave labels import labels_yolo_obb --images chips --out kilns.gpkg"))
def command() -> None:
    """Bring labels of any format into one table."""


@command.command(
    "import",
    epilog=example(
        "geoslave labels import labels_yolo_obb --images chips --out kilns.gpkg",
        "geoslave labels import sites.csv more.kmz --target brick_kiln --out kilns.geojson",
        "geoslave labels import answers.csv --format chips --gsd 10 --chip-size 48 --out weak.parquet",
    ),
)
@click.argument("sources", nargs=-1, required=True, type=PATH, metavar="SOURCE...")
@click.option("--out", type=PATH, required=True, help="The table: .gpkg, .geojson, .fgb or .parquet.")
@click.option("--target", default="brick_kiln", show_default=True, help="What is labelled; gives points their size.")
@click.option("--images", type=PATH, help="The images that were labelled, or any imagery the labels must lie on.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(FORMATS),
    default="auto",
    show_default=True,
    help="Of SOURCE. auto: by its content.",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME",
    help="The class of all labels; given several times, the classes in order of their ids.",
)
@click.option("--crs", metavar="EPSG:N", help="CRS of layers that declare none.")
@click.option("--layer", metavar="NAME", help="Of a file with several layers.")
@click.option(
    "--gsd",
    "gsd_m",
    type=GSD,
    default=10.0,
    show_default=True,
    help="Metres a pixel of images that are not georeferenced but named by their centre (LAT_LON.png).",
)
@click.option(
    "--chip-size",
    type=click.IntRange(1, 100_000),
    default=128,
    show_default=True,
    help="Side in pixels of such images where they are not at hand.",
)
@click.option(
    "--merge-distance",
    "merge_m",
    type=DISTANCE,
    metavar="METRES",
    help="Labels of different images with centres so close are one site.  [default: 35, less for small targets]",
)
@click.option("--keep-duplicates", is_flag=True, help="Count sites that were labelled more than once, but keep them.")
@click.option("--negatives", is_flag=True, help="Keep images that were labelled as empty as chips with the answer no.")
@overwrite_option
@json_option
def import_command(
    sources: tuple[Path, ...],
    out: Path,
    target: str,
    images: Path | None,
    kind: str,
    classes: tuple[str, ...],
    crs: str | None,
    layer: str | None,
    gsd_m: float,
    chip_size: int,
    merge_m: float | None,
    keep_duplicates: bool,
    negatives: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Bring labels into one table: GeoJSON, GeoPackage, Shapefile, KML, KMZ, FlatGeobuf, GeoParquet, CSV of
    points, YOLO boxes and oriented boxes, DOTA, COCO, Label Studio, masks, and yes/no tables of chips.

    What was repaired, left out or merged is told with a count. The table has class_name, certainty,
    source, date, kind (outline, point, or chip: one weak answer for a whole image) and presence
    (yes, no, unsure).
    """
    from geoslave.labels.importing import Options, check_output, import_labels, write_labels
    from geoslave.targets import get_target

    options = Options(
        get_target(target),
        images=images,
        format=kind,
        classes=classes,
        crs=crs,
        layer=layer,
        gsd_m=gsd_m,
        chip_size=chip_size,
        merge_m=merge_m,
        keep_duplicates=keep_duplicates,
        negatives=negatives,
    )
    check_output(out, overwrite)
    table, report = import_labels(sources, options)
    write_labels(table, out, overwrite)
    facts = {"out": str(out), **report.to_dict()}
    answer(as_json, facts, [f"{report.n_labels} labels  ->  {out}", *report.lines()])


@command.command("from-review", epilog=example("geoslave labels from-review kilns-review --out reviewed.gpkg"))
@click.argument("review")
@click.option("--out", type=PATH, required=True, help="The table: .gpkg, .geojson, .fgb or .parquet.")
@click.option("--target", default="brick_kiln", show_default=True, help="What was looked for; sizes sites of searches.")
@click.option(
    "--certainty",
    type=click.FloatRange(0.5, 1),
    default=0.8,
    show_default=True,
    help="Verdicts less sure than this are 'unsure'.",
)
@overwrite_option
@json_option
def from_review(review: str, out: Path, target: str, certainty: float, overwrite: bool, as_json: bool) -> None:
    """Make training labels of what people said in a REVIEW (folder, file or PostgreSQL URL).

    Confirmed detections are sites. Refused ones are hard negatives: outlines with presence 'no'. Sites marked
    in searches are points; searched tiles without one are chips that answer 'no'.
    """
    from geoslave.cli.review import open_review
    from geoslave.labels.importing import check_output, write_labels
    from geoslave.review.training import labels_from
    from geoslave.review.verdicts import outcome
    from geoslave.targets import get_target

    check_output(out, overwrite)
    with open_review(review) as store:
        table = labels_from(outcome(store), get_target(target), certainty)
    write_labels(table, out, overwrite)
    counted = {
        f"{kind} {presence}": int(n) for (kind, presence), n in table.groupby(["kind", "presence"]).size().items()
    }
    lines = [f"{len(table)} labels  ->  {out}", *(f"  {name}: {n}" for name, n in counted.items())]
    answer(as_json, {"out": str(out), "n_labels": len(table), "counts": counted}, lines)
