"""What a network is punished for: wrong pixels (masks) and wrong chips (weak labels)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from geoslave.model.augment import IGNORE
from geoslave.model.chip_head import ChipHead
from geoslave.model.recipe import Loss, TrainConfig, Weak


@dataclass(frozen=True, slots=True)
class LossParts:
    """A loss and what it is made of, weights included."""

    total: Tensor
    pixels: Tensor
    chips: Tensor


def batch_loss(
    logits: Tensor, truth: Tensor, valid: Tensor, weak: Tensor, config: TrainConfig, head: ChipHead | None = None
) -> LossParts:
    """The loss of a batch in which some chips have masks and others only a weak label.

    Args:
        logits: [chip, class, y, x].
        truth: uint8 [chip, y, x]: 0 none, 1 and up a class, IGNORE where nothing is learned.
        valid: bool [chip, y, x].
        weak: int8 [chip, class]: 1, 0, or -1 where there is no weak label.
        head: which answers for weak chips too, and whose encoder has just seen them.
    """
    pixels = segmentation_loss(logits, truth, config.loss)
    chips = logits.new_zeros(())
    if bool((weak >= 0).any()):
        chips = config.weak.weight * weak_loss(logits, valid, weak, config.weak)
        if head is not None:
            chips = chips + config.weak.encoder_weight * head.loss(weak)
    return LossParts(pixels + chips, pixels, chips)


def segmentation_loss(logits: Tensor, truth: Tensor, loss: Loss) -> Tensor:
    """Focal cross entropy (Lin et al. 2017) and Dice (Milletari et al. 2016) over a batch, mean over classes.

    Args:
        logits: [batch, class, y, x].
        truth: [batch, y, x], IGNORE where nothing is learned.
    """
    known = (truth != IGNORE).float()
    parts = [
        _class_loss(logits[:, index], (truth == index + 1).float(), known, loss) for index in range(logits.shape[1])
    ]
    return torch.stack(parts).mean()


def _class_loss(logit: Tensor, wanted: Tensor, known: Tensor, loss: Loss) -> Tensor:
    score = torch.sigmoid(logit)
    entropy = functional.binary_cross_entropy_with_logits(logit, wanted, reduction="none")
    if loss.focal_gamma:
        missed = torch.where(wanted > 0, 1 - score, score).detach()
        entropy = entropy * missed**loss.focal_gamma
    entropy = (entropy * known).sum() / known.sum().clamp(min=1)
    both = (score * wanted * known).sum()
    dice = 1 - (2 * both + 1) / ((score * known).sum() + (wanted * known).sum() + 1)
    # the mean over pixels is small because nearly all are background
    return loss.bce * 20 * entropy + loss.dice * dice


def weak_loss(logits: Tensor, valid: Tensor, weak: Tensor, settings: Weak) -> Tensor:
    """Cross entropy of chips' pooled scores, and what sizes and scores as such cost.

    Arguments as in `batch_loss`; chips without a weak label cost nothing.
    """
    told = weak >= 0
    pooled = pooled_logits(logits, valid, settings)[told]
    wanted = weak[told].float()
    cost = functional.binary_cross_entropy_with_logits(pooled, wanted)
    if settings.size_weight or settings.sparsity:
        inside = valid[:, None].float()
        covered = ((torch.sigmoid(logits) * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1))[told]
        least, most = settings.size
        beyond = torch.relu(least - covered) + torch.relu(covered - most)
        cost = cost + settings.size_weight * (beyond * wanted).mean() + settings.sparsity * covered.mean()
    return cost


def pooled_logits(logits: Tensor, valid: Tensor, settings: Weak) -> Tensor:
    """One logit [chip, class] for each chip, from those of its valid pixels.

    top: the mean of the highest `top_share`; lse: (1/r) log mean exp(r logit), Pinheiro and Collobert
    2015; power: the logit of the generalised mean of the scores.
    """
    flat, known = logits.flatten(2), valid.flatten(1)[:, None]
    count = known.sum(-1).clamp(min=1)
    if settings.pooling == "top":
        # chips are valid nearly everywhere: one count serves the batch
        highest = max(1, round(settings.top_share * flat.shape[-1]))
        top = flat.masked_fill(~known, -30.0).topk(highest, dim=-1).values
        kept = torch.arange(highest, device=flat.device) < (settings.top_share * count)[..., None].clamp(min=1)
        return (top * kept).sum(-1) / kept.sum(-1)
    if settings.pooling == "lse":
        sharp = (settings.sharpness * flat).masked_fill(~known, -torch.inf)
        return (torch.logsumexp(sharp, -1) - count.log()) / settings.sharpness
    raised = torch.sigmoid(flat) ** settings.sharpness * known
    mean = (raised.sum(-1) / count).clamp(min=1e-12) ** (1 / settings.sharpness)
    return torch.logit(mean, eps=1e-6)
