"""The head that teaches the encoder about weak chips: it teaches, it survives a break, and it is gone in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from geoslave.errors import ModelError  # noqa: E402
from geoslave.model.chip_head import add_chip_head  # noqa: E402
from geoslave.model.network import GridNetwork  # noqa: E402
from geoslave.model.recipe import TrainConfig  # noqa: E402
from geoslave.model.train import Progress, train  # noqa: E402


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """Noise with answers: enough to take steps on."""
    np.savez(tmp_path / "weak.npz", x=np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8))
    pd.DataFrame({"label": [0, 1] * 4, "gallery": ["a"] * 8}).to_csv(tmp_path / "weak.csv", index=False)
    return {
        "name": "small",
        "architecture": {"encoder": "tu-regnetx_002", "encoder_depth": 3, "decoder_channels": [16, 8], "upsample": 2},
        "rendered": {"count": 0},
        "weak_chips": [{"chips": str(tmp_path / "weak.npz"), "table": str(tmp_path / "weak.csv")}],
        "weak": {"encoder_weight": 0.5},
        "batch": 4,
        "chip": 32,
        "warm_up": 2,
        "steps": 5,
        "threads": 1,
        "workers": 0,
        "checkpoint_every": 2,
    }


def _weights(recipe: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    return train(TrainConfig.model_validate(recipe), folder).network.state_dict()


def test_it_moves_the_encoder_and_is_not_in_what_is_trained(recipe: dict[str, Any]) -> None:
    taught, untaught = _weights(recipe), _weights({**recipe, "weak": {}})
    assert taught.keys() == untaught.keys()
    first = next(name for name, tensor in taught.items() if tensor.ndim == 4)
    assert not torch.equal(taught[first], untaught[first])


def test_a_training_with_it_goes_on_where_it_was_broken_off(recipe: dict[str, Any], tmp_path: Path) -> None:
    def break_off(now: Progress) -> None:
        if now.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig.model_validate(recipe), tmp_path / "run", on_step=break_off)
    resumed, undisturbed = _weights(recipe, tmp_path / "run"), _weights(recipe)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in undisturbed.items())


def test_a_network_without_an_encoder_is_refused() -> None:
    with pytest.raises(ModelError, match="encoder_weight"):
        add_chip_head(GridNetwork(torch.nn.Conv2d(3, 1, 1), 1, 1), 1)
