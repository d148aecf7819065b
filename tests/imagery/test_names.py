"""Names of scenes and of what may be printed of their paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from geoslave.errors import GeoslaveError
from geoslave.imagery.names import scene_ids, scene_name, shown_path


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("https://user:secret@host.example/a/b.tif?token=1#x", "https://host.example/a/b.tif"),
        ("s3://bucket/a@b.tif?sig=1", "s3://bucket/a@b.tif"),
        ("folder/what?.tif", "folder/what?.tif"),
    ],
)
def test_secrets_of_an_address_are_not_printed(path: str, shown: str) -> None:
    assert shown_path(path) == shown


def test_a_scene_is_called_after_its_file() -> None:
    assert scene_name("a/T45_20200105.tif") == "T45_20200105"
    assert scene_name("https://host.example/a/T45.tif?token=1") == "T45"
    assert scene_name('NETCDF:"a/b.nc":red') == "b_red"


def test_scenes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [str(tmp_path / folder / "scene.tif") for folder in ("one", "two")]
    assert scene_ids(paths) == ["one_scene", "two_scene"]
    assert scene_ids(["https://h.example/a/x/s.tif", "https://h.example/b/x/s.tif"]) == ["x_s_1", "x_s_2"]
    with pytest.raises(GeoslaveError, match="given twice"):
        scene_ids([paths[0], str(tmp_path / "one" / ".." / "one" / "scene.tif")])
