"""`geoslave detect`."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import (
    PATH,
    SCORE,
    SHARE,
    answer,
    example,
    json_option,
    note,
    overwrite_option,
    parse_date,
    progress,
    scene_options,
)

if TYPE_CHECKING:
    from geoslave.detect import SceneResult
    from geoslave.model.package import ModelPackage


@click.command(
    "detect",
    epilog=example("geoslave detect scene.tif --model kiln-s2 --out kilns.gpkg --scores scores.tif"),
)
@click.argument("scenes", nargs=-1, required=True)
@click.option("--model", default="kiln-s2", show_default=True, help="A model's name (geoslave models list) or folder.")
@click.option("--out", type=PATH, required=True, help="The layer: .gpkg, .geojson, .fgb or .parquet.")
@click.option("--aoi", type=PATH, help="Polygons; only sites inside them are reported.")
@scene_options
@click.option("--threshold", type=SCORE, help="Score that makes a detection. [default: the model's]")
@click.option("--min-confidence", type=SHARE, help="Leave out detections below.")
@click.option("--scores", type=PATH, help="Write the score map (COG) too; a folder if there are several scenes.")
@click.option(
    "--date",
    "taken",
    callback=parse_date,
    metavar="YYYY-MM-DD",
    help="When the scenes were taken.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "onnx", "torch"]),
    default="auto",
    show_default=True,
    help="What runs the network. auto: torch on a GPU, else ONNX Runtime.",
)
@click.option("--threads", type=click.IntRange(1), help="Processor threads. [default: all cores]")
@click.option("--no-gate", is_flag=True, help="Look everywhere closely, though the model has a gate: slower.")
@overwrite_option
@json_option
def command(
    scenes: tuple[str, ...],
    model: str,
    out: Path,
    aoi: Path | None,
    bands: dict[str, int] | None,
    crs: str | None,
    nodata: Any,
    threshold: float | None,
    min_confidence: float | None,
    scores: Path | None,
    taken: date | None,
    backend: Any,
    threads: int | None,
    no_gate: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Find sites in SCENES and write them as one layer with confidence.

    GeoPackage and GeoParquet keep detections of low confidence, so that you can filter later;
    GeoJSON and FlatGeobuf hold those the model stands by, unless --min-confidence says otherwise.
    Sites seen in overlapping scenes are reported once.
    """
    from geoslave.detect import Request, detect_scenes, provenance
    from geoslave.detections.export import check_output, filter_detections, write_detections
    from geoslave.imagery.aoi import read_aoi
    from geoslave.model.gate import gate_facts, gated
    from geoslave.model.package import open_package
    from geoslave.model.predict import load_network

    check_output(out, overwrite)
    request = Request(
        numbers=bands,
        crs=crs,
        nodata=None if nodata == "none" else nodata,
        trust_all=nodata == "none",
        aoi=None if aoi is None else read_aoi(aoi),
        threshold=threshold,
        date=taken,
    )
    package = open_package(model)
    with progress(as_json) as step:
        network = gated(load_network(package, backend, threads), package, threads, use=not no_gate)
        found, results = detect_scenes(
            scenes, package, network, out, request, scores=scores, overwrite=overwrite, progress=step
        )
    lowest = _lowest(out, min_confidence, package)
    gate = gate_facts(package, used=not no_gate)
    kept = filter_detections(found, lowest)
    write_detections(
        kept, out, provenance=provenance(package, results, request, min_confidence=lowest, **gate), overwrite=overwrite
    )
    for result in results:
        for text in result.notes:
            note(text)
    facts = _facts(out, scores, package, results, kept, len(found) - len(kept), lowest) | gate
    answer(as_json, facts, _lines(facts))


def _lowest(out: Path, min_confidence: float | None, package: ModelPackage) -> float:
    """Detections below are left out of the layer."""
    if min_confidence is not None:
        return min_confidence
    return 0.0 if out.suffix.lower() in (".gpkg", ".parquet") else package.spec.confidence.operating


def _facts(
    out: Path,
    scores: Path | None,
    package: ModelPackage,
    results: list[SceneResult],
    kept: Any,
    n_left_out: int,
    lowest: float,
) -> dict[str, Any]:
    operating = package.spec.confidence.operating
    confident = int((kept["confidence"] >= operating).sum())
    return {
        "out": str(out),
        "scores": None if scores is None else str(scores),
        "model_id": package.model_id,
        "n_scenes": len(results),
        "n_detections": len(kept),
        "n_confident": confident,
        "operating_confidence": operating,
        "min_confidence": lowest,
        "n_left_out": n_left_out,
        "calibrated": package.spec.confidence.calibrated,
        "n_chips": sum(result.n_chips for result in results),
        "n_empty_chips": sum(result.n_empty for result in results),
        "notes": [text for result in results for text in result.notes],
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    low = facts["n_detections"] - facts["n_confident"]
    lines = [
        f"{facts['n_confident']} detections with a confidence of {facts['operating_confidence']:.2f} or more"
        f" in {facts['n_scenes']} scene{'s' if facts['n_scenes'] > 1 else ''}  ->  {facts['out']}"
    ]
    if low:
        lines.append(f"  {low} more of lower confidence are in the layer, to be filtered or reviewed later")
    if facts["n_left_out"]:
        lines.append(
            f"  {facts['n_left_out']} below {facts['min_confidence']:.2f} were left out (--min-confidence 0 keeps them)"
        )
    if facts["scores"]:
        lines.append(f"  score map  ->  {facts['scores']}")
    if facts["n_empty_chips"]:
        lines.append(
            f"  {facts['n_empty_chips']} of {facts['n_chips'] + facts['n_empty_chips']} chips hold no valid pixel"
        )
    lines.append("  A detection is an indicator of a kind of site, never evidence of a crime.")
    return lines
