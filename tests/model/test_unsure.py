"""Places with which nothing is learned, told without telling where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from geoslave.errors import LabelError
from geoslave.model.outlines import read_unsure, scene_key

CONFIGS = Path(__file__).parents[2] / "configs"


def test_a_scene_is_named_by_its_content(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).write_bytes(b"pixels")
    assert scene_key(tmp_path / "a.tif") == scene_key(tmp_path / "b.tif")
    (tmp_path / "b.tif").write_bytes(b"other pixels")
    assert scene_key(tmp_path / "a.tif") != scene_key(tmp_path / "b.tif")


def test_the_list_that_ships_belongs_to_the_training_chips(data_dir: Path) -> None:
    unsure = read_unsure(CONFIGS / "kiln-s2-unsure.yaml")
    keys = {scene_key(path) for path in (data_dir / "kilns_s2" / "chips").glob("*.tif")}
    assert unsure and set(unsure) <= keys
    assert all(np.isfinite(circle).all() for circles in unsure.values() for circle in circles)


def test_the_configurations_are_settings_and_no_layers() -> None:
    for path in (path for path in CONFIGS.rglob("*") if path.is_file()):
        assert path.suffix == ".yaml"
        yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ["- 1", "key: [[1, 2]]", "key: [[a, b, c]]", "{"])
def test_a_wrong_list_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "unsure.yaml").write_text(text)
    with pytest.raises(LabelError, match="no list of unsure places"):
        read_unsure(tmp_path / "unsure.yaml")
