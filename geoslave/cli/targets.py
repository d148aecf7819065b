"""`geoslave targets`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, answer, example, json_option, note

if TYPE_CHECKING:
    from geoslave.targets import Target


@click.group(
    "targets",
    epilog=example(
        "geoslave targets list",
        "geoslave targets show fish_camp --yaml > my_camps.yaml",
        "geoslave targets check my_camps.yaml",
    ),
)
def command() -> None:
    """Kinds of sites to look for: list them, show one, check your own.

    A target of your own is one YAML file; give its path wherever a command takes --target.
    """


@command.command("list", epilog=example("geoslave targets list --json"))
@json_option
def list_command(as_json: bool) -> None:
    """List the presets: size, imagery needed, and whether the sizes come from a source."""
    from geoslave.targets import TARGETS

    facts = [_facts(target) for target in TARGETS.values()]
    widest = max(len(target.name) for target in TARGETS.values())
    lines = [
        f"{t.name:<{widest}}  {t.title}: {_size(t)}, imagery of {t.gsd_m:g} m or finer"
        + (", two dates" if t.dates > 1 else "")
        + ("" if t.sourced else "  (sizes unsourced)")
        for t in TARGETS.values()
    ]
    answer(as_json, {"targets": facts}, lines)


@command.command(
    "show", epilog=example("geoslave targets show brick_kiln", "geoslave targets show fish_camp --yaml > camps.yaml")
)
@click.argument("target")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print it as the YAML file to begin a target of your own with.")
@json_option
def show(target: str, as_yaml: bool, as_json: bool) -> None:
    """Show a TARGET (a preset's name or your own .yaml file): each figure with where it comes from."""
    from geoslave.targets import get_target, is_target_file, preset_text, target_yaml

    held = get_target(target)
    if as_yaml and not as_json:
        click.echo(target_yaml(held) if is_target_file(target) else preset_text(held.name), nl=False)
        return
    answer(as_json, _facts(held), _lines(held))


@command.command("check", epilog=example("geoslave targets check my_camps.yaml"))
@click.argument("file", type=PATH)
@json_option
def check(file: Path, as_json: bool) -> None:
    """Check your own target's FILE: what is wrong is told with its line, what is a guess is listed."""
    from geoslave.targets import TARGETS, read_target

    target = read_target(file)
    _check_training(target, file)
    notes = [f"a guess, with no entry in sources: {', '.join(target.unsourced)}"] if target.unsourced else []
    if target.name in TARGETS and TARGETS[target.name] != target:
        notes.append(f"it has the name of a preset, {target.name}: give it a name of its own to tell them apart")
    facts = {**_facts(target), "file": str(file), "notes": notes}
    answer(as_json, facts, [f"{file}: a target that can be used: {target.title} ({target.name})", *notes])


def _check_training(target: Target, file: Path) -> None:
    """The settings of a training, where the extra 'train' is there to know them."""
    if not target.training:
        return
    try:
        from geoslave.model.recipe import TrainConfig
    except ImportError:
        note("the settings under 'training' were not checked: that needs the extra 'train'")
        return
    from pydantic import ValidationError

    from geoslave.errors import GeoslaveError
    from geoslave.settings import suggestion

    try:
        TrainConfig.model_validate({"name": "check", "target": str(file), **target.training})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            told = f"'{where}' is no setting{suggestion(where, list(TrainConfig.model_fields))}"
        else:
            told = f"{where}: {first['msg'].removeprefix('Value error, ')}"
        raise GeoslaveError(f"{file}: training: {told}") from None


def _size(target: Target) -> str:
    length, width = target.typical_m
    return f"about {length:g} x {width:g} m"


def _facts(target: Target) -> dict[str, Any]:
    return {
        **target.model_dump(mode="json"),
        "search_chip_m": target.search_chip_m,
        "sourced": target.sourced,
        "unsourced": list(target.unsourced),
    }


def _lines(target: Target) -> list[str]:
    def told(name: str) -> str:
        return target.sources.get(name, "no source: a guess")

    def between(values: tuple[float, float]) -> str:
        return f"{values[0]:,g} to {values[1]:,g}"

    length, width = target.typical_m
    figures = [
        ("area", f"{between(target.area_m2)} m²", "area_m2"),
        ("length", f"{between(target.length_m)} m", "length_m"),
        ("length / width", between(target.aspect), "aspect"),
        ("a typical one", f"{length:g} x {width:g} m", "typical_m"),
        ("never one beyond", f"{target.merge_distance_m:g} m", "merge_distance_m"),
        ("imagery", f"{target.gsd_m:g} m or finer", "gsd_m"),
    ]
    lines = [f"{target.name}: {target.title}"]
    if target.shows:
        lines.append(f"  {'shows':<18}{target.shows}")
    lines += [f"  {name:<18}{value:<26}[{told(key)}]" for name, value, key in figures]
    lines.append(f"  {'chip in a search':<18}{target.search_chip_m:g} m")
    lines.append(f"  {'dates':<18}{target.dates}")
    if target.season:
        lines.append(f"  {'season':<18}{target.season}  [{target.sources.get('season', 'no source')}]")
    if target.lookalikes:
        named = target.sources.get("lookalikes", "no source")
        lines.append(f"  {'look-alikes':<18}{', '.join(target.lookalikes)}  [{named}]")
    if target.training:
        lines.append(f"  {'training':<18}{', '.join(f'{k}: {v}' for k, v in target.training.items())}")
    return lines
