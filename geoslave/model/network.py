"""Networks: thin over segmentation_models_pytorch.

A network takes scaled imagery [batch, band, y, x] and gives logits [batch, class, y, x] on the same
grid. Weights start from scratch, unless ones to be fetched are asked for or a package's are taken over.

Small sites need fine feature maps: a kiln is about 10 x 5 pixels of 10 m. So the input can be
upsampled *inside* the network (`upsample`). With fewer `decoder_channels` than `encoder_depth` the
U-Net's last and most expensive stages are left out: an input upsampled twice, whose decoder stops
at half of that, answers on the grid it was given, at a fraction of the cost.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from geoslave.errors import MissingExtra, ModelError
from geoslave.model.pretrained import PACKAGED, leave_out_unseen_stages, take_imagenet, with_own_convolutions

if TYPE_CHECKING:
    from geoslave.model.chip_head import ChipHead
    from geoslave.model.package import ModelPackage


MARGINS = "margins"
"""The ONNX graph's optional input."""


class Architecture(BaseModel):
    """What a network is built from; kept in the model package."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "Unet"
    """A network of segmentation_models_pytorch."""
    encoder: str = "resnet18"
    """An encoder of it, or of timm with 'tu-' before its name."""
    encoder_depth: int = Field(default=4, ge=3, le=5)
    """Stages of the encoder, each at half the resolution of the one before."""
    decoder_channels: tuple[int, ...] | None = None
    """One number a decoder stage, coarse to fine. A Unet may have fewer stages than `encoder_depth`."""
    upsample: int = Field(default=1, ge=1, le=8)
    """The input is enlarged this many times inside the network; scores come back on the input's grid."""
    extra: dict[str, Any] = {}
    """Further arguments of the network's constructor."""


class GridNetwork(nn.Module):
    """A network whose output lies on its input's grid."""

    def __init__(self, body: nn.Module, upsample: int, coarser: int) -> None:
        """
        Args:
            body: from imagery [batch, band, y, x] to logits at 1 / `coarser` of its resolution.
            upsample: how many times the input is enlarged before it enters the body.
        """
        super().__init__()
        self.body = body
        self.upsample = upsample
        self.coarser = coarser
        self.chip_head: ChipHead | None = None
        """Only while it is trained (see `chip_head`)."""

    def forward(self, imagery: Tensor, margins: Tensor | None = None) -> Tensor:
        """Logits [batch, class, y, x] of scaled imagery [batch, band, y, x].

        Args:
            margins: (top, left, bottom, right) pixels, multiples of the stride, of which no logits are
                wanted: the result is smaller by them, and otherwise the same. None: all are wanted.
        """
        if self.upsample > 1:
            imagery = functional.interpolate(
                imagery, scale_factor=float(self.upsample), mode="bilinear", align_corners=False
            )
        if margins is not None and _is_plain_unet(self.body):
            logits, left = _unet_logits(self.body, imagery, margins * self.upsample)
            if self.upsample >= self.coarser:
                logits, margins = _cut(logits, left), None
            else:
                margins = left * (self.coarser // self.upsample)
        else:
            logits = self.body(imagery)
        if self.upsample > self.coarser:
            logits = functional.avg_pool2d(logits, self.upsample // self.coarser)
        elif self.upsample < self.coarser:
            factor = self.coarser / self.upsample
            logits = functional.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
        return logits if margins is None else _cut(logits, margins)


def _is_plain_unet(body: nn.Module) -> bool:
    """Whether each pixel of the decoder depends on its neighbourhood only."""
    import segmentation_models_pytorch as smp

    return type(body) is smp.Unet and all(
        block.interpolation_mode == "nearest"
        and isinstance(block.attention1.attention, nn.Identity)
        and isinstance(block.attention2.attention, nn.Identity)
        for block in body.decoder.blocks
    )


def _unet_logits(body: Any, imagery: Tensor, margins: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of a Unet whose decoder works on the wanted pixels and the few around them that they depend on.

    A stage doubles the resolution and convolves twice by 3 x 3: with 2 pixels around what is wanted before
    doubling, and so 4 after it, 2 are left that the image's edge has not touched.

    Returns:
        the logits, at the resolution of the last stage, and the margins (top, left, bottom, right) still on them.
    """
    features = body.encoder(imagery)
    skips = list(reversed(features[:-1]))
    wanted_from = [margins // 2**level for level in reversed(range(len(features)))]
    x, left = body.decoder.center(features[-1]), wanted_from[0]
    for stage, block in enumerate(body.decoder.blocks):
        kept = left.clamp(max=2)
        x, left = _cut(x, left - kept), 2 * kept
        # the image itself, the finest of the features, is no skip connection: it only has the size to reach
        skip = _cut(skips[stage], wanted_from[stage + 1] - left)
        x = block(x, skip.shape[-2], skip.shape[-1], skip_connection=skip if stage < len(skips) - 1 else None)
    return body.segmentation_head(x), left


def _cut(x: Tensor, margins: Tensor) -> Tensor:
    """[..., y, x] without (top, left, bottom, right) pixels."""
    top, left, bottom, right = margins
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def build_network(
    architecture: Architecture, n_bands: int, n_classes: int, pretrained: str | None = None
) -> GridNetwork:
    """A network with fresh weights (seed torch beforehand to have the same ones again).

    With `pretrained` ("imagenet") the encoder has weights that were trained already: from an installed package
    where there is one for it (`geoslave.model.pretrained`), else fetched from the net; what fails then is whatever
    the library that fetches raises.

    Raises:
        ModelError: if segmentation_models_pytorch does not know it or its parts do not fit.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise MissingExtra("building a network", "train") from None

    channels = architecture.decoder_channels
    stages = architecture.encoder_depth if channels is None else len(channels)
    arguments: dict[str, Any] = {"encoder_depth": architecture.encoder_depth, **architecture.extra}
    if channels is not None:
        # the stages to leave out are built as thin as can be and then removed
        arguments["decoder_channels"] = (*channels, *(8,) * (architecture.encoder_depth - stages))
    try:
        fetched = None if architecture.encoder == PACKAGED else pretrained
        body = smp.create_model(
            architecture.name, architecture.encoder, fetched, in_channels=n_bands, classes=n_classes, **arguments
        )
        if architecture.encoder == PACKAGED:
            leave_out_unseen_stages(body.encoder)
            with_own_convolutions(body.encoder)
        if pretrained is not None and fetched is None:
            take_imagenet(body.encoder)
        if stages < architecture.encoder_depth:
            _leave_out_stages(body, architecture, n_classes)
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        if pretrained is not None:
            raise
        raise ModelError(
            f"architecture {architecture.name} with encoder {architecture.encoder} cannot be built ({error}): "
            "change 'architecture' in the configuration"
        ) from error
    coarser = 2 ** (architecture.encoder_depth - stages)
    if max(coarser, architecture.upsample) % min(coarser, architecture.upsample):
        raise ModelError(
            f"upsample {architecture.upsample} does not fit {stages} decoder stages, which answer at 1/{coarser}: "
            "use a power of two"
        )
    return GridNetwork(body, architecture.upsample, coarser)


def stride(architecture: Architecture) -> int:
    """Input sides must be multiples of this many pixels; scores move with shifts by multiples of it."""
    coarsest: int = 2**architecture.encoder_depth
    return max(1, -(-coarsest // architecture.upsample))


@torch.no_grad()
def recentre(network: GridNetwork, score: float, softness: float) -> None:
    """Move a trained network's scores so that `score` becomes 0.5, and soften them.

    logit' = (logit - logit(score)) / softness. Ranks stay. Networks trained with Dice are sure of
    nearly everything: their scores crowd at 0 and 1, where stored scores (254 steps) cannot tell
    them apart, and a useful threshold lies near 1.

    Raises:
        ModelError: if the network does not end in a convolution.
    """
    body: Any = network.body
    last = next((layer for layer in body.segmentation_head.modules() if isinstance(layer, nn.Conv2d)), None)
    if last is None or last.bias is None:
        raise ModelError("this architecture has no last layer that could be moved: leave out 'recentre'")
    last.weight.div_(softness)
    last.bias.sub_(math.log(score / (1 - score))).div_(softness)


@torch.no_grad()
def take_weights(
    network: GridNetwork,
    package: ModelPackage,
    architecture: Architecture,
    bands: Sequence[str],
    classes: Sequence[str],
) -> list[str]:
    """Start a network from a package's weights.

    Bands and classes are matched by name: a band that the package does not know starts as the mean of
    those it knows, a class that it does not know from scratch. Returns lines that tell what was new.

    Raises:
        ModelError: if the package is of another architecture.
    """
    from safetensors.torch import load_file

    spec = package.spec
    if Architecture.model_validate(spec.architecture) != architecture:
        raise ModelError(
            f"{spec.name} is of another architecture ({spec.architecture.get('name')}, encoder "
            f"{spec.architecture.get('encoder')}, ...): copy its 'architecture' from {package.folder / 'model.json'}"
        )
    state = network.state_dict()
    first = next(name for name, tensor in state.items() if tensor.ndim == 4)
    for name, theirs in load_file(package.weights).items():
        if name == first and tuple(bands) != spec.bands:
            theirs = _for_bands(theirs, spec.bands, bands)
        if name.startswith("body.segmentation_head.") and tuple(classes) != spec.classes:
            theirs = _for_classes(state[name], theirs, spec.classes, classes)
        state[name].copy_(theirs)
    new = [f"band {band}" for band in bands if band not in spec.bands]
    new += [f"class {name}" for name in classes if name not in spec.classes]
    return [f"starts from {spec.name} {spec.version}" + (f"; new to it: {', '.join(new)}" if new else "")]


def _for_bands(theirs: Tensor, known: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """A first convolution [out, band, y, x] for other bands; what it puts out stays of the same size."""
    mean = theirs.mean(dim=1)
    layers = [theirs[:, known.index(band)] if band in known else mean for band in wanted]
    return torch.stack(layers, dim=1) * (len(known) / len(wanted))


def _for_classes(ours: Tensor, theirs: Tensor, known: Sequence[str], wanted: Sequence[str]) -> Tensor:
    """A last layer's weights or biases [class, ...] for other classes."""
    rows = ours.clone()
    for row, name in enumerate(wanted):
        if name in known:
            rows[row] = theirs[known.index(name)]
    return rows


def export_onnx(network: nn.Module, n_bands: int, path: Path) -> None:
    """Write a network as an ONNX graph from 'imagery' to 'scores' in [0, 1]; batch, y and x are free.

    A second input, 'margins' (see `GridNetwork.forward`), may be left out: it is an initializer of zeros,
    so that programs that know of one input only get the scores of all pixels.

    Opset 17; the graph is checked by onnx before it is kept.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtra("writing ONNX", "train") from None

    scored = _Scored(network).eval().cpu().float()
    example = (torch.zeros(2, n_bands, 64, 96), torch.zeros(4, dtype=torch.int64))
    free = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings(), torch.no_grad():
        # the tracing exporter is deprecated, but the only one here that folds and needs no extra package
        warnings.simplefilter("ignore")
        torch.onnx.export(
            scored,
            example,
            str(path),
            input_names=["imagery", MARGINS],
            output_names=["scores"],
            dynamic_axes={"imagery": free, "scores": free},
            opset_version=17,
            dynamo=False,
        )
    graph = onnx.load(str(path))
    graph.graph.initializer.append(onnx.helper.make_tensor(MARGINS, onnx.TensorProto.INT64, [4], [0, 0, 0, 0]))
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))


class _Scored(nn.Module):
    """A network that gives scores in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, imagery: Tensor, margins: Tensor) -> Tensor:
        if isinstance(self.network, GridNetwork):
            return torch.sigmoid(self.network(imagery, margins))
        return torch.sigmoid(_cut(self.network(imagery), margins))


def _leave_out_stages(body: nn.Module, architecture: Architecture, n_classes: int) -> None:
    """Cut a Unet's decoder after the stages asked for and give it a new head."""
    from segmentation_models_pytorch.base import SegmentationHead

    channels = architecture.decoder_channels
    if architecture.name.lower() != "unet" or not channels:
        raise ValueError("only Unet can do with fewer decoder_channels than encoder_depth")
    decoder: Any = body.decoder
    decoder.blocks = decoder.blocks[: len(channels)]
    body.segmentation_head = SegmentationHead(channels[-1], n_classes, kernel_size=3)
