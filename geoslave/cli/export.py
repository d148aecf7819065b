"""`geoslave export`."""

from __future__ import annotations

from pathlib import Path

import click

from geoslave.cli.common import PATH, SHARE, answer, example, json_option, overwrite_option


@click.command(
    "export",
    epilog=example(
        "geoslave export kilns.gpkg --out kilns.geojson --min-confidence 0.5",
        "geoslave export kilns.gpkg --qgis kilns-map --scores scores.tif --scene scene.tif",
    ),
)
@click.argument("layer", type=PATH)
@click.option("--out", type=PATH, help="The new layer: .gpkg, .geojson, .fgb or .parquet.")
@click.option("--qgis", "project", type=PATH, help="A folder with a QGIS project of LAYER; it can be moved.")
@click.option("--scores", type=PATH, multiple=True, help="A score map for the project; may be given again.")
@click.option("--scene", "scenes", type=PATH, multiple=True, help="A scene for the project; may be given again.")
@click.option("--min-confidence", type=SHARE, default=0.0, help="Leave out detections below.")
@overwrite_option
@json_option
def command(
    layer: Path,
    out: Path | None,
    project: Path | None,
    scores: tuple[Path, ...],
    scenes: tuple[Path, ...],
    min_confidence: float,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the detections of LAYER in another format or as a QGIS project, filtered by confidence.

    GeoJSON comes in longitude and latitude (RFC 7946); GeoPackage carries a QGIS style. A project is a folder
    with the detections graded by confidence, and copies of the score maps and scenes named.
    """
    from geoslave.detections.export import (
        check_output,
        filter_detections,
        read_detections,
        read_provenance,
        write_detections,
    )

    if out is None and project is None:
        raise click.UsageError("give --out FILE or --qgis FOLDER: where should the detections go?")
    if project is None and (scores or scenes):
        raise click.UsageError("--scores and --scene belong to --qgis: a layer holds no rasters")
    if out is not None:
        check_output(out, overwrite)
    found = read_detections(layer)
    kept = filter_detections(found, min_confidence)
    origin = read_provenance(layer)
    before = origin.get("min_confidence")
    origin["min_confidence"] = max(min_confidence, before) if isinstance(before, (int, float)) else min_confidence
    made = []
    if out is not None:
        made.append(write_detections(kept, out, provenance=origin, overwrite=overwrite))
    if project is not None:
        from geoslave.detections.qgisproject import write_project

        made.append(
            write_project(
                kept,
                project,
                provenance=origin,
                scores=scores,
                scenes=scenes,
                title=f"{layer.stem}: indicators, not evidence",
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
