"""`geoslave export`."""

from __future__ import annotations

from pathlib import Path

import click

from geoslave.cli.common import PATH, SHARE, answer, example, json_option, overwrite_option


@click.command("export", epilog=example("geoslave export kilns.gpkg --out kilns.geojson --min-confidence 0.5"))
@click.argument("layer", type=PATH)
@click.option("--out", type=PATH, required=True, help="The new layer: .gpkg, .geojson, .fgb or .parquet.")
@click.option("--min-confidence", type=SHARE, default=0.0, help="Leave out detections below.")
@overwrite_option
@json_option
def command(layer: Path, out: Path, min_confidence: float, overwrite: bool, as_json: bool) -> None:
    """Write the detections of LAYER in another format, filtered by confidence.

    GeoJSON comes in longitude and latitude (RFC 7946); GeoPackage carries a QGIS style.
    """
    from geoslave.detections.export import (
        check_output,
        filter_detections,
        read_detections,
        read_provenance,
        write_detections,
    )

    check_output(out, overwrite)
    found = read_detections(layer)
    kept = filter_detections(found, min_confidence)
    origin = read_provenance(layer)
    before = origin.get("min_confidence")
    origin["min_confidence"] = max(min_confidence, before) if isinstance(before, (int, float)) else min_confidence
    write_detections(kept, out, provenance=origin, overwrite=overwrite)
    facts = {"out": str(out), "n_detections": len(kept), "n_left_out": len(found) - len(kept)}
    lines = [f"{len(kept)} detections  ->  {out}"]
    if facts["n_left_out"]:
        lines.append(f"  {facts['n_left_out']} below a confidence of {min_confidence:.2f} were left out")
    answer(as_json, facts, lines)
