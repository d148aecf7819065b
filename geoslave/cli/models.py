"""`geoslave models list | show | add | verify | gate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import answer, example, json_option, note, overwrite_option, progress
from geoslave.cli.models_gate import gate_model

if TYPE_CHECKING:
    from geoslave.model.library import Check
    from geoslave.model.package import ModelPackage


@click.group("models", epilog=example("geoslave models list", "geoslave models show kiln-s2"))
def command() -> None:
    """List the models, show their cards, take in others', check them, and give one a gate.

    Models are looked for in the folder GEOSLAVE_MODELS names (else ~/.local/share/geoslave/models), then among
    those that ship with geoslave.
    """


command.add_command(gate_model)


@command.command("list", epilog=example("geoslave models list"))
@json_option
def list_models(as_json: bool) -> None:
    """List the models that can be used by name."""
    from rich.console import Console
    from rich.table import Table

    from geoslave.errors import ModelError
    from geoslave.model.package import list_packages, open_package

    packages = []
    for folder in list_packages():
        try:
            packages.append(open_package(folder, verify=False))
        except ModelError as error:
            note(str(error))
    if as_json:
        answer(True, {"models": [_facts(package) for package in packages]}, [])
        return
    table = Table(box=None, pad_edge=False)
    for title in ("name", "version", "target", "GSD", "calibrated", "size", "licence"):
        table.add_column(title, no_wrap=True)
    for package in packages:
        facts = _facts(package)
        calibrated, size = "yes" if facts["calibrated"] else "no", f"{facts['size_bytes'] / 1e6:.1f} MB"
        gsd = f"{facts['gsd_m']:g} m"
        table.add_row(facts["name"], facts["version"], facts["target"], gsd, calibrated, size, facts["licence"])
    Console().print(table)


@command.command("show", epilog=example("geoslave models show kiln-s2", "geoslave models show kiln-s2 --json"))
@click.argument("model")
@json_option
def show_model(model: str, as_json: bool) -> None:
    """Show the card of MODEL (a name or a folder) with its figures; its hashes are checked."""
    from rich.console import Console
    from rich.markdown import Markdown

    from geoslave.model.package import open_package

    package = open_package(model)
    if as_json:
        answer(True, {**package.spec.model_dump(mode="json"), "model_id": package.model_id}, [])
        return
    card = package.folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else "This model has no card (README.md)."
    console = Console()
    console.print(Markdown(text))
    if package.spec.metrics:
        console.print(_figures(package.spec.metrics))
    console.print(f"\n{package.model_id} in {package.folder}", soft_wrap=True, highlight=False)


@command.command(
    "add", epilog=example("geoslave models add mine-s2.zip", "geoslave models add https://example.org/kiln-s2.zip")
)
@click.argument("source")
@overwrite_option
@json_option
def add_model(source: str, overwrite: bool, as_json: bool) -> None:
    """Take in SOURCE, a package as a folder or a .zip, so that it can be used by its name.

    SOURCE may be an https:// address: of a .zip, or of a folder with model.json and the files it names. Hashes,
    description and network are checked before anything is kept. Only the files of a package are taken, and
    no pickle. Models come from people: add those whose makers you trust.
    """
    from geoslave.model.library import add_package
    from geoslave.model.package import model_folders

    with progress(as_json) as step:
        package = add_package(source, overwrite=overwrite, step=step)
    name = package.spec.name
    if any((folder / name / "model.json").is_file() for folder in model_folders()[1:]):
        note(f"'{name}' now means this model, and no longer the one that ships with geoslave")
    answer(
        as_json,
        {**_facts(package), "model_id": package.model_id, "folder": str(package.folder)},
        [f"{package.model_id} is in {package.folder}: use it with  --model {name}"],
    )


@command.command("verify", epilog=example("geoslave models verify kiln-s2"))
@click.argument("model")
@json_option
def verify_model(model: str, as_json: bool) -> int:
    """Check MODEL through: hashes, description, whether its network runs and torch agrees with ONNX.

    Status 1 if a check fails.
    """
    from geoslave.model.library import verify_package
    from geoslave.model.package import open_package

    package = open_package(model)
    checks = verify_package(package)
    failed = [check.name for check in checks if check.passed is False]
    facts = {
        "model_id": package.model_id,
        "ok": not failed,
        "checks": [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in checks],
    }
    end = f"{package.model_id} is in order" if not failed else f"{package.model_id}: {', '.join(failed)} failed"
    answer(as_json, facts, [*map(_line, checks), end])
    return 1 if failed else 0


def _line(check: Check) -> str:
    word = {True: click.style("ok", fg="green"), False: click.style("FAILED", fg="red"), None: "not checked"}
    return f"  {check.name:<11} {word[check.passed]}: {check.detail}"


def _figures(metrics: dict[str, Any]) -> Any:
    """The figures of a package as a table; three numbers are a value with its interval."""
    from rich.table import Table

    table = Table("figure", "value", box=None, pad_edge=False, title="Figures", title_justify="left")
    for name, value in metrics.items():
        if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int | float) for v in value):
            text = f"{value[0]:g} [{value[1]:g}, {value[2]:g}]"
        else:
            text = f"{value:g}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), text)
    return table


def _facts(package: ModelPackage) -> dict[str, Any]:
    from geoslave.model.library import size_bytes

    spec = package.spec
    return {
        "name": spec.name,
        "version": spec.version,
        "title": spec.title,
        "target": spec.target,
        "bands": list(spec.bands),
        "gsd_m": spec.gsd_m,
        "calibrated": spec.confidence.calibrated,
        "confidence": spec.confidence.meaning,
        "licence": spec.licence,
        "size_bytes": size_bytes(package.folder),
    }
