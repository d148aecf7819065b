"""The gate: what it lets the refined network see, and that nothing else changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from geoslave.cli.main import cli
from geoslave.detect import detect_scene
from geoslave.detections.export import read_provenance
from geoslave.errors import ModelError
from geoslave.grid import partition
from geoslave.model.gate import GATE_FILE, GatedNetwork, GateSpec, gated, opened_cells, windows
from geoslave.model.library import verify_package
from geoslave.model.mlm import faults
from geoslave.model.package import FORMAT, open_package
from geoslave.model.predict import Margins, OnnxNetwork, load_network
from tests.factories import bright_spec, dark_field, with_kilns, write_bright_model
from tests.gates import CELL, write_gated_model

REACH, HALO, STRIDE = 4, 16, 8


def spec(threshold: float = 0.5, margin: int = 1) -> GateSpec:
    return GateSpec(sha256="0" * 64, cell=CELL, reach=REACH, margin=margin, threshold=threshold, recall=0.99)


def shifted_sum(values: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Sums of whole numbers over squares of 2 * reach + 1 pixels, 0 outside: exact, whatever the order."""
    padded = np.pad(values, reach)
    size = 2 * reach + 1
    return np.lib.stride_tricks.sliding_window_view(padded, (size, size)).sum(axis=(2, 3)).astype(np.float32)


class Local:
    """A network whose scores depend on 16 pixels around; it counts what it was shown."""

    device = "cpu"

    def __init__(self) -> None:
        self.shown = 0

    def __call__(self, batch: NDArray[np.float32], margins: Margins = (0, 0, 0, 0)) -> NDArray[np.float32]:
        height, width = batch.shape[2:]
        assert height % STRIDE == 0 and width % STRIDE == 0
        self.shown += height * width
        top, left, bottom, right = margins
        whole = shifted_sum(batch[0, 0], HALO) + 1
        return whole[None, None, top : height - bottom, left : width - right]


def local_gate(imagery: NDArray[np.float32]) -> NDArray[np.float32]:
    """The highest sum over 9 x 9 pixels in each cell."""
    rows, cols = (size // CELL for size in imagery.shape[1:])
    return shifted_sum(imagery[0], REACH).reshape(rows, CELL, cols, CELL).max(axis=(1, 3))


def scores_by_chips(network: object, scene: NDArray[np.float32], tile: int) -> NDArray[np.float32]:
    assert callable(network)
    whole = np.full(scene.shape, -1, np.float32)
    for cell in partition(scene.shape, tile, HALO, STRIDE):
        read = np.zeros((1, 1, cell.read.height, cell.read.width), np.float32)
        rows, cols = slice(cell.read.row_off, None), slice(cell.read.col_off, None)
        there = scene[rows, cols][: cell.read.height, : cell.read.width]
        read[0, 0, : there.shape[0], : there.shape[1]] = there
        (y, x), core = cell.core_in_read, cell.core
        margins = (y.start, x.start, cell.read.height - y.stop, cell.read.width - x.stop)
        whole[core.row_off :, core.col_off :][: core.height, : core.width] = network(read, margins)[0, 0]
    return whole


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 113), st.integers(1, 3)), max_size=12),
    tile=st.sampled_from([16, 24, 40, 64, 128]),
    shape=st.sampled_from([(91, 114), (64, 96), (17, 33)]),
    threshold=st.sampled_from([0.5, 0.999]),
    margin=st.integers(0, 1),
)
def test_scores_are_those_without_the_gate_where_it_opens_and_nought_elsewhere_whatever_the_chips(
    points: list[tuple[int, int, int]], tile: int, shape: tuple[int, int], threshold: float, margin: int
) -> None:
    scene = np.zeros(shape, np.float32)
    for row, col, value in points:
        if row < shape[0] and col < shape[1]:
            scene[row, col] = value
    refined = Local()
    network = GatedNetwork(refined, local_gate, spec(threshold, margin), HALO, STRIDE, 1)
    found = scores_by_chips(network, scene, tile)

    rows, cols = (-(-size // CELL) * CELL for size in shape)
    padded = np.zeros((1, rows, cols), np.float32)
    padded[0, : shape[0], : shape[1]] = scene
    opened = opened_cells(local_gate(padded), spec(threshold, margin), (0, 0, rows, cols))
    asked = opened.repeat(CELL, 0).repeat(CELL, 1)[: shape[0], : shape[1]]
    assert np.array_equal(found, np.where(asked, scores_by_chips(Local(), scene, tile), 0))
    assert asked.any() == bool(points and scene.any())


def test_a_lone_site_costs_its_surroundings_only() -> None:
    scene = np.zeros((256, 256), np.float32)
    scene[130, 70] = 1
    refined = Local()
    network = GatedNetwork(refined, local_gate, spec(), HALO, STRIDE, 1)
    assert scores_by_chips(network, scene, 256)[130, 70] == 2
    # two cells of 8 hold the point's reach, one more on every side is opened, 16 pixels around are looked at
    assert refined.shown <= (4 * 8 + 2 * 16) ** 2


def test_a_scene_without_sites_never_reaches_the_refined_network() -> None:
    refined = Local()
    network = GatedNetwork(refined, local_gate, spec(), HALO, STRIDE, 1)
    assert not scores_by_chips(network, np.zeros((200, 120), np.float32), 64).any()
    assert refined.shown == 0


@settings(max_examples=200, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)), fill=st.just(False)), st.integers(0, 64))
def test_windows_hold_all_that_is_opened_and_cost_no_more_than_everything(opened: NDArray[np.bool_], halo: int) -> None:
    boxes = windows(opened, CELL, halo)
    held = np.zeros_like(opened)
    for top, left, bottom, right in boxes:
        held[top:bottom, left:right] = True
        assert opened[top:bottom, left:right].any()
    assert not (opened & ~held).any()
    cost = sum((b - t + 2 * halo / CELL) * (r - le + 2 * halo / CELL) for t, le, b, r in boxes)
    assert cost <= np.prod([size + 2 * halo / CELL for size in opened.shape]) or len(boxes) == 1


@pytest.fixture
def scene(make_scene):  # type: ignore[no-untyped-def]
    pixels = with_kilns(dark_field((200, 264)), [(30, 40), (62, 60), (120, 200), (192, 250)])
    pixels[:, 150:155, 100:110] = 120  # a faint place: the network gives it a score, the gate does not open
    return make_scene(pixels, name="kilns_20240105.tif")


def test_detect_finds_the_same_sites_with_a_gate_and_writes_nought_where_it_was_closed(
    scene: Path, tmp_path: Path
) -> None:
    package = open_package(write_gated_model(tmp_path / "bright", halo=32, stride=16))
    results = {}
    for use in (True, False):
        network = gated(load_network(package, "onnx", 1), package, 1, use=use)
        scores = tmp_path / f"{use}.tif"
        found = detect_scene(scene, package, network, tmp_path, scores=scores).detections
        with rasterio.open(scores) as file:
            results[use] = found, file.read()
    (gated_sites, gated_scores), (sites, plain_scores) = results[True], results[False]
    assert len(sites) >= 3
    columns = ["detection_id", "score_max", "score_mean"]
    assert gated_sites[columns].equals(sites[columns])
    assert gated_sites.geometry.geom_equals(sites.geometry).all()
    different = gated_scores != plain_scores
    assert different[0, 150:155, 100:110].all()
    assert (gated_scores[different] == 0).all()


def test_detect_tells_whether_the_gate_was_used(scene: Path, tmp_path: Path) -> None:
    model = write_gated_model(tmp_path / "bright", halo=32, stride=16)
    for flags, threshold, recall in (((), 0.5, 0.99), (("--no-gate",), None, None)):
        out = tmp_path / f"{len(flags)}.gpkg"
        command = ["detect", str(scene), "--model", str(model), "--out", str(out), "--threads", "1", "--json", *flags]
        run = CliRunner().invoke(cli, command)
        assert run.exit_code == 0, run.output
        for told in (json.loads(run.stdout), read_provenance(out)):
            assert (told["gate_threshold"], told["gate_recall"]) == (threshold, recall)


def test_a_package_keeps_the_hash_of_its_gate_and_the_rules(tmp_path: Path) -> None:
    folder = write_gated_model(tmp_path / "bright", halo=32)
    assert open_package(folder).spec.gate is not None
    item = json.loads((folder / "model.json").read_text())
    assert faults(item) == []
    assert item["assets"]["gate"]["roles"] != ["mlm:model"]
    (folder / GATE_FILE).write_bytes((folder / GATE_FILE).read_bytes() + b"x")
    with pytest.raises(ModelError, match=r"gate\.onnx is not the file"):
        open_package(folder)
    (folder / GATE_FILE).unlink()
    with pytest.raises(ModelError, match=r"gate\.onnx is missing"):
        open_package(folder)


def test_a_package_without_a_gate_is_described_as_before_and_its_network_stays_bare(tmp_path: Path) -> None:
    package = open_package(write_bright_model(tmp_path / "bright"))
    item = json.loads((package.folder / "model.json").read_text())
    assert "gate" not in item["properties"]["geoslave:spec"] and "gate" not in item["assets"]
    network = OnnxNetwork(package, 1)
    assert gated(network, package) is network


def test_a_package_of_the_format_before_gates_still_opens(tmp_path: Path) -> None:
    folder = write_bright_model(tmp_path / "bright")
    item = json.loads((folder / "model.json").read_text())
    item["properties"]["geoslave:spec"]["format"] = 2
    (folder / "model.json").write_text(json.dumps(item))
    assert FORMAT > 2 and open_package(folder).spec.format == 2


def test_a_gate_that_sees_farther_than_the_halo_is_refused() -> None:
    far = spec(margin=2)
    with pytest.raises(ValueError, match="looks 20 pixels far, the halo is 16"):
        bright_spec(gate=far)


def test_a_package_with_a_gate_is_checked_through(tmp_path: Path) -> None:
    package = open_package(write_gated_model(tmp_path / "bright", halo=32))
    assert {check.name: check.passed for check in verify_package(package)}["gate"] is True
    (package.folder / GATE_FILE).write_bytes(b"no graph")
    assert {check.name: check.passed for check in verify_package(package)}["gate"] is False


def test_a_damaged_gate_is_told_by_its_file(tmp_path: Path) -> None:
    folder = write_gated_model(tmp_path / "bright", halo=32)
    package = open_package(folder)
    shutil.copyfile(folder / "README.md", folder / GATE_FILE)
    with pytest.raises(ModelError, match=r"gate\.onnx cannot be loaded"):
        gated(OnnxNetwork(package, 1), package, 1)
