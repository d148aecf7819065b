"""`geoslave models list | show`."""

from __future__ import annotations

import click

from geoslave.cli.common import answer, example, json_option


@click.group("models", epilog=example("geoslave models list", "geoslave models show kiln-s2"))
def command() -> None:
    """List the models and show their cards.

    Models are looked for in the folder GEOSLAVE_MODELS names, then among those that ship with geoslave.
    """


@command.command("list", epilog=example("geoslave models list"))
@json_option
def list_models(as_json: bool) -> None:
    """List the models that can be used by name."""
    from rich.console import Console
    from rich.table import Table

    from geoslave.model.package import list_packages, open_package

    packages = [open_package(folder, verify=False) for folder in list_packages()]
    if as_json:
        answer(True, {"models": [_facts(package.spec) for package in packages]}, [])
        return
    table = Table(box=None, pad_edge=False)
    for title in ("name", "version", "finds", "bands", "GSD", "calibrated", "licence"):
        table.add_column(title)
    for package in packages:
        spec = package.spec
        calibrated = "yes" if spec.confidence.calibrated else "no"
        bands = " ".join(spec.bands)
        table.add_row(spec.name, spec.version, spec.title, bands, f"{spec.gsd_m:g} m", calibrated, spec.licence)
    Console().print(table)


@command.command("show", epilog=example("geoslave models show kiln-s2"))
@click.argument("model")
@json_option
def show_model(model: str, as_json: bool) -> None:
    """Show the card of MODEL (a name or a folder) and check its files."""
    from rich.console import Console
    from rich.markdown import Markdown

    from geoslave.model.package import open_package

    package = open_package(model)
    if as_json:
        answer(True, {**package.spec.model_dump(mode="json"), "model_id": package.model_id}, [])
        return
    card = package.folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else "This model has no card (README.md)."
    Console().print(Markdown(text))


def _facts(spec: object) -> dict[str, object]:
    from geoslave.model.package import ModelSpec

    assert isinstance(spec, ModelSpec)
    return {
        "name": spec.name,
        "version": spec.version,
        "title": spec.title,
        "target": spec.target,
        "bands": list(spec.bands),
        "gsd_m": spec.gsd_m,
        "calibrated": spec.confidence.calibrated,
        "licence": spec.licence,
    }
