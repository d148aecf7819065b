"""Figures on disk lead back to what they were made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from geoslave import __version__
from geoslave.errors import EstimateError, OutputError
from geoslave.estimate.count import count_by, count_sites
from geoslave.estimate.record import Input, count_record, origin, read_record, write_record
from geoslave.estimate.reviewed import take_sample
from tests.estimate.tables import strata


def test_a_count_keeps_its_sample_and_its_files(tmp_path: Path) -> None:
    frame, reviews = strata((50, 20, 5), (500, 30, 1))
    (tmp_path / "frame.csv").write_text("a table")
    told = origin([Input("frame", tmp_path / "frame.csv", {"model_id": "m"})], method="gamma", seed=3, level=None)
    by = {"stratum": count_by(frame, reviews, "stratum")}
    total = count_sites(frame, reviews)
    write_record(tmp_path / "c.json", count_record(total, by, {}, take_sample(frame, reviews)[1], told))
    read = read_record(tmp_path / "c.json")
    assert read["total"]["value"] == total.value and read["by"]["stratum"]["s0"]["low"] >= 5
    assert read["sample"]["strata"][0] == {"name": "s0", "tiles": 50, "reviewed": 20, "with_sites": 5}
    assert read["provenance"]["geoslave_version"] == __version__ and "level" not in read["provenance"]
    (one,) = read["provenance"]["inputs"]
    assert one["sha256"] == hashlib.sha256(b"a table").hexdigest()
    assert one["file"] == "frame.csv" and str(tmp_path) not in json.dumps(read)


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for text, said in (("{", "no JSON"), ('{"kind": "cake"}', "no figures"), ("[1]", "no figures")):
        path.write_text(text)
        with pytest.raises(EstimateError, match=said):
            read_record(path)
    with pytest.raises(EstimateError, match="cannot be read"):
        read_record(tmp_path / "absent.json")
    with pytest.raises(OutputError, match="exists"):
        write_record(path, {})


def test_an_end_that_is_not_finite_is_null_on_disk() -> None:
    from geoslave.estimate.result import Estimate

    told = Estimate(float("inf"), 0.0, float("inf"), 0.95, "gamma", 3).to_dict()
    assert told["value"] is None and told["high"] is None and told["low"] == 0.0
