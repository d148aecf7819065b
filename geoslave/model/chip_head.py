"""A head for training only: from the encoder's deepest features straight to each weak chip's yes or no.

A chip's pooled score is that of its highest pixels, so only they are taught, and slowly. The head is taught by all of
the chip; what the encoder learns to see for it, the pixels' scores are made from. Packages are without it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geoslave.errors import ModelError
from geoslave.model.network import GridNetwork


class ChipHead(nn.Module):
    """One linear layer on the mean and the maximum of what the encoder put out last."""

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * channels, n_classes)
        self._deepest: Tensor | None = None

    def listen(self, encoder: nn.Module, inputs: Any, stages: list[Tensor]) -> None:
        """Keep the deepest features [chip, channel, y, x]; a forward hook of the encoder."""
        if encoder.training:
            self._deepest = stages[-1]

    def loss(self, weak: Tensor) -> Tensor:
        """Cross entropy on the chips that the encoder has just seen.

        Args:
            weak: int8 [chip, class]: 1, 0, or -1 where there is no weak label.
        """
        assert self._deepest is not None
        seen, self._deepest = self._deepest.float(), None
        logits = self.linear(torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], dim=1))
        told = weak >= 0
        return functional.binary_cross_entropy_with_logits(logits[told], weak[told].float())


def add_chip_head(network: GridNetwork, n_classes: int) -> None:
    """Give a network a head that listens to its encoder.

    Raises:
        ModelError: if the network has no encoder to listen to.
    """
    body: Any = network.body
    if not hasattr(body, "encoder"):
        raise ModelError("this architecture has no encoder to listen to: leave out weak.encoder_weight")
    head = ChipHead(body.encoder.out_channels[-1], n_classes)
    network.chip_head = head
    body.encoder.register_forward_hook(head.listen)


def remove_chip_head(network: GridNetwork) -> None:
    """Leave the head out, and its weights with it."""
    if network.chip_head is None:
        return
    network.chip_head = None
    body: Any = network.body
    # copies of a network have copies of the hook, whose handles nobody holds
    body.encoder._forward_hooks.clear()
