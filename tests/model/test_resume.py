"""A training that is broken off goes on to the same weights."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch")
from safetensors.torch import load_file  # noqa: E402

from geoslave.errors import ModelError  # noqa: E402
from geoslave.model.checkpoint import NAME  # noqa: E402
from geoslave.model.drawing import drawn_ahead  # noqa: E402
from geoslave.model.recipe import TrainConfig  # noqa: E402
from geoslave.model.train import TrainResult, train  # noqa: E402
from geoslave.model.training_log import read_log  # noqa: E402
from geoslave.model.trainingdata import load_data  # noqa: E402

SMALL: dict[str, Any] = {
    "name": "small",
    "architecture": {"encoder": "tu-regnetx_002", "encoder_depth": 3, "decoder_channels": [16, 8], "upsample": 2},
    "rendered": {"count": 1, "size": 64, "sites": 2, "lookalikes": 1},
    "batch": 3,
    "chip": 32,
    "warm_up": 2,
    "threads": 1,
    "checkpoint_every": 2,
}

PROGRAM = """
import sys, time
from pathlib import Path
from geoslave.model.recipe import load_config
from geoslave.model.train import train
folder, pause = Path(sys.argv[1]), float(sys.argv[2])
train(load_config(folder / "recipe.yaml"), folder, on_step=lambda now: time.sleep(pause))
"""


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """Backgrounds that are mined in the middle, so that their weights must survive too."""
    np.savez(tmp_path / "chips.npz", x=np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8))
    (tmp_path / "chips.csv").write_text("gallery\n" + "a\nb\n" * 4)
    pool = {"chips": str(tmp_path / "chips.npz"), "table": str(tmp_path / "chips.csv")}
    return {**SMALL, "steps": 12, "backgrounds": [pool], "mine_at": [0.25]}


def _start(folder: Path, recipe: dict[str, Any], pause: float) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), str(pause)])


def _step_of(path: Path) -> int:
    """The step in a checkpoint's header."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return int(json.loads(header["__metadata__"]["geoslave"])["step"])


def test_killed_and_run_again_gives_the_same_weights(tmp_path: Path, recipe: dict[str, Any]) -> None:
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    config = TrainConfig.model_validate(recipe)
    process = _start(killed, recipe, 0.25)
    whole = train(config, undisturbed)
    while _step_of(killed / NAME) < 4 and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 4 <= _step_of(killed / NAME) < 12

    told: list[str] = []
    again = train(config, killed, tell=told.append)
    assert "goes on after step" in told[0]
    assert _bytes(again) == _bytes(whole)
    assert again.losses == whole.losses
    assert [row["step"] for row in read_log(killed)] == [str(k) for k in range(1, 13)]
    assert [row["loss"] for row in read_log(killed)] == [row["loss"] for row in read_log(undisturbed)]


def _bytes(result: TrainResult) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in result.network.state_dict().items()}


def test_who_draws_and_when_does_not_matter(recipe: dict[str, Any]) -> None:
    losses = [train(TrainConfig.model_validate({**recipe, "steps": 6, "workers": n})).losses for n in (0, 1, 3)]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads draw")
def test_who_draws_ends_without_a_word(recipe: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    def stop(_number: int, _frame: object) -> None:  # as the command does
        raise KeyboardInterrupt

    config = TrainConfig.model_validate({**recipe, "workers": 2})
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with drawn_ahead(load_data(config), config, in_turns=True) as draw:
            draw(0)
            drawing = multiprocessing.active_children()
            for process in drawing:
                process.terminate()
                process.join(20)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [process.exitcode for process in drawing] == 2 * [-signal.SIGTERM]
    assert capfd.readouterr().err == ""


def test_a_checkpoint_that_cannot_be_used_is_refused(tmp_path: Path, recipe: dict[str, Any]) -> None:
    config = TrainConfig.model_validate({**recipe, "steps": 2})
    first = train(config, tmp_path)
    with pytest.raises(ModelError, match=r"another configuration.*--restart"):
        train(config.model_copy(update={"seed": 1}), tmp_path)
    again = train(config.model_copy(update={"seed": 1}), tmp_path, restart=True)
    assert again.losses != first.losses

    path = tmp_path / NAME
    content = bytearray(path.read_bytes())
    content[-5] ^= 255  # one bit of a weight: the file still opens
    for damaged in (bytes(content), bytes(content[:1000]), b"", b"no checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"damaged.*--restart"):
            train(config, tmp_path)
        assert path.read_bytes() == damaged
    assert train(config, tmp_path, restart=True).losses == first.losses


def test_a_finished_training_is_not_done_again(tmp_path: Path, recipe: dict[str, Any]) -> None:
    config = TrainConfig.model_validate({**recipe, "steps": 2})
    first = train(config, tmp_path)
    steps: list[int] = []
    again = train(config, tmp_path, on_step=lambda now: steps.append(now.step))
    assert steps == []
    ours, theirs = first.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_weights_are_kept_without_pickle(tmp_path: Path, recipe: dict[str, Any]) -> None:
    train(TrainConfig.model_validate({**recipe, "steps": 2}), tmp_path)
    tensors = load_file(tmp_path / NAME)
    assert {name.split(".")[0] for name in tensors} >= {"network", "average", "optimizer", "rng"}
