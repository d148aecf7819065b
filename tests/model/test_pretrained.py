"""An encoder whose ImageNet weights come with a package: nothing is fetched, and nothing is a little off."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from geoslave.errors import GeoslaveError
from geoslave.model import pretrained
from geoslave.model.network import Architecture, build_network, export_onnx
from geoslave.model.pretrained import PACKAGED, EncoderConvolution, named_as_timm, take_imagenet, with_own_convolutions

LITE = Architecture(encoder=PACKAGED, encoder_depth=4, decoder_channels=(32, 16, 8), upsample=2)


def test_the_encoder_sees_what_the_classifier_saw_that_was_trained() -> None:
    """The features of timm's own network with the same weights, by timm's own padding."""
    import timm

    whole = timm.create_model(PACKAGED.removeprefix("tu-"), num_classes=0).eval()
    take_imagenet(whole)
    encoder = build_network(LITE, 3, 1, "imagenet").body.encoder.eval()
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs = whole.bn1(whole.conv_stem(image))
        for stage in whole.blocks[:5]:
            theirs = stage(theirs)
        ours = encoder(image)[-1]
    torch.testing.assert_close(ours, theirs)
    assert ours.std() > 0.1


def test_other_bands_take_the_three_in_turns() -> None:
    stem = build_network(LITE, 4, 1, "imagenet").body.encoder.model.conv_stem.weight.detach()
    rgb = build_network(LITE, 3, 1, "imagenet").body.encoder.model.conv_stem.weight.detach()
    torch.testing.assert_close(stem[:, 3], stem[:, 0])
    assert float(stem[:, 1].norm() / rgb[:, 1].norm()) == pytest.approx(3 / 4, rel=1e-4)


@pytest.mark.parametrize("kernel", [3, 5])
def test_even_sides_are_padded_as_timm_pads_them(kernel: int) -> None:
    from timm.layers import Conv2dSame

    theirs = nn.Sequential(Conv2dSame(2, 4, kernel, stride=2, groups=2))
    image = torch.randn(1, 2, 16, 24)
    expected = theirs(image)
    with_own_convolutions(theirs)
    assert isinstance(theirs[0], EncoderConvolution)
    torch.testing.assert_close(theirs(image), expected)


def test_mixed_precision_and_copies_keep_depthwise_convolutions_whole() -> None:
    network = copy.deepcopy(build_network(LITE, 3, 1))
    depthwise = next(layer for layer in network.modules() if isinstance(layer, EncoderConvolution) and layer.groups > 1)
    seen: list[torch.dtype] = []
    depthwise.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.zeros(1, 3, 32, 32)).sum().backward()
    assert seen == [torch.float32]
    assert depthwise.weight.grad is not None


def test_the_exported_graph_answers_the_same_at_every_size(tmp_path: Path) -> None:
    network = build_network(LITE, 3, 1, "imagenet").eval()
    export_onnx(network, 3, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for sides in ((48, 48), (64, 32)):
        image = torch.randn(1, 3, *sides, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            expected = torch.sigmoid(network(image)).numpy()
        (scores,) = session.run(None, {"imagery": image.numpy()})
        np.testing.assert_allclose(scores, expected, atol=2e-5)


def test_stages_that_nobody_sees_are_not_computed() -> None:
    shallow = build_network(LITE, 3, 1)
    names = [name for name, _ in shallow.named_parameters()]
    assert not any("encoder.model.blocks.5" in name for name in names)
    deep = build_network(LITE.model_copy(update={"encoder_depth": 5, "decoder_channels": None}), 3, 1)
    assert any("encoder.model.blocks.6" in name for name, _ in deep.named_parameters())


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda _name: None)
    with pytest.raises(GeoslaveError, match=r"geoslave\[train\]"):
        build_network(LITE, 3, 1, "imagenet")


def test_another_file_in_its_place_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Found:
        origin = str(tmp_path / "__init__.py")

    (tmp_path / "models").mkdir()
    (tmp_path / pretrained._FILE).write_bytes(b"not weights")
    monkeypatch.setattr(pretrained, "find_spec", lambda _name: Found)
    with pytest.raises(GeoslaveError, match=r"is not the file that is known: install .* again"):
        build_network(LITE, 3, 1, "imagenet")


def test_blocks_are_counted_through_the_stages() -> None:
    weights = {f"_blocks.{k}._bn2.weight": torch.tensor(float(k)) for k in range(3)} | {"_fc.bias": torch.tensor(0.0)}
    named = named_as_timm(weights, [1, 2])
    assert {name: int(value) for name, value in named.items()} == {
        "blocks.0.0.bn2.weight": 0, "blocks.1.0.bn3.weight": 1, "blocks.1.1.bn3.weight": 2,
    }  # fmt: skip
