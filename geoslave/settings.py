"""YAML files that people write, checked: each error names the file, the line, and what may have been meant."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from geoslave.errors import GeoslaveError

Model = TypeVar("Model", bound=BaseModel)


def read_settings(path: Path, model: type[Model], remedy: str, fault: type[GeoslaveError] = GeoslaveError) -> Model:
    """Read a YAML file into a model of its settings.

    Args:
        remedy: what to do where there is no usable file, e.g. "make it with  geoslave region init".
        fault: the error to raise.

    Raises:
        GeoslaveError: of the kind `fault`, that names the line, what is wrong with it, and what may have been meant.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise fault(f"{path} cannot be read ({error}): {remedy}") from error
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        raise fault(f"{path}{where}: {getattr(error, 'problem', None) or error}: mend the YAML") from error
    except (ValueError, RecursionError) as error:  # dates and numbers that are none, nesting without end
        raise fault(f"{path}: {' '.join(str(error).split())}: mend the YAML") from error
    if not isinstance(content, dict) or not isinstance(tree, yaml.MappingNode):
        raise fault(f"{path}: holds no settings: {remedy}")
    _refuse_twice(path, tree, fault)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        known = list(model.model_fields)
        raise fault("; ".join(_told(path, tree, problem, known) for problem in error.errors())) from None


def suggestion(wrong: str, known: Sequence[str]) -> str:
    """': did you mean ...?' if something known is written alike, else a list."""
    near = difflib.get_close_matches(wrong, known, 1, 0.5)
    return f": did you mean '{near[0]}'?" if near else f": use one of {', '.join(known)}"


def _told(path: Path, tree: yaml.MappingNode, problem: Any, known: Sequence[str]) -> str:
    """One problem that pydantic found, as a line for people."""
    where = tuple(problem["loc"])
    setting = str(where[0]) if where else ""
    line = _line(tree, where)
    place = f"{path}, line {line}" if line else str(path)
    if problem["type"] == "extra_forbidden" and len(where) > 1:
        return f"{place}: '{where[-1]}' is no setting of {setting}: take it out"
    if problem["type"] == "extra_forbidden":
        return f"{place}: '{setting}' is no setting{suggestion(setting, known)}"
    if problem["type"] == "missing" and len(where) > 1 and isinstance(where[-1], str):
        return f"{place}: {setting} lacks '{where[-1]}': add it"
    if problem["type"] == "missing":
        return f"{path}: '{setting}' is missing: add a line  {setting}: ..."
    if problem["type"] == "literal_error":
        choices = problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"{place}: {setting}: '{problem['input']}' is not known{suggestion(str(problem['input']), choices)}"
    said = problem["msg"].removeprefix("Value error, ")
    if not setting:
        return f"{place}: {said}"
    return f"{place}: {setting}: {said[:1].lower() + said[1:]}" + (
        "" if said.endswith("?") else f" (it says {json.dumps(problem['input'], default=str)})"
    )


def _line(tree: yaml.Node, where: Sequence[Any]) -> int | None:
    """Line (from 1) of the deepest node on the way to a setting."""
    line = None
    for part in where:
        if isinstance(tree, yaml.MappingNode):
            found = next(((key, value) for key, value in tree.value if key.value == str(part)), None)
            if found is None:
                break
            line, tree = found[0].start_mark.line + 1, found[1]
        elif isinstance(tree, yaml.SequenceNode) and isinstance(part, int) and part < len(tree.value):
            tree = tree.value[part]
            line = tree.start_mark.line + 1
    return line


def _refuse_twice(path: Path, tree: yaml.MappingNode, fault: type[GeoslaveError]) -> None:
    """YAML would silently take the last of two."""
    seen: dict[str, int] = {}
    for key, _ in tree.value:
        line = key.start_mark.line + 1
        if str(key.value) in seen:
            raise fault(
                f"{path}, line {line}: '{key.value}' is set in line {seen[str(key.value)]} already: keep one of them"
            )
        seen[str(key.value)] = line
