"""The desk: answers can be undone until a page is handed in, nothing is lost, and each round says where it stands."""

from __future__ import annotations

import json

import pytest
import shapely

from geoslave.search.campaign import open_campaign
from geoslave.search.labels import BadMark
from geoslave.search.pages import Desk, NothingToUndo, NotOnPage, PageNotDone
from geoslave.search.training import UNSURE
from geoslave.targets import get_target
from tests.search.search_scene import begin, shared, truth

KILN = get_target("brick_kiln")


@pytest.fixture
def desk() -> Desk:
    return Desk(begin(), KILN)


def again(desk: Desk) -> Desk:
    """The same campaign in another process."""
    return Desk(open_campaign(desk.campaign.index, desk.campaign.name), KILN)


def test_a_page_is_handed_in_whole_and_the_next_one_is_new(desk: Desk) -> None:
    first = [chip["chip"] for chip in desk.page()["chips"]]
    assert len(first) == 12
    with pytest.raises(PageNotDone, match="12 chips"):
        desk.hand_in()
    assert desk.campaign.known().keys().isdisjoint(first)
    desk.answer(first[0], "yes")
    assert desk.answer_rest("no") == 11
    desk.hand_in()
    assert set(first) <= set(desk.campaign.known())
    assert set(first).isdisjoint(chip["chip"] for chip in desk.page()["chips"])
    told = desk.round()
    assert told["clicks"] == 12 and told["pages"] == 1
    left = told["remaining"]
    assert left["low"] <= left["value"] <= left["high"] and left["audited"] > 0 and told["advice"]


def test_undo_restores_answers_and_marks_step_by_step(desk: Desk) -> None:
    a, b = (chip["chip"] for chip in desk.page()["chips"][:2])
    desk.answer(a, "yes", (0.5, 0.5))
    desk.answer(a, "no")
    desk.answer_rest("unsure")
    assert not desk.page()["open"]
    desk.undo()
    assert len(desk.page()["open"]) == 11
    desk.undo()
    here = desk.page()["chips"][0]
    assert here["answer"] == "yes" and here["marks"] == (((0.5, 0.5),),)
    desk.undo()
    assert desk.page()["chips"][0]["answer"] is None and not desk.marks.current().get(a)
    with pytest.raises(NothingToUndo):
        desk.undo()
    assert b in desk.page()["open"]


def test_a_page_half_answered_is_there_again_after_a_crash(desk: Desk) -> None:
    chips = [chip["chip"] for chip in desk.page()["chips"]]
    desk.answer(chips[3], "yes", (0.4, 0.6))
    desk.answer(chips[5], "unsure")
    back = again(desk)
    assert back.page() == desk.page()
    back.undo()
    assert back.page()["chips"][5]["answer"] is None


def test_a_place_on_the_picture_is_the_place_on_earth(desk: Desk) -> None:
    index, _ = shared()
    chip = desk.page()["chips"][0]["chip"]
    desk.mark(chip, [[(0.5, 0.5)]])
    (point,) = desk.marks.current()[chip]
    frame = index.chips.geometry.iloc[index.rows[chip]]
    assert point.distance(frame.centroid) < 2e-5  # two metres
    assert desk.page()["chips"][0]["answer"] == "yes"
    low, high = desk.chip(chip)["frame"]
    desk.mark(chip, [[(low, low), (high, low), (high, high), (low, high)]])
    (outline,) = desk.marks.current()[chip]
    assert outline.symmetric_difference(frame).area < 0.01 * frame.area


@pytest.mark.parametrize("shape", [[(0.1, 0.1), (0.2, 0.2)], [], [(5.0, 0.5)], [(0, 0), (1, 1), (1, 0), (0, 1)]])
def test_marks_that_are_none_are_refused_and_change_nothing(desk: Desk, shape: list[tuple[float, float]]) -> None:
    chip = desk.page()["chips"][0]["chip"]
    before = desk.page()
    with pytest.raises(BadMark):
        desk.mark(chip, [shape])
    assert desk.page() == before


def test_chips_of_other_pages_are_refused(desk: Desk) -> None:
    index, _ = shared()
    other = next(chip for chip in index.rows if chip not in {c["chip"] for c in desk.page()["chips"]})
    with pytest.raises(NotOnPage):
        desk.answer(other, "yes")


def test_sites_nobody_placed_come_back_to_be_placed(desk: Desk) -> None:
    chip = desk.page()["chips"][0]["chip"]
    desk.answer(chip, "yes")
    desk.answer_rest("no")
    desk.hand_in("place")
    page = desk.page()
    assert page["kind"] == "place" and [one["chip"] for one in page["chips"]] == [chip]
    sites = desk.round()["taught"]["sites"]
    desk.answer(chip, "yes", (0.5, 0.4))
    desk.hand_in()
    assert desk.page()["kind"] == "ranking"
    assert desk.round()["taught"]["sites"] == sites + 1 and desk.round()["without_place"] == 0


def test_what_a_model_was_unsure_of_is_asked_with_its_outline_and_yes_places_it(desk: Desk) -> None:
    index, _ = shared()
    on_page = {chip["chip"] for chip in desk.page()["chips"]}
    asked = [chip for chip in index.rows if chip not in on_page and chip not in desk.campaign.known()][:3]
    told = [
        {"chip": chip, "confidence": 0.5, "outline": index.chips.geometry.iloc[index.rows[chip]].buffer(-1e-3).wkt}
        for chip in asked
    ]
    (desk.campaign.folder / UNSURE).write_text(json.dumps(told))
    desk.answer_rest("no")
    desk.hand_in()
    page = desk.page()
    assert page["kind"] == "model" and all(len(chip["outline"]) > 2 for chip in page["chips"])
    yes = page["chips"][0]["chip"]
    desk.answer(yes, "yes")
    desk.answer_rest("no")
    desk.hand_in()
    assert desk.page()["kind"] == "ranking"
    (point,) = desk.marks.current()[yes]
    assert shapely.from_wkt(next(one["outline"] for one in told if one["chip"] == yes)).covers(point)


def test_a_whole_campaign_finds_every_kiln_and_says_that_it_is_done(desk: Desk) -> None:
    index, sites = shared()
    known = truth(index, sites)
    while desk.page()["kind"] != "done":
        for chip in desk.page()["chips"]:
            desk.answer(chip["chip"], known[chip["chip"]])
        desk.hand_in()
    assert desk.campaign.known() == known
    told = desk.round()
    assert told["remaining"]["high"] == 0 and not told["go_on"]
    assert again(desk).page()["kind"] == "done"
