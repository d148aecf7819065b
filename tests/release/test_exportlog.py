"""The log of what left: several writers, and every way to tamper with a line."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoslave.errors import GeoslaveError
from geoslave.release.exportlog import append, read


def test_exports_at_once_write_one_line_each(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(lambda i: append(log, {"release_id": str(i)}), range(20)))
    entries = read(log)
    assert {entry["hash"] for entry in entries} == set(hashes) and len(entries) == 20


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_changed_character_is_seen(tmp_path: Path, data: st.DataObject) -> None:
    log = tmp_path / "log.jsonl"
    log.unlink(missing_ok=True)
    for name in ("Labour Dept", "Kiln Watch"):
        append(log, {"recipient": name})
    text = log.read_text()
    place = data.draw(st.integers(0, len(text) - 2))
    other = data.draw(st.sampled_from("abcxyz0189{}").filter(lambda c: c != text[place]))
    log.write_text(text[:place] + other + text[place + 1 :])
    with pytest.raises(GeoslaveError, match=r"line|cut off"):
        read(log)


def test_a_line_that_was_cut_off_stops_further_exports(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    append(log, {"release_id": "a"})
    log.write_bytes(log.read_bytes()[:-9])
    with pytest.raises(GeoslaveError, match="cut off"):
        append(log, {"release_id": "b"})
