"""How much is merged and written at once shows in the memory a job takes, never in its layers."""

from __future__ import annotations

import pytest

from geoslave.region.run import Choice, run_region
from tests.chaos import layers
from tests.region.conftest import MakeRegion


def test_layers_do_not_depend_on_how_much_is_in_memory_at_once(
    make_region: MakeRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = make_region(block=64)
    run_region(region, Choice(workers=0))
    whole = layers(region)
    assert len(whole["detections.geojson"].splitlines()) > 15
    for together in (1, 7):
        monkeypatch.setattr("geoslave.region.merge._TOGETHER", together)
        monkeypatch.setattr("geoslave.detections.export._TURNED_TOGETHER", together)
        assert layers(region) == whole
