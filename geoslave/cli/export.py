"""`geoslave export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geoslave.cli.common import PATH, SHARE, answer, example, json_option, overwrite_option
from geoslave.cli.qgis_options import check_companions, companion_options, read_companions

_PICTURE_SIDE = 2048
"""Pixels on the longer side of the picture of a scene at an address."""


@click.command(
    "export",
    epilog=example(
        "geoslave export kilns.gpkg --out kilns.geojson --min-confidence 0.5",
        "geoslave export kilns.gpkg --qgis kilns-map --scores scores.tif --scene scene.tif",
    ),
)
@click.argument("layer", type=PATH)
@click.option("--out", type=PATH, help="The new layer: .gpkg, .geojson, .fgb or .parquet; or .pmtiles, for a web map.")
@click.option("--qgis", "project", type=PATH, help="A folder with a QGIS project of LAYER; it can be moved.")
@click.option("--scores", type=PATH, multiple=True, help="A score map for the project; may be given again.")
@click.option(
    "--scene",
    "scenes",
    metavar="PATH",
    multiple=True,
    help="A scene for the project, copied; of one at an address a small picture. May be given again.",
)
@companion_options
@click.option("--min-confidence", type=SHARE, default=0.0, help="Leave out detections below.")
@overwrite_option
@json_option
def command(
    layer: Path,
    out: Path | None,
    project: Path | None,
    scores: tuple[Path, ...],
    scenes: tuple[str, ...],
    min_confidence: float,
    overwrite: bool,
    as_json: bool,
    **beside: Any,
) -> None:
    """Write the detections of LAYER in another format or as a QGIS project, filtered by confidence.

    GeoJSON comes in longitude and latitude (RFC 7946); GeoPackage carries a QGIS style. A project is a folder
    that opens with a double click: the detections graded by confidence, copies of the score maps and scenes
    named, and verdicts, counts and changes if given.
    """
    from geoslave.detections.export import filter_detections, read_detections, read_provenance

    if out is None and project is None:
        raise click.UsageError("give --out FILE or --qgis FOLDER: where should the detections go?")
    if project is None and (scores or scenes):
        raise click.UsageError("--scores and --scene belong to --qgis: a layer holds no rasters")
    check_companions(project is not None, beside)
    if out is not None:
        _check_name(out, overwrite)
    found = read_detections(layer)
    kept = filter_detections(found, min_confidence)
    origin = read_provenance(layer)
    before = origin.get("min_confidence")
    origin["min_confidence"] = max(min_confidence, before) if isinstance(before, (int, float)) else min_confidence
    made = []
    if out is not None:
        made.append(_write(kept, out, origin, overwrite))
    if project is not None:
        from geoslave.detections.qgisproject import write_project

        made.append(
            write_project(
                kept,
                project,
                provenance=origin,
                scores=scores,
                scenes=_scenes(scenes),
                title=f"{layer.stem}: indicators, not evidence",
                companions=read_companions(beside),
                overwrite=overwrite,
            )
        )
    facts = {"out": str(made[0]), "n_detections": len(kept), "n_left_out": len(found) - len(kept)}
    if project is not None:
        facts["qgis"] = str(made[-1])
    lines = [f"{len(kept)} detections  ->  {path}" for path in made]
    if facts["n_left_out"]:
        lines.append(f"  {facts['n_left_out']} below a confidence of {min_confidence:.2f} were left out")
    answer(as_json, facts, lines)


def _check_name(out: Path, overwrite: bool) -> None:
    from geoslave.detections.export import check_output
    from geoslave.detections.tiles import ENDING
    from geoslave.files import refuse_existing

    if out.suffix.lower() == ENDING:
        refuse_existing(out, overwrite)
    else:
        check_output(out, overwrite)


def _write(kept: Any, out: Path, origin: dict[str, Any], overwrite: bool) -> Path:
    """A layer, or tiles, by the name's ending."""
    from geoslave.detections.export import write_detections
    from geoslave.detections.tiles import ENDING, write_tiles

    write = write_tiles if out.suffix.lower() == ENDING else write_detections
    return write(kept, out, provenance=origin, overwrite=overwrite)


def _scenes(named: tuple[str, ...]) -> Any:
    """Files to be copied; with addresses among them, what makes copies and pictures."""
    from geoslave.detections.qgisrasters import copy_rasters, free_name, write_picture
    from geoslave.imagery.geotiff import Reading, scene_name
    from geoslave.imagery.patient import is_remote, open_any_scene

    if not any(is_remote(name) for name in named):
        return [Path(name) for name in named]

    def make(into: Path) -> list[Path]:
        into.mkdir(exist_ok=True)
        made = copy_rasters([Path(name) for name in named if not is_remote(name)], into)
        for name in (name for name in named if is_remote(name)):
            with open_any_scene(name, Reading()) as scene:
                picture = scene.overview(_PICTURE_SIDE)
                made.append(write_picture(picture, tuple(scene.bands), free_name(into, scene_name(name), ".tif")))
        return made

    return make
