"""Training: one plain loop.

    load data -> draw a batch -> loss -> step -> average -> now and then look at what was put aside
                                                         -> now and then write a checkpoint

The recipe is in `recipe`, the data in `trainingdata`, drawing in `sampling` and `drawing`, the loss in `losses`, what
is put aside in `validation`, what survives a crash in `checkpoint`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoslave.errors import ModelError
from geoslave.model import checkpoint as checkpoints
from geoslave.model.augment import narrowest
from geoslave.model.checkpoint import TrainState, load_checkpoint, save_checkpoint
from geoslave.model.chip_head import add_chip_head, remove_chip_head
from geoslave.model.chip_pools import ChipPool, even_weights
from geoslave.model.drawing import drawn_ahead
from geoslave.model.losses import batch_loss
from geoslave.model.network import GridNetwork, build_network, recentre, take_weights
from geoslave.model.package import open_package
from geoslave.model.recipe import TrainConfig
from geoslave.model.sampling import Batch
from geoslave.model.training_log import training_log
from geoslave.model.trainingdata import TrainingData, load_data
from geoslave.model.validation import logits_of, validate, watched


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands."""

    step: int
    steps: int
    loss: float
    figures: Mapping[str, float | None] | None
    """Of the last look at what was put aside."""


OnStep = Callable[[Progress], None]
Tell = Callable[[str], None]
"""Takes a line that is worth knowing."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A trained network and how it went."""

    network: GridNetwork
    """Averaged weights (EMA), those of the best look if there was one; in evaluation mode, on the processor."""
    config: TrainConfig
    losses: tuple[float, ...]
    """Of each step."""
    looks: tuple[Mapping[str, float | None], ...]
    """Steps at which was looked at what was put aside, with the figures."""
    best: float | None
    """The best of the watched figure."""
    seconds: float
    n_sites: int
    n_scenes: int
    n_backgrounds: int
    n_weak: int
    started_from: str | None
    """What the first weights had learned from before training: "ImageNet", or a model; None: they were fresh."""
    data: TrainingData
    """What it was trained and validated on."""


def train(
    config: TrainConfig,
    folder: Path | None = None,
    *,
    restart: bool = False,
    on_step: OnStep | None = None,
    tell: Tell = lambda line: None,
) -> TrainResult:
    """Train a network as the recipe says.

    Args:
        folder: where checkpoints and logs go; a training that was broken off there is taken up again.
            None: nothing is written.
        restart: begin anew although there is a checkpoint.
        on_step: called after each step.
        tell: called with lines for a person.

    Raises:
        GeoslaveError: if data is missing, the checkpoint cannot be used, memory does not suffice or the
            loss is no longer a number.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    data = load_data(config)
    mine_at = {round(share * config.steps) for share in config.mine_at} if data.backgrounds is not None else set()
    # processes that draw are forked here, before anything touches an accelerator
    saved = _saved(folder, restart)
    start = checkpoints.steps_done(saved) if saved else 0
    with drawn_ahead(data, config, start, sorted(mine_at), in_turns=device.type == "cpu") as draw:
        state = _begin(config, device, saved, tell)
        follow = _Follower(state.average, state.network)
        if state.weight is not None:
            draw.reweigh(state.weight)
        began = time.monotonic() - state.seconds
        with training_log(folder, state.step) as log:
            for step in range(state.step, config.steps):
                if state.stopped:
                    break
                if step in mine_at and data.backgrounds is not None:
                    with _memory_suffices(config, step):
                        state.weight = _mined(state.average, data.backgrounds, step, config, device)
                    draw.reweigh(state.weight)
                rate = config.learning_rate * _schedule(step, config)
                with _memory_suffices(config, step):
                    figures = _step(state, draw(step), rate, config, device)
                _refuse_no_number(figures["loss"], step, config)
                follow(min(config.ema, (1 + step) / (10 + step)))
                state.step, state.seconds = step + 1, time.monotonic() - began
                state.losses.append(figures["loss"])
                seen: dict[str, float | None] = {}
                if _time_to_look(state.step, data, config):
                    with _memory_suffices(config, step):
                        seen = _look(state, data, config, device, tell)
                log.write(state.step, {**figures, **seen, "learning_rate": rate, "seconds": state.seconds})
                if folder is not None and _time_to_save(state, config):
                    save_checkpoint(folder / checkpoints.NAME, state, config.digest())
                if on_step is not None:
                    on_step(
                        Progress(state.step, config.steps, figures["loss"], state.looks[-1] if state.looks else None)
                    )
    return _result(state, data, config)


def choose_device(asked: str) -> torch.device:
    """The device to train on.

    Raises:
        ModelError: if there is no accelerator although one was asked for.
    """
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise ModelError("device: cuda was asked for, but torch finds no GPU: set 'device: auto' or 'cpu'")
    return torch.device("cuda" if there and asked != "cpu" else "cpu")


# --- begin and end -------------------------------------------------------------------------------


def _saved(folder: Path | None, restart: bool) -> Path | None:
    """The checkpoint to go on from."""
    if folder is None:
        return None
    path = folder / checkpoints.NAME
    return path if path.is_file() and not restart else None


def _begin(config: TrainConfig, device: torch.device, saved: Path | None, tell: Tell) -> TrainState:
    """A training at its first step, or where the checkpoint was written."""
    torch.manual_seed(config.seed)
    network, started_from = _first_network(config, saved is not None, tell)
    if config.weak.encoder_weight:
        add_chip_head(network, len(config.class_names))
    network = network.to(device, memory_format=torch.channels_last).train()
    average = copy.deepcopy(network).eval()
    # one pass over the weights; on the processor since torch 2.4
    fused = device.type == "cuda" or torch.__version__ >= "2.4"
    groups = _weight_groups(network, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)
    state = TrainState(network, average, optimizer, started_from)
    if saved is not None:
        load_checkpoint(saved, state, config.digest())
        tell(f"goes on after step {state.step} of {config.steps} ({saved}); --restart begins anew")
    return state


def _first_network(config: TrainConfig, resumed: bool, tell: Tell) -> tuple[GridNetwork, str | None]:
    """Fresh weights, or fetched ones, or those of a package; and what they had learned from."""
    n_bands, n_classes = len(config.bands), len(config.class_names)
    if config.pretrained and not resumed:
        try:
            return build_network(config.architecture, n_bands, n_classes, config.pretrained), "ImageNet"
        except Exception as error:  # every library that fetches has exceptions of its own
            reason = " ".join(str(error).split())[:120]
            tell(f"weights of {config.pretrained} cannot be fetched ({reason}): training from scratch")
            torch.manual_seed(config.seed)
    network = build_network(config.architecture, n_bands, n_classes)
    if not config.start_from or resumed:
        return network, None
    package = open_package(config.start_from)
    for line in take_weights(network, package, config.architecture, config.bands, config.class_names):
        tell(line)
    return network, f"{package.spec.name} {package.spec.version}"


def _result(state: TrainState, data: TrainingData, config: TrainConfig) -> TrainResult:
    if state.best is not None:
        state.average.load_state_dict(state.best)
    network = state.average.cpu()
    remove_chip_head(network)
    recentre(network, config.recentre.score, config.recentre.softness)
    return TrainResult(
        network=network,
        config=config,
        losses=tuple(state.losses),
        looks=tuple(state.looks),
        best=state.best_figure,
        seconds=state.seconds,
        n_sites=sum(len(scene.sites) for scene in data.scenes),
        n_scenes=len(data.scenes),
        n_backgrounds=0 if data.backgrounds is None else len(data.backgrounds.chips),
        n_weak=sum(len(pool.chips) for pool in data.weak),
        started_from=state.started_from,
        data=data,
    )


@contextmanager
def _memory_suffices(config: TrainConfig, step: int) -> Iterator[None]:
    """Say which setting to change when memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_about_memory(error):
            raise
        raise ModelError(
            f"out of memory in step {step} with batches of {config.batch} chips of {config.chip} pixels: "
            f"set 'batch: {max(1, config.batch // 2)}' and 'accumulate: {2 * config.accumulate}' (the same steps, half "
            "the memory), or a smaller 'chip'"
        ) from error


def _is_about_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = str(error).lower()
    return "not enough memory" in words or "can't allocate memory" in words or "out of memory" in words


def _refuse_no_number(loss: float, step: int, config: TrainConfig) -> None:
    if not np.isfinite(loss):
        raise ModelError(f"the loss is {loss} in step {step}: lower learning_rate (now {config.learning_rate})")


# --- the step ------------------------------------------------------------------------------------


def _step(state: TrainState, batch: Batch, rate: float, config: TrainConfig, device: torch.device) -> dict[str, float]:
    """One step of the optimizer over `accumulate` batches; returns the loss and its parts."""
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    sums = torch.zeros(3)
    for start in range(0, len(batch.imagery), config.batch):
        part = slice(start, start + config.batch)
        imagery, truth, valid, weak = (
            torch.from_numpy(layer[part]).to(device) for layer in (batch.imagery, batch.truth, batch.valid, batch.weak)
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits = state.network(imagery.contiguous(memory_format=torch.channels_last))
        loss = batch_loss(logits.float(), truth, valid, weak, config, state.network.chip_head)
        (loss.total / config.accumulate).backward()
        sums += torch.stack([loss.total, loss.pixels, loss.chips]).detach().cpu() / config.accumulate
    nn.utils.clip_grad_norm_([p for group in state.optimizer.param_groups for p in group["params"]], 5.0)
    state.optimizer.step()
    return dict(zip(("loss", "loss_pixels", "loss_chips"), sums.tolist(), strict=True))


def _weight_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Decay for matrices, none for biases and norms."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _schedule(step: int, config: TrainConfig) -> float:
    """Warm-up, then a cosine down to 1 %."""
    if step < config.warm_up:
        return (step + 1) / config.warm_up
    done = (step - config.warm_up) / max(1, config.steps - config.warm_up)
    return float(0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * done)))


class _Follower:
    """Moves averaged weights and norm statistics toward a network's."""

    def __init__(self, average: nn.Module, network: nn.Module) -> None:
        # gathered once: walking through the modules would cost as much as the averaging
        pairs = list(zip(_tensors(average), _tensors(network), strict=True))
        floating = [pair for pair in pairs if pair[0].dtype.is_floating_point]
        self._ours, self._theirs = [ours for ours, _ in floating], [theirs for _, theirs in floating]
        self._counters = [pair for pair in pairs if not pair[0].dtype.is_floating_point]

    @torch.no_grad()
    def __call__(self, keep: float) -> None:
        torch._foreach_lerp_(self._ours, self._theirs, 1 - keep)
        for ours, theirs in self._counters:
            ours.copy_(theirs)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Weights and statistics in an order that a copy of the module has too."""
    yield from module.parameters()
    yield from module.buffers()


# --- now and then --------------------------------------------------------------------------------


def _time_to_look(done: int, data: TrainingData, config: TrainConfig) -> bool:
    there = bool(data.validation.scenes or data.validation.weak)
    return there and (done % config.validation.every == 0 or done == config.steps)


def _time_to_save(state: TrainState, config: TrainConfig) -> bool:
    return state.step % config.checkpoint_every == 0 or state.step == config.steps or state.stopped


def _look(
    state: TrainState, data: TrainingData, config: TrainConfig, device: torch.device, tell: Tell
) -> dict[str, float | None]:
    """Measure the averaged network on what was put aside, keep it if it is the best, stop if it long was not."""
    figures = validate(state.average, data.validation, config, device).to_dict()
    state.looks.append({"step": state.step, **figures})
    name = watched(config, data.validation)
    value = figures[name] or 0.0
    better = state.best_figure is None or value > state.best_figure
    if better:
        state.best_figure, state.stale = value, 0
        state.best = {key: tensor.detach().cpu().clone() for key, tensor in state.average.state_dict().items()}
    else:
        state.stale += 1
    tell(f"step {state.step}: {name} {value:.3f}{', the best so far' if better else ''}")
    if config.validation.patience and state.stale >= config.validation.patience:
        state.stopped = True
        tell(
            f"stopped after step {state.step}: {state.stale} looks without a better {name} than {state.best_figure:.3f}"
        )
    return figures


def _mined(
    network: nn.Module, pool: ChipPool, step: int, config: TrainConfig, device: torch.device
) -> NDArray[np.float64]:
    """Weights of backgrounds: the higher the network scores one (as a tiny scene), the more often it is drawn."""
    scaling = config.scaling
    rng = np.random.default_rng([config.seed, step, 1])
    chosen = rng.permutation(len(pool.chips))[: config.mine_count]
    worst = []
    for start in range(0, len(chosen), 128):
        chips = pool.chips[chosen[start : start + 128]].astype(np.float32).transpose(0, 3, 1, 2) / 255
        low, high = np.percentile(chips, scaling.percentiles, axis=(2, 3), keepdims=True)
        scaled = 2 * (chips - low) / np.maximum(high - low, narrowest(scaling, config.augmentation)) - 1
        imagery = np.clip(scaled, *scaling.clip).astype(np.float32)
        logits: Tensor = logits_of(network, imagery, config, device)
        worst.append(torch.sigmoid(logits).amax((1, 2, 3)).numpy())
    score = np.zeros(len(pool.chips))
    score[chosen] = np.concatenate(worst)
    # half of the draws stay even over the groups, so that nothing is forgotten and no odd chip rules
    return np.asarray(0.5 * even_weights(pool) + 0.5 * score / max(float(score.sum()), 1e-9))
