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

    WHAT is a layer, the id of a detection, the folder of a release, or a count (the .json of geoslave
    estimate count --out).
    """
    from geoslave.release.provenance import layers_in, trace

    facts = trace(what, layers or layers_in(Path.cwd()), log)
    width = max(len(key) for key in facts)
    answer(as_json, facts, [f"{key:<{width}}  {_shown(value)}" for key, value in facts.items()])


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(part) for part in value) or "none"
    return "not known" if value is None else str(value)
