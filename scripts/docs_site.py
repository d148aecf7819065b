"""What the documentation site is made of besides docs/*.md: pages from the README, the commands, the settings.

mkdocs calls `on_config` and `on_files` (mkdocs.yml names this file as a hook). Nothing is written into
the tree, and nothing is fetched. `undocumented` lists what has no description yet; a test wants it empty.
"""

from __future__ import annotations

import json
import posixpath
import re
import types
import typing
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parent.parent
README = "index.md"
GUIDES = ("region", "qgis", "review", "search", "measure", "targets", "catalogue", "release", "notebooks")
"""Pages of docs/ that say how to do something, in this order, as far as they are there; unknown ones follow."""
METHODS = ("methods", "coverage", "scale")
FIXED = {"tutorial", "responsible-use", *METHODS}
CONFIGS = {
    "region": ("geoslave.region.config", "RegionConfig", "region.yaml", "What a region job is asked to do."),
    "training": ("geoslave.model.recipe", "TrainConfig", "The recipe of a training", "`geoslave train CONFIG`."),
    "targets": ("geoslave.targets", "Target", "Targets", "Kinds of sites: what to look for, with its sizes."),
    "rules": ("geoslave.detections.context", "RuleBook", "Siting rules", "`geoslave detections enrich --rules`."),
}
"""Page -> module, model, title, what it is for."""
WRITTEN_BY_COMMANDS = {"Calibration"}
"""Parts of settings that nobody writes by hand."""
SOURCE = ("LICENSE", "CHANGELOG.md", "CONTRIBUTING.md")


# ---------------------------------------------------------------- hooks


def on_config(config: Any) -> Any:
    """The navigation, by the pages that are there."""
    config["nav"] = navigation(Path(config["docs_dir"]))
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages and the files that they link to."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    for path, source in linked_files().items():
        files.append(File.generated(config, path, abs_src_path=str(source)))
    return files


def navigation(docs: Path) -> list[Any]:
    """Titles and pages, as mkdocs wants them."""
    there = [path.relative_to(docs).as_posix().removesuffix(".md") for path in sorted(docs.rglob("*.md"))]
    guides = [name for name in GUIDES if name in there] + sorted({*there} - {*GUIDES, *FIXED})
    commands = sorted(path for path in pages() if path.startswith("commands/") and path != "commands/index.md")
    return [
        {"Home": README},
        {"Tutorial": ["tutorial.md", *(f"notebooks/{path.stem}.md" for path in notebooks())]},
        {"How to": [f"{name}.md" for name in guides]},
        {"Commands": ["commands/index.md", *commands]},
        {"Settings": [f"settings/{name}.md" for name in CONFIGS] + ["settings/detections.md"]},
        {"Python": ["python/api.md", "python/rooms.md"]},
        {"Methods": [f"{name}.md" for name in METHODS if name in there]},
        {"Responsible use": "responsible-use.md"},
        {"Models": [f"models/{folder.name}.md" for folder in models()]},
        {"Project": ["contributing.md", "changelog.md"]},
    ]


def pages() -> dict[str, str]:
    """Every generated page: its path on the site, and its Markdown."""
    made = {
        README: _moved((ROOT / "README.md").read_text("utf-8"), "README.md", README),
        "contributing.md": _moved((ROOT / "CONTRIBUTING.md").read_text("utf-8"), "CONTRIBUTING.md", "contributing.md"),
        "changelog.md": _moved((ROOT / "CHANGELOG.md").read_text("utf-8"), "CHANGELOG.md", "changelog.md"),
        "commands/index.md": _command_list(),
        "settings/detections.md": _columns_page(),
        "python/api.md": "# In a notebook\n\n"
        + "\n\n".join(f"::: geoslave.api{part}" for part in ("", ".scenes", ".findings", ".evaluating", ".counting"))
        + "\n",
        "python/rooms.md": _rooms_page(),
    }
    for path in notebooks():
        made[f"notebooks/{path.stem}.md"] = _notebook_page(path)
    for folder in models():
        source = f"data/models/{folder.name}/README.md"
        made[f"models/{folder.name}.md"] = _moved(
            (ROOT / source).read_text("utf-8"), source, f"models/{folder.name}.md"
        )
    for name, command in top_commands():
        made[f"commands/{name}.md"] = _command_page(command, ("geoslave", name))
    for name, (module, model, title, purpose) in CONFIGS.items():
        made[f"settings/{name}.md"] = _settings_page(_load(module, model), title, purpose, name)
    return made


def linked_files() -> dict[str, Path]:
    """Files that pages show or offer: pictures, licence, configurations, notebooks."""
    found = {path: ROOT / path for path in ("LICENSE",)}
    for pattern in ("data/pictures/*.png", "data/models/*/*.png", "configs/**/*.yaml", "notebooks/*.ipynb"):
        found |= {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.glob(pattern))}
    return found


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def models() -> list[Path]:
    """Folders of the models and the embedder that ship."""
    return sorted(path.parent for path in (ROOT / "data/models").glob("*/README.md"))


def undocumented() -> list[str]:
    """Commands, options and settings that nothing is said of."""
    missing = []
    for path, command in all_commands():
        name = " ".join(path)
        if not command.help:
            missing.append(f"{name}: no help")
        if not command.epilog:
            missing.append(f"{name}: no example")
        for option in command.params:
            if isinstance(option, click.Option) and not option.help:
                missing.append(f"{name} {option.opts[0]}: no help")
    for module, model, _, _ in CONFIGS.values():
        for found in nested(_load(module, model)):
            missing += [
                f"{found.__name__}.{name}: no description" for name in found.model_fields if not _said(found, name)
            ]
    return missing


# ---------------------------------------------------------------- Markdown that moves


_LINK = re.compile(r'(\]\(|src=")([^)"\s#]+)(#[^)"]*)?([)"])')


def _moved(text: str, source: str, page: str) -> str:
    """Markdown of the repository as a page of the site: its relative links lead where they led."""

    def led(match: re.Match[str]) -> str:
        opening, link, anchor, closing = match[1], match[2], match[3] or "", match[4]
        if "://" in link or link.startswith(("mailto:", "#")):
            return match[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        here = posixpath.dirname(page)
        return f"{opening}{posixpath.relpath(_on_site(place), here or '.')}{anchor}{closing}"

    return _LINK.sub(led, text)


def _on_site(place: str) -> str:
    """Where a path of the repository is on the site."""
    if place == "README.md":
        return README
    if place in SOURCE and place.endswith(".md"):
        return place.lower()
    if place.startswith("docs/"):
        return place.removeprefix("docs/")
    model = re.fullmatch(r"data/models/([^/]+)(/README\.md)?", place)
    if model:
        return f"models/{model[1]}.md"
    if place == "notebooks":
        return f"notebooks/{notebooks()[0].stem}.md"
    return place


def _notebook_page(path: Path) -> str:
    """A notebook to be read: text and code; it is run by the tests, and lies in git without outputs."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    title, rest = parts[0].split("\n", 1)
    offer = f"[Download the notebook]({path.name}). Its tables and maps appear when you run it."
    text = "\n\n".join([title, offer, rest, *parts[1:]]) + "\n"
    return re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", text).replace(f"({path.stem}.md). Its", f"({path.name}). Its")


# ---------------------------------------------------------------- commands


def top_commands() -> list[tuple[str, click.Command]]:
    from geoslave.cli.main import COMMANDS, cli

    context = click.Context(cli, info_name="geoslave")
    return [(name, command) for name in COMMANDS if (command := cli.get_command(context, name))]


def all_commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and group with the words that call it."""
    for name, command in top_commands():
        yield from _below(command, ("geoslave", name))


def _below(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = _context(command, path)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _below(inner, (*path, name))


def _context(command: click.Command, path: tuple[str, ...]) -> click.Context:
    return click.Context(command, info_name=" ".join(path))


def _command_list() -> str:
    rows = []
    for name, command in top_commands():
        rows.append(f"| [`geoslave {name}`]({name}.md) | {_cell(_first(command.help))} |")
    return (
        "# Commands\n\nMade from `--help`, which says the same. Every command ends with status 0 (done), 1 (failed: "
        "one line says why and what to do) or 2 (wrong usage).\n\n| command | what it does |\n|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _command_page(command: click.Command, path: tuple[str, ...]) -> str:
    return "\n\n".join(_command_section(path, one) for path, one in _below(command, path)) + "\n"


def _command_section(path: tuple[str, ...], command: click.Command) -> str:
    context = _context(command, path)
    level = "#" * (len(path) - 1)
    parts = [f"{level} geoslave {' '.join(path[1:])}", _paragraphs(command.help or "")]
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts.append(f"```console\n$ {' '.join(usage.split())}\n```")
    if isinstance(command, click.Group):
        inner = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
        rows = [f"| `{name}` | {_cell(_first(one.help))} |" for name, one in inner if one is not None]
        parts.append("| command | what it does |\n|---|---|\n" + "\n".join(rows))
    records = [option.get_help_record(context) for option in command.params if isinstance(option, click.Option)]
    rows = [f"| `{_bar(names)}` | {_cell(told)} |" for names, told in filter(None, records)]
    if rows:
        parts.append("| option | meaning |\n|---|---|\n" + "\n".join(rows))
    if command.epilog:
        parts.append("```sh\n" + cleandoc(command.epilog.replace("\b\nExample:\n", "")) + "\n```")
    return "\n\n".join(parts)


def _first(text: str | None) -> str:
    return cleandoc(text or "").split("\n\n")[0]


def _paragraphs(text: str) -> str:
    """Click's help as Markdown; \\b keeps a paragraph as it stands."""
    parts = []
    for part in cleandoc(text).split("\n\n"):
        if part.startswith("\b"):
            parts.append("```text\n" + part.removeprefix("\b").strip("\n") + "\n```")
        else:
            parts.append(_plain(" ".join(part.split())))
    return "\n\n".join(parts)


# ---------------------------------------------------------------- settings


def nested(model: type[BaseModel], seen: set[type[BaseModel]] | None = None) -> Iterator[type[BaseModel]]:
    """A model and those its settings are made of, each once."""
    seen = set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    if model.__name__ in WRITTEN_BY_COMMANDS:
        return
    yield model
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            yield from nested(inner, seen)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument)


def _settings_page(model: type[BaseModel], title: str, purpose: str, name: str) -> str:
    parts = [f"# {title}", purpose]
    for found in nested(model):
        if found is not model:
            parts += [f"## {found.__name__}", _plain(_first(found.__doc__))]
        rows = [_setting(found, field) for field in found.model_fields]
        parts.append("| setting | meaning |\n|---|---|\n" + "\n".join(rows))
    if name == "targets":
        parts.append(_presets())
    if name == "training":
        recipes = [path.name for path in sorted((ROOT / "configs").glob("*.yaml"))]
        parts.insert(2, "Recipes that ship: " + ", ".join(f"[{one}](../configs/{one})" for one in recipes) + ".")
    if name == "region":
        parts.insert(
            2, "Editors check the file by its [JSON schema](../region.schema.json). See [Region jobs](../region.md)."
        )
    return "\n\n".join(parts) + "\n"


def _setting(model: type[BaseModel], name: str) -> str:
    """A row: the setting with its kind and default below, and its meaning. Two columns fit on a phone."""
    field = model.model_fields[name]
    parts = [one for one in _models_in(field.annotation) if one.__name__ not in WRITTEN_BY_COMMANDS]
    kind = ", ".join(f"[{one.__name__}](#{one.__name__.lower()})" for one in parts) or _cell(_kind(field.annotation))
    if "list" in _kind(field.annotation) and parts:
        kind = f"list of {kind}"
    limits = ", ".join(filter(None, (_limit(rule) for rule in field.metadata)))
    told = [f"{kind} {limits}".strip()]
    if field.is_required():
        told.append("**must be given**")
    elif not parts:
        told.append(f"default `{_bar(_default(field.get_default(call_default_factory=True)))}`")
    return f"| `{name}`<br><small>{'<br>'.join(told)}</small> | {_cell(_said(model, name))} |"


def _said(model: type[BaseModel], name: str) -> str:
    """What is said of a setting: its description, else the text under it."""
    told = model.model_fields[name].description
    if told:
        return told
    for owner in model.__mro__:
        if name in getattr(owner, "__annotations__", {}):
            return _docstrings(owner.__module__).get((owner.__name__, name), "")
    return ""


_READ: dict[str, dict[tuple[str, str], str]] = {}


def _docstrings(module: str) -> dict[tuple[str, str], str]:
    """(class, attribute) -> the text that stands under it."""
    if module not in _READ:
        import ast
        import importlib

        tree = ast.parse(Path(str(importlib.import_module(module).__file__)).read_text("utf-8"))
        found: dict[tuple[str, str], str] = {}
        for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            for one, after in zip(owner.body, owner.body[1:], strict=False):
                named = isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
                text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if named and text and isinstance(after.value.value, str):
                    found[owner.name, one.target.id] = cleandoc(after.value.value)
        _READ[module] = found
    return _READ[module]


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Annotated:
        return _kind(inside[0])
    if origin is typing.Literal:
        return " / ".join(map(str, inside))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(one) for one in inside)
    if origin is tuple:
        if inside[-1] is Ellipsis:
            return f"list of {_kind(inside[0])}"
        return f"[{', '.join(_kind(one) for one in inside)}]"
    if origin is list:
        return f"list of {_kind(inside[0])}"
    if origin is dict:
        return f"{{{_kind(inside[0])}: {_kind(inside[1])}}}"
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true / false", "Any": "anything"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, name)


def _limit(rule: Any) -> str:
    for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
        if getattr(rule, name, None) is not None:
            return f"{sign} {getattr(rule, name):g}".replace("<", "&lt;").replace(">", "&gt;")
    return ""


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    return "null" if value is None else json.dumps(value, default=str, ensure_ascii=False)


def _presets() -> str:
    from geoslave.targets import TARGETS

    rows = []
    for target in TARGETS.values():
        low, high = target.area_m2
        sources = "; ".join(f"{name}: {_plain(text)}" for name, text in target.sources.items()) or "none: guesses"
        rows.append(
            f"| `{target.name}` | {_cell(target.title)} | {low:,.0f} to {high:,.0f} | "
            f"{target.length_m[0]:g} to {target.length_m[1]:g} | {sources.replace('|', '/')} |"
        )
    head = "| preset | kind of site | area, m² | length, m | sources |\n|---|---|---|---|---|\n"
    return "## Presets\n\nA figure without a source is a guess to be replaced by measurements of a few places.\n\n" + (
        head + "\n".join(rows)
    )


def _columns_page() -> str:
    from geoslave.detections.schema import COLUMNS, STATEMENT

    rows = [f"| `{name}` | {column.kind} | {_cell(column.meaning)} |" for name, column in COLUMNS.items()]
    return (
        f"# The detections table\n\n> {STATEMENT}\n\nOne row is one site as one scene shows it; the geometry is a "
        "polygon in the scene's CRS. All formats hold the same columns.\n\n| column | kind | meaning |\n|---|---|---|\n"
        + "\n".join(rows)
        + "\n\nA calibrated model adds `confidence_low` and `confidence_high`: how far its verdicts leave the "
        "confidence open (95 %).\n"
    )


def _rooms_page() -> str:
    """The functions below the commands."""
    modules = (
        "geoslave.detect", "geoslave.evaluation", "geoslave.detections.export", "geoslave.detections.schema",
        "geoslave.estimate.tables", "geoslave.estimate.sample", "geoslave.estimate.count",
        "geoslave.estimate.intervals", "geoslave.model.package", "geoslave.imagery.geotiff", "geoslave.grid",
        "geoslave.errors",
    )  # fmt: skip
    told = "\n\n".join(f"::: {name}" for name in modules)
    head = "# Below the commands\n\nThe functions that commands and notebooks call. Their names may still change."
    return f"{head}\n\n{told}\n"


# ---------------------------------------------------------------- text


def _load(module: str, name: str) -> Any:
    import importlib

    return getattr(importlib.import_module(module), name)


def _plain(text: str) -> str:
    """Plain text that Markdown leaves alone; `code` stays code."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_\[\]<>])", r"\\\1", part) for part in parts)


def _cell(text: str) -> str:
    return _bar(_plain(" ".join(text.split())))


def _bar(text: str) -> str:
    return text.replace("|", "\\|")
