"""Models from elsewhere: checked before they are kept."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from geoslave.errors import ModelError
from geoslave.model.library import add_package, verify_package
from geoslave.model.mlm import SHA256_MULTIHASH, sha256
from geoslave.model.package import open_package
from tests.factories import write_bright_model
from tests.model.spoiling import age, lose, tamper


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("GEOSLAVE_MODELS", str(folder))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_bright_model(tmp_path / "elsewhere" / "anything")


def pack(model: Path, archive: Path, prefix: str = "", **extra: bytes) -> Path:
    with zipfile.ZipFile(archive, "w") as packed:
        for path in model.iterdir():
            packed.write(path, prefix + path.name)
        for name, content in extra.items():
            packed.writestr(name.replace("__", "/").replace("_DOT_", "."), content)
    return archive


def nothing_kept(home: Path) -> bool:
    return not home.exists() or not list(home.iterdir())


@pytest.mark.parametrize("form", ["folder", "zip", "zip with a folder"])
def test_a_model_taken_in_can_be_used_by_its_name(form: str, model: Path, home: Path, tmp_path: Path) -> None:
    (model / "reliability.png").write_bytes(b"picture")
    source = model if form == "folder" else pack(model, tmp_path / "m.zip", "bright-1.0/" if "with" in form else "")
    added = add_package(source)
    assert added.folder == home / "bright"
    assert open_package("bright").checksum == sha256(model / "model.onnx")
    assert {path.name for path in home.iterdir()} == {"bright"}
    assert {path.name for path in added.folder.iterdir()} == {path.name for path in model.iterdir()}
    with pytest.raises(ModelError, match="exists"):
        add_package(source)
    assert add_package(source, overwrite=True).folder == home / "bright"


def poison(model: Path) -> None:
    (model / "extra.pkl").write_bytes(pickle.dumps({"a": 1}))


def garble(model: Path) -> None:
    """Not an ONNX graph at all, but with the right hash."""
    (model / "model.onnx").write_bytes(b"not a graph")
    item = json.loads((model / "model.json").read_text())
    item["assets"]["onnx"]["file:checksum"] = SHA256_MULTIHASH + sha256(model / "model.onnx")
    (model / "model.json").write_text(json.dumps(item))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (tamper, "hash differs"),
        (lose, "is missing"),
        (age, r"made by geoslave 7\.1, newer than this .*update"),
        (poison, r"extra\.pkl"),
        (garble, "cannot be loaded"),
        (lambda model: (model / "model.json").unlink(), "no model package"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_kept(
    damage: Callable[[Path], None], words: str, packed: bool, model: Path, home: Path, tmp_path: Path
) -> None:
    damage(model)
    with pytest.raises(ModelError, match=words) as caught:
        add_package(pack(model, tmp_path / "m.zip") if packed else model)
    assert "\n" not in str(caught.value) and ".geoslave-" not in str(caught.value)
    assert nothing_kept(home)


@pytest.mark.parametrize("name", ["..__..__evil_DOT_png", "__tmp__evil_DOT_png", "C:evil_DOT_png", "a__b_DOT_png"])
def test_an_archive_that_points_out_of_itself_is_refused(name: str, model: Path, home: Path, tmp_path: Path) -> None:
    archive = pack(model, tmp_path / "m.zip", **{name: b"x"})
    with pytest.raises(ModelError, match=r"way out|several folders"):
        add_package(archive)
    assert nothing_kept(home) and not list(tmp_path.rglob("evil*"))


def test_what_is_no_package_is_named(home: Path, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no archive")
    broken = tmp_path / "broken.zip"
    pack(write_bright_model(tmp_path / "b"), broken)
    content = bytearray(broken.read_bytes())
    content[60:90] = bytes(30)
    broken.write_bytes(content)
    for source, words in ((tmp_path / "text.zip", "neither"), (tmp_path / "absent", "not there"), (broken, "b")):
        with pytest.raises(ModelError) as caught:
            add_package(source)
        assert str(source) in str(caught.value) and words in str(caught.value)
    assert nothing_kept(home)


@pytest.mark.parametrize("name", ["kiln-s2", "mine-s2"])
def test_what_ships_is_in_order_and_its_confidence_calibrated(name: str) -> None:
    package = open_package(name)
    assert [check.name for check in verify_package(package) if check.passed is False] == []
    assert package.spec.confidence.calibrated


def test_the_model_that_falls_short_says_so() -> None:
    package = open_package("mine-s2")
    assert "experimental" in package.spec.title and "## Experimental" in (package.folder / "README.md").read_text()


def test_a_network_whose_scores_are_not_numbers_fails(model: Path) -> None:
    graph = onnx.load(str(model / "model.onnx"))
    weights = next(w for w in graph.graph.initializer if w.name == "bias")
    weights.CopyFrom(onnx.numpy_helper.from_array(np.array([np.nan], np.float32), "bias"))
    onnx.save(graph, str(model / "model.onnx"))
    item = json.loads((model / "model.json").read_text())
    item["assets"]["onnx"]["file:checksum"] = SHA256_MULTIHASH + sha256(model / "model.onnx")
    del item["properties"]["bands"]
    (model / "model.json").write_text(json.dumps(item))
    checks = {check.name: check for check in verify_package(open_package(model))}
    assert checks["ONNX"].passed is False
    assert checks["MLM v1.5.2"].passed is False and "properties.bands" in checks["MLM v1.5.2"].detail
    assert checks["torch"].passed is None


def test_an_embedder_by_name_is_no_model_and_says_what_it_is_for() -> None:
    with pytest.raises(ModelError, match="is an embedder: it sees chips for  geoslave search index"):
        open_package("imagenet-lite0")
