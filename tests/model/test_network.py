"""Networks answer on their input's grid, and their ONNX graph says the same at any size."""

from __future__ import annotations

from pathlib import Path
from types import EllipsisType

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("segmentation_models_pytorch")
ort = pytest.importorskip("onnxruntime")

from geoslave.errors import ModelError  # noqa: E402
from geoslave.model.network import Architecture, build_network, export_onnx, recentre, stride  # noqa: E402

THIN = Architecture(encoder="resnet18", encoder_depth=3, decoder_channels=(16, 8, 8))
SMALL = {"encoder": "tu-regnetx_002", "encoder_depth": 4, "decoder_channels": (32, 16, 16, 16)}
LIGHT = Architecture(encoder="tu-regnetx_002", encoder_depth=4, decoder_channels=(24, 16, 8), upsample=2)


@pytest.mark.parametrize(
    ("architecture", "pixels"),
    [
        (THIN, 8),
        (LIGHT, 8),
        (THIN.model_copy(update={"upsample": 4}), 2),
        (Architecture(encoder_depth=3, decoder_channels=(16, 8)), 8),
        (Architecture(name="FPN", encoder_depth=5), 32),
    ],
)
def test_output_lies_on_the_input_grid(architecture: Architecture, pixels: int) -> None:
    assert stride(architecture) == pixels
    network = build_network(architecture, n_bands=4, n_classes=2).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 4, 64, 96)).shape == (1, 2, 64, 96)


@pytest.mark.parametrize("architecture", [THIN, LIGHT])
def test_onnx_agrees_with_torch_at_any_size(architecture: Architecture, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(architecture, n_bands=3, n_classes=1)
    network(torch.randn(4, 3, 64, 64))  # norms that are not the identity
    network.eval()
    path = tmp_path / "model.onnx"
    export_onnx(network, 3, path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 64, 64), (3, 3, 120, 200)):
        imagery = torch.randn(*shape)
        with torch.no_grad():
            expected = torch.sigmoid(network(imagery)).numpy()
        (scores,) = session.run(["scores"], {"imagery": imagery.numpy()})
        np.testing.assert_allclose(scores, expected, atol=2e-4)


@pytest.mark.parametrize("steps", [(0, 0, 0, 0), (2, 1, 3, 0), (1, 4, 0, 2)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"upsample": 2},
        {"encoder_depth": 4, "decoder_channels": (16, 16, 8)},  # answers at half the resolution, enlarged
        {"name": "FPN", "encoder_depth": 5, "decoder_channels": None},
        {"extra": {"decoder_attention_type": "scse"}},
    ],
)
def test_margins_are_left_out_and_change_nothing_else(changes: dict, steps: tuple[int, int, int, int]) -> None:
    architecture = Architecture.model_validate({**SMALL, **changes})
    network = some_network(architecture)
    imagery, margins, inside = with_margins(stride(architecture), steps)
    with torch.no_grad():
        whole, inner = network(imagery), network(imagery, torch.tensor(margins))
    torch.testing.assert_close(inner, whole[inside], atol=1e-5, rtol=1e-5)


def test_the_onnx_graph_takes_margins_or_none(tmp_path: Path) -> None:
    architecture = Architecture.model_validate(SMALL)
    export_onnx(some_network(architecture), 3, tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    imagery, margins, inside = with_margins(stride(architecture), (2, 1, 3, 0))
    assert [value.name for value in session.get_inputs()] == ["imagery"]
    (all_scores,) = session.run(None, {"imagery": imagery.numpy()})
    (scores,) = session.run(None, {"imagery": imagery.numpy(), "margins": np.array(margins)})
    np.testing.assert_allclose(scores, all_scores[inside], atol=1e-5)


def some_network(architecture: Architecture) -> torch.nn.Module:
    torch.manual_seed(0)
    network = build_network(architecture, n_bands=3, n_classes=2)
    network(torch.randn(4, 3, 64, 64))  # norms that are not the identity
    return network.eval()


def with_margins(
    step: int, steps: tuple[int, int, int, int]
) -> tuple[torch.Tensor, tuple[int, ...], tuple[EllipsisType, slice, slice]]:
    """Imagery, margins of so many steps of the network's grid, and what lies inside them."""
    top, left, bottom, right = (n * step for n in steps)
    height, width = 6 * step, 7 * step
    inside = (..., slice(top, height - bottom), slice(left, width - right))
    return torch.randn(1, 3, height, width), (top, left, bottom, right), inside


def test_shifts_by_the_stride_move_the_scores() -> None:
    torch.manual_seed(1)
    network = build_network(LIGHT, n_bands=3, n_classes=1).eval()
    imagery = torch.randn(1, 3, 200, 200)
    step, inside = stride(LIGHT), slice(72, 120)
    with torch.no_grad():
        here = network(imagery)[..., inside, inside]
        there = network(imagery[..., step:, step:])[..., 72 - step : 120 - step, 72 - step : 120 - step]
    assert (here - there).abs().max() < 1e-3


def test_recentre_moves_the_chosen_score_to_one_half() -> None:
    torch.manual_seed(2)
    network = build_network(THIN, n_bands=3, n_classes=1).eval()
    imagery = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = network(imagery)
        chosen = torch.sigmoid(before).flatten()[:1].double()
        recentre(network, float(chosen), 2.0)
        after = network(imagery)
    torch.testing.assert_close(after, (before - before.flatten()[0]) / 2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder": "no_such_encoder"},
        {"name": "NoSuchNet"},
        {"name": "FPN", "encoder_depth": 4, "decoder_channels": (16, 8)},
        {"encoder_depth": 4, "decoder_channels": (16, 8, 8), "upsample": 3},
    ],
)
def test_what_cannot_be_built_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"architecture|upsample"):
        build_network(Architecture.model_validate(wrong), 3, 1)
