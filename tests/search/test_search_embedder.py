"""Chips as vectors: of a shipped model's encoder or any ONNX graph; nodata does not leak in."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from geoslave.errors import ModelError
from geoslave.imagery.raster import MemorySource, Raster
from geoslave.imagery.scaling import Scaling
from geoslave.model.encoder import Encoder
from geoslave.search.embedder import DEFAULT, LONGEST, brought_to, embed, look, open_embedder, standardised
from geoslave.search.windows import Lattice
from tests.factories import write_bright_model


def chips(n: int, side: int = 32, bands: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.5, (n, bands, side, side)).astype(np.float32)


def write_vector_model(folder: Path, bands: tuple[str, ...] = ("red", "green", "blue"), told: int = 3) -> Path:
    """A folder whose graph gives each chip the means of its bands as a vector."""
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("Mul", ["means", "one"], ["vector"]),
        ],
        "means",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", told, "h", "w"])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["n", told])],
        [numpy_helper.from_array(np.ones(told, np.float32), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    spec = {"name": "means", "bands": list(bands), "gsd_m": 10, "stride": 1}
    (folder / "embedder.json").write_text(json.dumps(spec), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def shipped() -> object:
    return open_embedder("mine-s2", threads=1)


def test_a_shipped_model_gives_about_a_kilobyte_a_chip(shipped: object) -> None:
    vectors = shipped(chips(3), np.ones((3, 32, 32), bool))
    assert vectors.shape == (3, shipped.dimensions)
    assert 100 < shipped.dimensions <= LONGEST
    assert np.isfinite(vectors).all()
    assert len(shipped.emphasis) == shipped.dimensions


def test_the_encoder_is_taken_stage_by_stage_without_the_way_up() -> None:
    package = Path(__file__).parents[2] / "data" / "models" / "mine-s2" / "model.onnx"
    stages = Encoder(package, 3, threads=1)(chips(2, 64))
    sides = [stage.shape[2] for stage in stages]
    assert sides == sorted(sides, reverse=True)
    assert len(set(sides)) == len(sides) >= 3
    assert sides[-1] == 8  # of 64 pixels, enlarged twice
    assert all(stage.shape[1] > 4 for stage in stages)


def test_the_same_chip_gets_the_same_vector_in_any_company(shipped: object) -> None:
    many = chips(5)
    alone = shipped(many[2:3], np.ones((1, 32, 32), bool))
    together = shipped(many, np.ones((5, 32, 32), bool))[2:3]
    assert np.allclose(alone, together, atol=1e-4)


def test_any_onnx_graph_serves(tmp_path: Path) -> None:
    embedder = open_embedder(write_vector_model(tmp_path / "means"), threads=1)
    pixels = chips(4)
    vectors = embedder(pixels, np.ones((4, 32, 32), bool))
    assert np.allclose(vectors[:, :3], pixels.mean(axis=(2, 3)), atol=1e-5)
    assert embedder.spec.name == "means"


def test_a_graph_without_stages_serves_too(tmp_path: Path) -> None:
    embedder = open_embedder(write_bright_model(tmp_path / "bright"), threads=1)
    assert np.isfinite(embedder(chips(2, 30), np.ones((2, 30, 30), bool))).all()


def test_colours_and_texture_alone_are_an_embedder_too() -> None:
    embedder = open_embedder("plain")
    pixels, valid = chips(3, 48), np.ones((3, 48, 48), bool)
    vectors = embedder(pixels, valid)
    assert vectors.shape == (3, embedder.dimensions) == (3, len(embedder.emphasis))
    assert 2 * embedder.dimensions < 450  # bytes a chip
    assert np.allclose(embedder(pixels[1:2], valid[1:2]), vectors[1:2], atol=1e-4)
    assert np.allclose(open_embedder("mine-s2", threads=1)(pixels, valid)[:, -embedder.dimensions :], vectors)


@pytest.fixture(scope="module")
def eye() -> object:
    return open_embedder(DEFAULT, threads=1)


def alike(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def test_what_an_index_takes_by_itself_sees_chips_of_any_size(eye: object) -> None:
    for side in (16, 48, 128):
        vectors = eye(chips(2, side), np.ones((2, side, side), bool))
        assert vectors.shape == (2, eye.dimensions) == (2, LONGEST)
        assert np.isfinite(vectors).all()
        assert alike(vectors[0], vectors[1]) < 0.999


def test_its_graph_sees_what_is_there(eye: object) -> None:
    """Stripes and a checkerboard of the same colours are told apart; stripes a shade darker are still stripes."""
    down, across = np.mgrid[:48, :48] // 4 % 2
    looks = np.stack([down, down * 0.9, down ^ across]).astype(np.float32)
    pixels = np.repeat(looks[:, None] - 0.5, 3, axis=1)
    graph = slice(0, LONGEST - open_embedder("plain").dimensions)
    stripes, darker, board = eye(pixels, np.ones((3, 48, 48), bool))[:, graph]
    assert alike(stripes, darker) > 0.9 > alike(stripes, board)


def country(rows: int, cols: int, step: int, side: int, rim: int) -> np.ndarray:
    """A picture [3, y, x] of blots and stripes, with so many chips and a rim."""
    y, x = np.mgrid[: (rows - 1) * step + side + 2 * rim, : (cols - 1) * step + side + 2 * rim]
    blots = np.sin(x / 7 + np.sin(y / 11)) * np.cos(y / 5 - x / 23) + ((x // 9 + y // 13) % 5 == 0)
    noise = np.random.default_rng(0).normal(0, 0.1, (3, *y.shape))
    return (noise + blots * np.array([0.4, 0.3, 0.5])[:, None, None]).astype(np.float32)


def test_a_place_in_other_light_is_more_like_itself_than_other_places(eye: object, data_dir: Path) -> None:
    """Real chips without a mine, again with less contrast and more haze, turned, a little moved."""
    with (data_dir / "mines_s2" / "chips.csv").open(encoding="utf-8") as file:
        told = [row["label"] == "0" and row["cloudy"] != "True" for row in csv.DictReader(file)]
    with np.load(data_dir / "mines_s2" / "chips.npz") as file:
        chips = file["x"][np.flatnonzero(told)[::40]].transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    again = np.rot90(np.roll(0.85 * chips, (2, -2), (2, 3)), 1, (2, 3)) + np.array([0.05, 0.07, 0.1])[:, None, None]
    raw = [eye(some.astype(np.float32), np.ones((len(some), 48, 48), bool))[:, :-206] for some in (chips, again)]
    centre, spread = raw[0].mean(axis=0), raw[0].std(axis=0)
    before, after = (standardised(one, centre, spread) for one in raw)
    itself = (after @ before.T).argmax(axis=1) == np.arange(len(chips))
    assert itself.mean() > 0.9  # 0.6 before it knew what light does to a place


@pytest.mark.parametrize(("step", "side"), [(32, 48), (22, 32), (10, 16), (46, 70)])
def test_a_chip_of_a_picture_is_seen_alike_wherever_the_work_is_cut(eye: object, step: int, side: int) -> None:
    """Its vector hardly tells where in the picture it lay: the chips around it were another's too."""
    large, small = Lattice(6, 6, step, side), Lattice(2, 3, step, side)
    rim = eye.rim(large)
    assert rim > step  # seen with all others at once, and not one by one
    picture = country(6, 6, step, side, rim)
    part = picture[:, 2 * step : 2 * step + small.shape[0] + 2 * rim, step : step + small.shape[1] + 2 * rim]
    whole, cut = (eye.windows(given, np.ones(given.shape[1:], bool), lattice, np.arange(lattice.rows * lattice.cols))
                  for given, lattice in ((picture, large), (part, small)))  # fmt: skip
    again = whole.reshape(6, 6, -1)[2:4, 1:4].reshape(6, -1)
    deep = LONGEST - open_embedder("plain").dimensions
    assert np.allclose(cut[:, deep:], again[:, deep:], atol=1e-3)
    likeness = np.array([[alike(one, other) for other in again[:, :deep]] for one in cut[:, :deep]])
    assert likeness.diagonal().min() > 0.95
    assert (likeness.argmax(axis=1) == np.arange(6)).all()


def test_only_the_windows_asked_for_come_back_in_their_order(eye: object) -> None:
    lattice = Lattice(3, 3, 32, 48)
    picture = country(3, 3, 32, 48, eye.rim(lattice))
    valid = np.ones(picture.shape[1:], bool)
    everything = eye.windows(picture, valid, lattice, np.arange(9))
    assert np.allclose(
        eye.windows(picture, valid, lattice, np.array([1, 7, 8]))[:, -206:], everything[[1, 7, 8], -206:]
    )


@pytest.mark.parametrize("name", [DEFAULT, "plain", "mine-s2"])
@pytest.mark.parametrize("step", [32, 30])  # as the graph's own windows stand to each other, and not
def test_nodata_in_a_picture_has_no_part_in_its_chips(name: str, step: int) -> None:
    embedder, lattice = open_embedder(name, threads=1), Lattice(2, 3, step, 48)
    picture = country(2, 3, step, 48, embedder.rim(lattice))
    valid = np.ones(picture.shape[1:], bool)
    valid[:, -embedder.rim(lattice) - 20 :] = False
    dark, bright = (np.where(valid, picture, value).astype(np.float32) for value in (-2, -1))
    plain = slice(-206, -206 + 49)  # colours; contrasts are softened over the edge of what is valid
    one, two = (embedder.windows(given, valid, lattice, np.arange(6)) for given in (dark, bright))
    assert np.isfinite(one).all()
    assert np.allclose(one[:, plain], two[:, plain], atol=1e-4)
    if name == DEFAULT:
        assert np.allclose(one[:, :-206], two[:, :-206], atol=1e-3)


def test_chips_that_stand_otherwise_are_seen_one_by_one(eye: object) -> None:
    lattice = Lattice(2, 2, 24, 32)
    rim = eye.rim(lattice)
    picture = country(2, 2, 24, 32, rim)
    seen = eye.windows(picture, np.ones(picture.shape[1:], bool), lattice, np.arange(4))
    corners = [(rim + y, rim + x) for y in (0, 24) for x in (0, 24)]
    by_themselves = eye(np.stack([picture[:, y : y + 32, x : x + 32] for y, x in corners]), np.ones((4, 32, 32), bool))
    assert np.allclose(seen[:, :-206], by_themselves[:, :-206], atol=1e-3)


def test_any_graph_sees_the_chips_of_a_picture(tmp_path: Path) -> None:
    embedder, lattice = open_embedder(write_vector_model(tmp_path / "means"), threads=1), Lattice(2, 2, 16, 24)
    rim = embedder.rim(lattice)
    picture = country(2, 2, 16, 24, rim)
    seen = embedder.windows(picture, np.ones(picture.shape[1:], bool), lattice, np.array([3]))
    assert np.allclose(seen[0, :3], picture[:, rim + 16 : rim + 40, rim + 16 : rim + 40].mean(axis=(1, 2)), atol=1e-5)


def test_an_old_processor_sees_the_same(eye: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("flags : sse2 avx2")
    monkeypatch.setattr("geoslave.model.encoder._PROCESSOR", tmp_path / "cpuinfo")
    pixels, valid = chips(2, 48), np.ones((2, 48, 48), bool)
    assert np.allclose(open_embedder(DEFAULT, threads=1)(pixels, valid), eye(pixels, valid), atol=1e-3)


def test_beyond_the_edge_of_a_scene_it_sees_nothing(eye: object) -> None:
    """Whatever stands in the nodata, and hardly another picture than the whole chip's."""
    pixels, valid = 0.3 * chips(1, 48) + np.linspace(-1, 1, 48, dtype=np.float32), np.ones((1, 48, 48), bool)
    valid[:, :, 42:] = False
    cut, bright = pixels.copy(), pixels.copy()
    cut[..., 42:], bright[..., 42:] = 0, 5
    graph = slice(0, LONGEST - open_embedder("plain").dimensions)
    whole, seen, same = (eye(*given)[:, graph] for given in ((pixels, valid | True), (cut, valid), (bright, valid)))
    assert np.allclose(seen, same, atol=1e-4)
    assert alike(whole, seen) > 0.7
    assert np.isfinite(eye(pixels, np.zeros_like(valid))).all()


def test_chips_keep_their_picture_when_they_are_enlarged() -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 48, dtype=np.float32), (1, 3, 48, 48))
    whole = np.ones((1, 48, 48), bool)
    for side in (24, 96):
        ready = brought_to(side, ramp, whole)
        assert ready.shape == (1, 3, side, side) and ready.dtype == np.float32
        inside = ready[..., 4:-4]
        assert np.allclose(np.diff(inside, axis=3), 1 / 47 * 48 / side, atol=1e-3)
        assert np.allclose(ready.mean(), ramp.mean(), atol=1e-3)
    assert np.array_equal(brought_to(48, ramp, whole), ramp)


def test_the_eye_that_ships_is_the_one_that_its_script_describes(eye: object) -> None:
    pytest.importorskip("timm")
    path = Path(__file__).parents[2] / "scripts" / "imagenet_embedder.py"
    told = importlib.util.spec_from_file_location("imagenet_embedder", path)
    script = importlib.util.module_from_spec(told)
    told.loader.exec_module(script)
    assert eye.spec == script.SPEC
    assert script.NUMBERS + open_embedder("plain").dimensions == LONGEST


def test_descriptions_without_a_side_are_the_embedders_they_were() -> None:
    """Their checksum stands in indexes: what was made before is gone on with."""
    assert "side" not in open_embedder("plain").spec.model_dump(mode="json")


def test_another_graph_or_scaling_is_another_embedder(tmp_path: Path) -> None:
    one = open_embedder(write_vector_model(tmp_path / "a"), threads=1)
    folder = write_vector_model(tmp_path / "b")
    told = json.loads((folder / "embedder.json").read_text())
    (folder / "embedder.json").write_text(json.dumps({**told, "scaling": Scaling(min_range=0.9).model_dump()}))
    assert open_embedder(folder, threads=1).checksum != one.checksum


def test_what_is_wrong_with_an_embedder_is_said(tmp_path: Path) -> None:
    folder = write_vector_model(tmp_path / "a", bands=("red", "green", "blue", "nir"))
    with pytest.raises(ModelError, match="takes 3 bands, its description names 4"):
        open_embedder(folder)
    (folder / "embedder.json").write_text('{"name": "x"}')
    with pytest.raises(ModelError, match=r"embedder\.json is not valid"):
        open_embedder(folder)
    folder = write_vector_model(tmp_path / "b")
    (folder / "model.onnx").write_bytes(b"nothing of use")
    with pytest.raises(ModelError, match=r"cannot be used as an encoder|damaged"):
        open_embedder(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelError, match="is missing"):
        open_embedder(folder)
    with pytest.raises(ModelError, match="no model"):
        open_embedder(tmp_path / "nowhere")


def test_nodata_has_no_part_in_the_vector(shipped: object) -> None:
    pixels, valid = 1 + 0.3 * chips(1, 48), np.ones((1, 48, 48), bool)
    valid[:, :, 40:] = False
    pixels[:, :, :, 40:] = 0
    seen = look(pixels, valid)
    own = look(pixels, np.ones_like(valid))
    colours = slice(0, 49)  # percentiles of bands, shares and brightness
    assert np.allclose(seen[:, colours], look(pixels[..., :40], valid[..., :40])[:, colours], atol=0.05)
    assert np.abs(own[:, colours] - seen[:, colours]).max() > 0.05
    assert np.isfinite(shipped(pixels, np.zeros_like(valid))).all()


def test_a_small_bright_site_shows_in_the_look() -> None:
    plain = chips(1, 48) * 0.1
    with_site = plain.copy()
    with_site[:, :, 20:25, 20:30] += 2
    whole = np.ones((1, 48, 48), bool)
    contrast = slice(56, None)
    difference = np.abs(look(with_site, whole) - look(plain, whole))[0, contrast]
    assert difference.max() > 0.5


def test_more_than_four_bands_are_looked_at_more_shortly() -> None:
    assert look(chips(2, 16, bands=8), np.ones((2, 16, 16), bool)).shape[1] < 56


def test_vectors_of_an_index_have_length_one() -> None:
    raw = np.random.default_rng(0).normal(3, 5, (20, 8)).astype(np.float32)
    ready = standardised(raw, raw.mean(axis=0), raw.std(axis=0))
    assert np.allclose(np.linalg.norm(ready, axis=1), 1, atol=1e-5)


def test_rasters_are_embedded_with_their_scenes_scaling(shipped: object) -> None:
    from affine import Affine
    from odc.geo.geobox import GeoBox
    from rasterio.windows import Window

    box = GeoBox((64, 64), Affine(10, 0, 500_000, 0, -10, 2_650_000), "EPSG:32645")
    pixels = np.random.default_rng(0).integers(20, 90, (3, 64, 64)).astype(np.uint8)
    source = MemorySource(Raster(pixels, np.ones((64, 64), bool), box))
    two = [source.read(Window(0, 0, 32, 32)), source.read(Window(32, 32, 32, 32))]
    vectors = embed(shipped, two, np.full(3, 0.02, np.float32), np.full(3, -1, np.float32))
    assert vectors.shape == (2, shipped.dimensions)
    assert embed(shipped, [], np.ones(3), np.zeros(3)).shape == (0, shipped.dimensions)
