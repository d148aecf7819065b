"""`geoslave chip`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geoslave.cli.common import (
    PATH,
    answer,
    example,
    json_option,
    note,
    overwrite_option,
    progress,
    scene_options,
    warnings_told,
)


@click.command(
    "chip", epilog=example("geoslave chip scene.tif --out chips --size 256 --overlap 32 --labels kilns.geojson")
)
@click.argument("scene")
@click.option("--out", type=PATH, required=True, help="A new folder for chips, masks and index.parquet.")
@click.option("--size", type=click.IntRange(16), default=256, show_default=True, help="Side of a chip in pixels.")
@click.option("--overlap", type=click.IntRange(0), default=32, show_default=True, help="Pixels neighbours share.")
@click.option("--labels", type=PATH, help="Known sites (GeoJSON, GeoPackage, CSV of points, ...): adds masks.")
@click.option("--target", default="brick_kiln", show_default=True, help="Gives labelled points their footprint.")
@click.option(
    "--format", "kind", type=click.Choice(["tif", "png"]), default="tif", show_default=True, help="Of the chips."
)
@scene_options
@overwrite_option
@json_option
def command(
    scene: str,
    out: Path,
    size: int,
    overlap: int,
    labels: Path | None,
    target: str,
    kind: Any,
    bands: dict[str, int] | None,
    crs: str | None,
    nodata: Any,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Cut SCENE into georeferenced chips, with masks where labels are given, and an index (GeoParquet).

    Chips that are all nodata are left out and counted. A PNG is 8 bit, stretched for looking at.
    """
    if overlap >= size:
        raise click.BadParameter(f"{overlap} is not smaller than the chip size {size}", param_hint="--overlap")
    from geoslave.imagery.geotiff import Reading, open_scene
    from geoslave.labels.chips import cut_chips
    from geoslave.labels.formats import labels_on, read_labels
    from geoslave.targets import get_target

    reading = Reading(numbers=bands, crs=crs, nodata=None if nodata == "none" else nodata, trust_all=nodata == "none")
    with open_scene(scene, reading) as source, progress(as_json) as step:
        known = None
        if labels is not None:
            with warnings_told():
                known = labels_on(read_labels(labels, target=get_target(target)), source.geobox)
        summary = cut_chips(
            source,
            out,
            size=size,
            overlap=overlap,
            labels=known,
            format=kind,
            scene_id=source.scene_id,
            band_names=source.bands,
            scales=source.scales,
            offsets=source.offsets,
            overwrite=overwrite,
            progress=lambda done, total: step("cutting chips", done, total),
        )
        for remark in source.remarks():
            note(remark)
    facts = {
        "out": str(out),
        "index": str(out / "index.parquet"),
        "n_chips": summary.n_written,
        "n_empty": summary.n_empty,
        "size": size,
        "overlap": overlap,
    }
    lines = [f"{summary.n_written} chips of {size} x {size} pixels  ->  {out}"]
    if summary.n_empty:
        lines.append(f"  {summary.n_empty} more hold no valid pixel and were left out")
    answer(as_json, facts, lines)
