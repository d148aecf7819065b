"""What scenes are called, and how their paths are printed, without a library that takes time to load."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from geoslave.errors import GeoslaveError

DRIVER_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_]+:")
"""What GDAL's names of subdatasets begin with; one letter alone is a drive of Windows."""


def shown_path(path: str) -> str:
    """A path as it may be printed: an address without user, query and fragment, which may be secrets."""
    if "://" not in path:
        return path
    start = path.index("://") + 3
    return without_secrets(path[:start] + re.split(r"[?#]", path[start:], maxsplit=1)[0])


def without_secrets(text: str) -> str:
    """Text whose addresses have lost their user, query and fragment."""
    return re.sub(r"://(?:[^\s/@'\"]*@)?([^\s?#'\"]*)(?:[?#][^\s'\"]*)?", r"://\1", text)


def scene_name(path: str) -> str:
    """What a scene is called after its path: the file's name without ending; of a subdataset, its parts."""
    path = shown_path(path)
    prefix = DRIVER_PREFIX.match(path)
    if prefix is None or "://" in path or Path(path).exists():
        return Path(path.rstrip("/")).stem
    parts = (Path(part.strip('"').rstrip("/")).stem for part in path[prefix.end() :].split(":"))
    return "_".join(part for part in parts if part)


def scene_ids(paths: Sequence[str]) -> list[str]:
    """File names without ending; where two are the same, with the name of their folder, else a number.

    Raises:
        GeoslaveError: if one is given twice.
    """
    resolved = [str(Path(path).resolve()) if "://" not in path else path for path in paths]
    if len(set(resolved)) < len(resolved):
        twice = next(path for path, full in zip(paths, resolved, strict=True) if resolved.count(full) > 1)
        raise GeoslaveError(f"{twice} is given twice: name each scene once")
    stems = [scene_name(path) for path in paths]
    names = [
        stem if stems.count(stem) == 1 else f"{Path(path.split('?')[0]).parent.name}_{stem}"
        for stem, path in zip(stems, paths, strict=True)
    ]
    return [name if names.count(name) == 1 else f"{name}_{names[: k + 1].count(name)}" for k, name in enumerate(names)]
