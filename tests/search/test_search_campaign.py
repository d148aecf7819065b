"""A campaign goes on after any crash, tells contradictions, and refuses examples that say nothing."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

from geoslave.errors import OutputError
from geoslave.search import SearchError
from geoslave.search.campaign import (
    Campaign,
    list_campaigns,
    locate_examples,
    open_campaign,
    start_campaign,
)
from geoslave.search.embedder import open_embedder
from geoslave.search.index import ChipIndex, Settings, build_index, open_index, scenes_ground
from geoslave.search.labels import Marks
from geoslave.targets import get_target, read_target
from tests.factories import dark_field, with_kilns
from tests.search.test_search_embedder import write_vector_model

KILNS = [(20, 30), (70, 90), (100, 20), (130, 130), (40, 150), (150, 60), (10, 100), (90, 150)]


@pytest.fixture
def index(tmp_path: Path, make_scene: Callable[..., Path]) -> ChipIndex:
    """Eight bright kilns on 100 chips, the right edge without data."""
    pixels = with_kilns(dark_field((160, 176)), KILNS)
    pixels[:, :, 165:] = 0
    scene = make_scene(pixels, nodata=0)
    embedder = open_embedder(write_vector_model(tmp_path / "means"), threads=1)
    build_index(scenes_ground([scene]), tmp_path / "index", embedder, Settings(chip_px=24, core_px=16, min_valid=0.5))
    return open_index(tmp_path / "index")


def places(*pixels: tuple[float, float], crs: object = 4326) -> gpd.GeoDataFrame:
    """Points at (row, column) of the scene."""
    points = [shapely.Point(500_000 + 10 * col, 2_650_000 - 10 * row) for row, col in pixels]
    return gpd.GeoDataFrame(geometry=points, crs=32645).to_crs(crs)


def middle(kiln: tuple[int, int]) -> tuple[float, float]:
    return kiln[0] + 2.5, kiln[1] + 5


def truth(index: ChipIndex) -> set[str]:
    at = index.chips.sindex.query(places(*map(middle, KILNS)).geometry)[1]
    return set(index.chips["chip_id"].iloc[at])


def answer_all(campaign: Campaign, sites: set[str]) -> None:
    for chip in campaign.page().open:
        campaign.answer(chip, "yes" if chip in sites else "no")


def test_from_one_example_the_sites_are_found(index: ChipIndex) -> None:
    campaign = start_campaign(index, "kilns", places(middle(KILNS[0])), page_size=10)
    sites = truth(index)
    for _ in range(4):
        answer_all(campaign, sites)
    told = campaign.standing()
    assert told.clicks == 40
    assert told.found >= 0.7 * len(sites)
    assert told.remaining.low <= len(sites) - told.found <= told.remaining.high
    assert told.pages == 4
    assert str(told.found) in told.advice.words
    assert set(campaign.labels()["answer"]) == {"yes", "no"}


def test_a_page_stays_until_it_is_answered_and_survives_a_crash(index: ChipIndex) -> None:
    campaign = start_campaign(index, "kilns", places(middle(KILNS[0])), page_size=6)
    first = campaign.page()
    campaign.answer(first.chip_ids[0], "no", reviewer="anna")
    path = campaign.folder / "answers.jsonl"
    with path.open("ab") as file:
        file.write(b'{"chip_id": "cut by a cra')
    again = open_campaign(index, "kilns")
    assert again.page().chip_ids == first.chip_ids
    assert again.page().answered[0] == "no"
    again.answer(first.chip_ids[1], "yes")
    last = open_campaign(index, "kilns")
    assert last.known()[first.chip_ids[1]] == "yes"
    assert last.standing().clicks == 2
    assert list_campaigns(index) == ["kilns"]


def test_the_same_answers_give_the_same_pages(index: ChipIndex) -> None:
    sites = truth(index)
    pages = []
    for name in ("one", "other"):
        campaign = start_campaign(index, name, places(middle(KILNS[0])), page_size=8, seed=3)
        answer_all(campaign, sites)
        pages.append(campaign.page().chip_ids)
    assert pages[0] == pages[1]


def test_contradictions_are_told_and_the_later_answer_counts(index: ChipIndex) -> None:
    campaign = start_campaign(index, "kilns", places(middle(KILNS[0])), page_size=5)
    chip = campaign.page().chip_ids[0]
    campaign.answer(chip, "yes")
    campaign.answer(chip, "no")
    campaign.answer(chip, "unsure")
    told = campaign.standing().contradictions
    assert [(one.chip_id, one.answers) for one in told] == [(chip, ("yes", "no", "unsure"))]
    assert campaign.known()[chip] == "unsure"
    assert chip not in set(campaign.ranking()["chip_id"])


def test_an_answer_corrected_later_counts_as_if_it_had_been_right_at_once(index: ChipIndex) -> None:
    sites = truth(index)
    told = []
    for slip in (False, True):
        # of pages drawn at random alone the answers change nothing
        campaign = start_campaign(index, f"slip-{slip}", places(middle(KILNS[0])), page_size=12, audit_share=1, seed=2)
        wrong = next(chip for chip in campaign.page().open if chip not in sites)
        answer_all(campaign, sites | {wrong} if slip else sites)
        answer_all(campaign, sites)
        if slip:
            campaign.answer(wrong, "no")
        told.append(campaign.standing().remaining)
    assert told[0] == told[1]


def test_a_disk_that_refuses_an_answer_keeps_nothing_of_it(index: ChipIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = start_campaign(index, "kilns", places(middle(KILNS[0])), page_size=6)
    before, chip = (campaign.folder / "answers.jsonl").read_bytes(), campaign.page().chip_ids[0]

    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        campaign.answer(chip, "yes")
    monkeypatch.undo()
    assert (campaign.folder / "answers.jsonl").read_bytes() == before
    assert chip not in campaign.known()


def test_killed_while_it_begins_a_campaign_begins_anew_with_its_examples(
    index: ChipIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    kiln, other = places(middle(KILNS[0])), places(middle(KILNS[1]))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("geoslave.search.campaign.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        start_campaign(index, "kilns", other, target=get_target("mine"))
    monkeypatch.undo()
    assert list_campaigns(index) == []
    campaign = start_campaign(index, "kilns", kiln, target=get_target("brick_kiln"))
    assert campaign.standing().examples == 1
    (marked,) = Marks(campaign.folder).current().values()
    assert marked[0].distance(kiln.geometry.iloc[0]) < 1e-9
    assert read_target(campaign.folder / "target.yaml").name == campaign.settings["target"] == "brick_kiln"


def test_chips_the_ranking_chose_have_no_chance_written_beside_them(index: ChipIndex) -> None:
    campaign = start_campaign(index, "kilns", places(middle(KILNS[0])), page_size=10)
    page = campaign.page()
    for chip in page.chip_ids:
        campaign.answer(chip, "no")
    lines = [json.loads(line) for line in (campaign.folder / "answers.jsonl").read_text().splitlines()]
    chances = {line["how"]: line["audit_probability"] for line in lines}
    assert chances == {"example": None, "likely": None, "uncertain": None, "audit": 1 / (len(index) - 1)}


def test_pages_are_half_random_once_likely_chips_bring_nothing(index: ChipIndex) -> None:
    def audited(campaign: Campaign, pages: int) -> list[int]:
        told = []
        for _ in range(pages):
            page = campaign.page()
            told.append(page.how.count("audit"))
            for chip in page.chip_ids:
                campaign.answer(chip, "no")
        return told

    assert audited(start_campaign(index, "by-itself", places(middle(KILNS[0])), page_size=20), 3) == [2, 10, 10]
    fixed = start_campaign(index, "fixed", places(middle(KILNS[0])), page_size=20, audit_share=0.2)
    assert audited(fixed, 2) == [4, 4]
    assert audited(open_campaign(index, "fixed"), 1) == [4]


def test_half_a_page_has_no_part_in_the_estimate(index: ChipIndex) -> None:
    campaign = start_campaign(index, "kilns", places(middle(KILNS[0])), page_size=10, audit_share=0.5)
    page = campaign.page()
    for chip in page.chip_ids[:-1]:
        campaign.answer(chip, "no")
    assert campaign.standing().remaining.audited == 0
    campaign.answer(page.chip_ids[-1], "no")
    assert campaign.standing().remaining.audited == 5


def test_every_chip_is_shown_in_the_end(index: ChipIndex) -> None:
    campaign = start_campaign(index, "kilns", places(middle(KILNS[0])), page_size=60)
    sites = truth(index)
    for _ in range(-(-(len(index) - 1) // 60)):
        answer_all(campaign, sites)
    told = campaign.standing()
    assert (told.found, told.remaining.high) == (len(sites), 0)
    assert not told.advice.go_on
    with pytest.raises(SearchError, match="every chip was looked at"):
        campaign.page()


def test_an_index_made_anew_keeps_the_answers(index: ChipIndex, tmp_path: Path) -> None:
    campaign = start_campaign(index, "kilns", places(middle(KILNS[0])), page_size=6)
    answer_all(campaign, truth(index))
    before = campaign.standing()
    scene = index.facts["scenes"][0]["input"]["path"]
    model = write_vector_model(tmp_path / "other")
    (model / "embedder.json").write_text((model / "embedder.json").read_text().replace("means", "others"))
    build_index(scenes_ground([scene]), index.folder, open_embedder(model, threads=1), index.settings, overwrite=True)
    after = open_campaign(open_index(index.folder), "kilns").standing()
    assert (after.clicks, after.found, after.remaining) == (before.clicks, before.found, before.remaining)


def test_examples_in_any_crs_and_shape_are_found(index: ChipIndex) -> None:
    one = locate_examples(index, places(middle(KILNS[0])))
    assert one.rows.tolist() == locate_examples(index, places(middle(KILNS[0]), crs=3857)).rows.tolist()
    outline = places(middle(KILNS[0]), crs=32645)
    outline.geometry = outline.buffer(20)
    assert locate_examples(index, outline).rows.tolist() == one.rows.tolist()
    twice = locate_examples(index, places(middle(KILNS[0]), middle(KILNS[0])))
    assert len(twice.rows) == 1


def test_some_examples_elsewhere_are_left_out_and_told(index: ChipIndex) -> None:
    told = locate_examples(index, places(middle(KILNS[0]), (5_000, 5_000), (20, 172)))
    assert len(told.rows) == 1
    assert any("outside of the index" in note for note in told.notes)


def test_examples_that_say_nothing_are_refused_with_the_reason(index: ChipIndex) -> None:
    good = places(middle(KILNS[0]))
    swapped = gpd.GeoDataFrame(geometry=[shapely.Point(p.y, p.x) for p in good.geometry], crs=4326)
    with pytest.raises(SearchError, match="swapped"):
        locate_examples(index, swapped)
    with pytest.raises(SearchError, match="outside of the index"):
        locate_examples(index, places((9_000, 9_000)))
    with pytest.raises(SearchError, match="no CRS"):
        locate_examples(index, gpd.GeoDataFrame(geometry=[shapely.Point(1, 1)]))
    wrong = gpd.GeoDataFrame(geometry=places(middle(KILNS[0]), crs=32645).geometry.to_numpy(), crs=32646)
    with pytest.raises(SearchError, match="check their CRS"):
        locate_examples(index, wrong)
    with pytest.raises(SearchError, match="hold no place"):
        locate_examples(index, good.iloc[:0])


def test_examples_on_nodata_say_so(index: ChipIndex) -> None:
    table = index.chips
    kept = np.flatnonzero(table["col"].to_numpy() != 4)
    holed = ChipIndex(index.folder, index.facts, table.iloc[kept].reset_index(drop=True), index.vectors[kept])
    with pytest.raises(SearchError, match="nodata"):
        locate_examples(holed, places((40, 72)))


def test_an_example_that_is_a_counter_example_too_is_refused(index: ChipIndex) -> None:
    point = places(middle(KILNS[0]))
    with pytest.raises(SearchError, match="both an example and a counter-example"):
        start_campaign(index, "kilns", point, point)
    assert list_campaigns(index) == []


def test_bad_names_answers_and_chips_are_refused(index: ChipIndex) -> None:
    point = places(middle(KILNS[0]))
    with pytest.raises(SearchError, match="no name for a campaign"):
        start_campaign(index, "../elsewhere", point)
    campaign = start_campaign(index, "kilns", point, places((80, 80)))
    with pytest.raises(SearchError, match="there already"):
        start_campaign(index, "kilns", point)
    with pytest.raises(SearchError, match="no campaign 'other'"):
        open_campaign(index, "other")
    with pytest.raises(SearchError, match="give one of yes, no, unsure"):
        campaign.answer(campaign.page().chip_ids[0], "perhaps")
    with pytest.raises(SearchError, match="no chip"):
        campaign.answer("0" * 16, "yes")
    assert campaign.standing().clicks == 0
    assert campaign.standing().examples == 2
