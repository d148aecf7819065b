"""Checkpoints: all that a training needs to go on as if nothing had happened. No pickle.

One safetensors file, replaced as a whole: tensors under `network.`, `average.`, `best.`,
`optimizer.` and a few more, and in its header a JSON object with the step, the figures so far, the
digest of the recipe and a SHA-256 of the tensors. Chips need no state: they follow from the seed and the step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from geoslave.errors import ModelError
from geoslave.files import atomic_file
from geoslave.model.network import GridNetwork

FORMAT = 1
NAME = "checkpoint.safetensors"
_AGAIN = "begin anew with --restart"


@dataclass(slots=True)
class TrainState:
    """A training under way."""

    network: GridNetwork
    average: GridNetwork
    """Averaged weights (EMA)."""
    optimizer: torch.optim.Optimizer
    started_from: str | None = None
    """What its first weights had learned from before; None: they were fresh."""
    step: int = 0
    """Steps done."""
    losses: list[float] = field(default_factory=list)
    """Of each step done."""
    looks: list[dict[str, float | None]] = field(default_factory=list)
    """What each validation gave: step and figures."""
    best: dict[str, Tensor] | None = None
    """The averaged weights at the best look."""
    best_figure: float | None = None
    stale: int = 0
    """Looks since then."""
    weight: NDArray[np.float64] | None = None
    """Of the backgrounds, once they have been mined."""
    seconds: float = 0.0
    stopped: bool = False
    """It stopped before its last step, because looks gave nothing better."""


def save_checkpoint(path: Path, state: TrainState, digest: str) -> None:
    """Write a training's state; the file is whole or the old one.

    Raises:
        OutputError: if the disk refuses.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(state).items()}
    facts = {
        "format": FORMAT,
        "digest": digest,
        "sha256": _hash(tensors),
        "started_from": state.started_from,
        "step": state.step,
        "losses": state.losses,
        "looks": state.looks,
        "best_figure": state.best_figure,
        "stale": state.stale,
        "seconds": state.seconds,
        "stopped": state.stopped,
    }
    with atomic_file(path, overwrite=True) as draft:
        save_file(tensors, draft, metadata={"geoslave": json.dumps(facts)})


def load_checkpoint(path: Path, state: TrainState, digest: str) -> None:
    """Bring a fresh state to where a checkpoint was written.

    Raises:
        ModelError: if the file is damaged, or belongs to another recipe.
    """
    facts, tensors = _read(path)
    if facts["format"] != FORMAT:
        raise ModelError(f"{path} was written by another version of geoslave: {_AGAIN}")
    if facts["digest"] != digest:
        raise ModelError(
            f"{path} belongs to another configuration (something was changed since it was written): change it back, "
            f"choose another --out, or {_AGAIN}"
        )
    try:
        state.network.load_state_dict(_part(tensors, "network."))
        state.average.load_state_dict(_part(tensors, "average."))
        _restore_optimizer(state.optimizer, _part(tensors, "optimizer."))
    except (RuntimeError, KeyError, ValueError) as error:
        raise ModelError(f"{path} does not fit the network ({str(error).splitlines()[0]}): {_AGAIN}") from error
    torch.set_rng_state(tensors["rng.torch"])
    state.best = _part(tensors, "best.") or None
    state.weight = tensors["pool.weight"].numpy() if "pool.weight" in tensors else None
    state.started_from = facts.get("started_from")
    state.step, state.losses, state.looks = facts["step"], facts["losses"], facts["looks"]
    state.best_figure, state.stale = facts["best_figure"], facts["stale"]
    state.seconds, state.stopped = facts["seconds"], facts["stopped"]


def _tensors(state: TrainState) -> dict[str, Tensor]:
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in (state.best or {}).items()}
    for number, memory in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in memory.items()}
    tensors["rng.torch"] = torch.get_rng_state()
    if state.weight is not None:
        tensors["pool.weight"] = torch.from_numpy(state.weight)
    return tensors


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Moments and step counts of every parameter, laid out in memory as the parameter is."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    memories: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, what = name.partition(".")
        parameter = parameters[int(number)]
        if tensor.shape == parameter.shape and what != "step":
            tensor = torch.empty_like(parameter).copy_(tensor)
        memories.setdefault(int(number), {})[what] = tensor
    current = optimizer.state_dict()
    optimizer.load_state_dict({"state": memories, "param_groups": current["param_groups"]})


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["geoslave"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if facts["sha256"] != _hash(tensors):
            raise ValueError("its content does not match its hash")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged ({error}): {_AGAIN}") from error
    return facts, tensors


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def steps_done(path: Path) -> int:
    """The step after which a checkpoint was written.

    Raises:
        ModelError: if the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return int(json.loads(file.metadata()["geoslave"])["step"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged ({error}): {_AGAIN}") from error
