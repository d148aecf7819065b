"""`geoslave provenance`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geoslave.cli.common import PATH, answer, example, json_option


@click.command(
    "provenance",
    epilog=example(
        "geoslave provenance kilns.gpkg",
        "geoslave provenance 3f9a0c5d2b7e4a18 --in kilns.gpkg",
        "geoslave provenance count.json",
        "geoslave provenance bihar-2026 --log release-log.jsonl",
    ),
)
@click.argument("what")
@click.option(
    "--in", "layers", type=PATH, multiple=True, help="Layers to look for a detection in. [default: those here]"
)
@click.option("--log", type=PATH, help="The log of releases. [default: release-log.jsonl beside the release]")
@json_option
def command(what: str, layers: tuple[Path, ...], log: Path | None, as_json: bool) -> None:
    """Lead WHAT back to model, scenes, dates, thresholds and software.

    WHAT is a layer, the id of a detection, the folder of a release, or figures (the .json that geoslave
    estimate count, accuracy, compare --out and change, registry --counts write; the .design.json of a sample).
    """
    from geoslave.release.provenance import layers_in, trace

    facts = trace(what, layers or layers_in(Path.cwd()), log)
    width = max(len(key) for key in facts)
    answer(as_json, facts, [f"{key:<{width}}  {_shown(value)}" for key, value in facts.items()])


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_file(part) if isinstance(part, dict) else str(part) for part in value) or "none"
    return "not known" if value is None else str(value)


def _file(told: dict[str, Any]) -> str:
    """An input of figures: what it was, its name, its digest, and the model behind it."""
    model = f", {told['model_id']}" if "model_id" in told else ""
    return f"{told.get('role')} {told.get('file')} (sha256 {str(told.get('sha256'))[:12]}{model})"
