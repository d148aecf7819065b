"""`geoslave region export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, SHARE, answer, example, json_option, note, overwrite_option
from geoslave.cli.qgis_options import check_companions, companion_options, read_companions
from geoslave.cli.region import regions_option
from geoslave.cli.stac_options import stac_options, take_wish, write_catalogue

if TYPE_CHECKING:
    from geoslave.region.layout import RegionFolder


@click.command(
    "export",
    epilog=example(
        "geoslave region export bihar",
        "geoslave region export bihar --out bihar.gpkg",
        "geoslave region export bihar --qgis bihar-map --verdicts kilns-review",
        "geoslave region export bihar --stac bihar-stac --purpose 'site visits' --recipient 'Labour Dept'",
    ),
)
@click.argument("name")
@click.option(
    "--out",
    "outputs",
    multiple=True,
    type=PATH,
    help="A layer: .gpkg, .geojson, .fgb or .parquet; may be given several times. "
    "[default: detections.gpkg, .geojson and .parquet in the run's folder]",
)
@click.option(
    "--qgis",
    "project",
    is_flag=False,
    flag_value="",
    metavar="[DIR]",
    help="A folder with a QGIS project of the run; it can be moved. [DIR: qgis in the run's folder]",
)
@companion_options
@click.option("--no-scores", is_flag=True, help="For --qgis: without score maps, the largest part of it.")
@click.option("--no-scenes", is_flag=True, help="For --qgis: without pictures of the scenes.")
@stac_options
@click.option(
    "--min-confidence", type=SHARE, help="Leave out detections below; a project keeps them and hides them at first."
)
@click.option("--allow-gaps", is_flag=True, help="Export though blocks are missing; the layer says so.")
@regions_option
@overwrite_option
@json_option
def command(
    name: str,
    outputs: tuple[Path, ...],
    project: str | None,
    no_scores: bool,
    no_scenes: bool,
    min_confidence: float | None,
    allow_gaps: bool,
    regions: Path,
    overwrite: bool,
    as_json: bool,
    **beside: Any,
) -> None:
    """Write what the region NAME holds as layers: joined across blocks and scenes, each site once.

    As with geoslave detect, GeoPackage and GeoParquet keep detections of low confidence; GeoJSON and
    FlatGeobuf hold those the model stands by, unless --min-confidence says otherwise.

    With --qgis a folder that opens in QGIS with a double click: detections by confidence, blocks with what
    became of them, score maps, pictures of the scenes, and verdicts, counts and changes if given.

    With --stac a static STAC catalogue: scenes, score maps, detections and the model. It holds exact places,
    so purpose and recipient stand in it, and the log of releases has its line first.
    """
    from geoslave.region.layout import find_region

    wish = take_wish(beside)
    check_companions(project is not None, beside)
    if project is None and (no_scores or no_scenes):
        raise click.UsageError("--no-scores and --no-scenes belong to --qgis")
    region = find_region(name, regions)
    facts: dict[str, Any] = {"region": name}
    lines: list[str] = []
    if outputs or (project is None and wish is None):
        _layers(region, outputs, min_confidence, allow_gaps, overwrite, facts, lines)
    if project is not None:
        folder = Path(project) if project else None
        _project(region, folder, min_confidence, allow_gaps, overwrite, (no_scores, no_scenes), beside, facts, lines)
    if wish is not None:
        told = "run" in facts
        missing = write_catalogue(region, wish, allow_gaps, overwrite, facts, lines)
        _tell_gaps(0 if told else missing, lines)
    lines.append("  A detection is an indicator of a kind of site, never evidence of a crime.")
    answer(as_json, facts, lines)


def _layers(
    region: RegionFolder,
    outputs: tuple[Path, ...],
    min_confidence: float | None,
    allow_gaps: bool,
    overwrite: bool,
    facts: dict[str, Any],
    lines: list[str],
) -> None:
    from geoslave.region.publish import export_region

    result = export_region(region, outputs, min_confidence, allow_gaps=allow_gaps, overwrite=overwrite)
    for text in result.notes:
        note(text)
    facts |= {
        "run": result.run,
        "layers": {str(path): count for path, count in result.layers.items()},
        "blocks_missing": len(result.missing),
        "operating_confidence": result.operating,
        "n_confident": result.n_confident,
    }
    lines.append(f"{result.n_confident} detections with a confidence of {result.operating:.2f} or more")
    lines += [f"  {count} detections  ->  {path}" for path, count in result.layers.items()]
    _tell_gaps(len(result.missing), lines)


def _project(
    region: RegionFolder,
    folder: Path | None,
    min_confidence: float | None,
    allow_gaps: bool,
    overwrite: bool,
    without: tuple[bool, bool],
    beside: dict[str, Any],
    facts: dict[str, Any],
    lines: list[str],
) -> None:
    from geoslave.region.qgis import export_project

    handed = export_project(
        region,
        folder,
        min_confidence=min_confidence,
        companions=read_companions(beside),
        scores=not without[0],
        scenes=not without[1],
        allow_gaps=allow_gaps,
        overwrite=overwrite,
    )
    told = facts.get("run") is not None
    for text in handed.notes if not told else ():
        note(text)
    facts |= {
        "run": handed.run,
        "blocks_missing": len(handed.missing),
        "qgis": str(handed.project),
        "n_detections": handed.n_detections,
        "shown_from": handed.min_confidence,
    }
    lines.append(
        f"{handed.n_detections} detections, shown from a confidence of {handed.min_confidence:.2f}"
        f"  ->  {handed.project}"
    )
    if not told:
        _tell_gaps(len(handed.missing), lines)


def _tell_gaps(missing: int, lines: list[str]) -> None:
    if missing:
        gaps = f"{missing} blocks are missing: sites there are not in the layers"
        note(gaps)
        lines.append(f"  GAPS: {gaps}")
