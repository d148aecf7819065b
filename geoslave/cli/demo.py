"""`geoslave demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geoslave.cli.common import PATH, answer, example, json_option, overwrite_option, progress


@click.command("demo", epilog=example("geoslave demo --out demo"))
@click.option("--out", type=PATH, default=Path("demo"), show_default=True, help="A new folder for the results.")
@click.option("--seed", type=int, default=7, show_default=True, help="Another number gives another landscape.")
@click.option(
    "--size", type=click.IntRange(256, 20_000), default=1_500, show_default=True, help="Side in pixels of 10 m."
)
@click.option("--model", default="kiln-s2", show_default=True, help="A model for bands the rendered scene has.")
@overwrite_option
@json_option
def command(out: Path, seed: int, size: int, model: str, overwrite: bool, as_json: bool) -> None:
    """Show the whole path on a rendered scene with known kilns, with nothing to download.

    Leaves the scene, its chips, the score map, the detections in two formats, a picture, a count and its report.
    The scene is SYNTHETIC: how well the model does on it says little about real imagery.
    """
    from geoslave.demo import run_demo

    with progress(as_json) as step:
        result = run_demo(out, seed=seed, size=size, model=model, overwrite=overwrite, progress=step)
    facts = result.to_dict()
    answer(as_json, facts, _lines(out, result.title, facts))


def _lines(out: Path, title: str, facts: dict[str, Any]) -> list[str]:
    return [
        f"SYNTHETIC SCENE: {facts['area_km2']:,.0f} km2 of rendered landscape with {facts['n_sites']} brick kilns.",
        f"Looked at by {facts['model_id']}: {title}.",
        "",
        f"  found {facts['n_hits']} of {facts['n_sites']} kilns, {facts['n_false_alarms']} false alarms",
        f"  precision {_rate(facts, 'precision')}",
        f"  recall    {_rate(facts, 'recall')}",
        "  (against the known truth of the rendered scene; the model has trained on scenes rendered the",
        "   same way, so figures for real imagery are on its card:  geoslave models show kiln-s2)",
        f"  {_count(facts)}",
        "",
        f"In {out}/ :",
        "  demo.png             the picture: look at this first",
        "  report.html          the count with its interval, methods and limits, as for a paper",
        "  detections.gpkg      opens in QGIS with its style",
        "  detections.geojson   longitude and latitude, for web maps",
        "  scores.tif           the model's score for every pixel (COG)",
        "  scene.tif            the scene; truth.geojson its kilns; chips/ its chips with an index",
        "",
        "Look at the detections as a volunteer would (in your browser, on this computer alone):",
        f"  geoslave review create {out}/detections.gpkg --scenes {out}/scene.tif --gold {out}/truth.geojson "
        f"-n 60 --out {out}-review",
        f"  geoslave review serve {out}-review",
        "",
        "Next: your own scene (red, green, blue; 20 m or finer):",
        "  geoslave detect YOUR_SCENE.tif --model kiln-s2 --out kilns.gpkg",
    ]


def _rate(facts: dict[str, Any], name: str) -> str:
    value, low, high = (facts[name + end] for end in ("", "_low", "_high"))
    if value is None:
        return "not defined: nothing was found"
    return f"{value:.2f}" if low is None else f"{value:.2f}  (95 % interval {low:.2f} to {high:.2f})"


def _count(facts: dict[str, Any]) -> str:
    count = facts["count"]
    figure, low, high = (f"{count[name]:,.0f}" for name in ("value", "low", "high"))
    return f"counted from {count['n_reviewed']} reviewed tiles: {figure} kilns  [{low}, {high}]"
