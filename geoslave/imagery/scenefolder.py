"""The scenes that a folder holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geoslave.errors import SceneError

RASTERS = (".tif", ".tiff", ".vrt", ".jp2")


@dataclass(frozen=True, slots=True)
class SceneOnDisk:
    """A scene that was searched, or that shows what was."""

    path: str
    scene_id: str
    group: str
    """Of its subfolder; its own name where there is none."""


def find_scenes(folder: Path) -> tuple[SceneOnDisk, ...]:
    """The rasters of a folder, or of its subfolders, each of which is then a group; or one raster.

    Raises:
        SceneError: if there is none.
    """
    if folder.is_file() and folder.suffix.lower() in RASTERS:
        return (SceneOnDisk(str(folder), folder.stem, folder.stem),)
    if not folder.is_dir():
        raise SceneError(f"{folder} is no folder: give a scene, or the folder that holds the labelled scenes")
    if (folder / "index.parquet").is_file() and (folder / "chips").is_dir():
        folder = folder / "chips"  # what `geoslave chip` leaves
    paths = _rasters(folder)
    if paths:
        return tuple(SceneOnDisk(str(path), path.stem, path.stem) for path in paths)
    inner = [(path, sub.name) for sub in sorted(folder.iterdir()) if sub.is_dir() for path in _rasters(sub)]
    if not inner:
        raise SceneError(f"{folder} holds no raster ({', '.join(RASTERS)}): give the folder that holds the scenes")
    return tuple(SceneOnDisk(str(path), path.stem, group) for path, group in inner)


def _rasters(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in RASTERS and path.is_file())
