"""The search in a real browser: from a few clicks to a trained model that asks back; a phone; nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from geoslave.search.app import create_app, training_command
from geoslave.search.pages import Desk
from geoslave.targets import get_target, target_yaml
from tests.review.review_factory import threaded
from tests.search.search_scene import begin, shared, truth

PHONE = {"viewport": {"width": 390, "height": 780}, "is_mobile": True, "has_touch": True}
QUICK = {
    "start_from": "none",
    "architecture": {"encoder": "resnet18", "encoder_depth": 3, "decoder_channels": [16, 8]},
    "steps": 6,
    "batch": 4,
    "chip": 48,
    "publication": {"thresholds": {"high": 0.02, "low": 0.01}},
}
"""A training of seconds: that it runs is tested here, not how good it is."""
KILN = get_target("brick_kiln").model_copy(update={"training": QUICK})
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("GEOSLAVE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        missing = "CHROMIUM ABSENT: install it (Debian: chromium)"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def desk() -> Desk:
    return Desk(begin(n_examples=3, page_size=12), KILN)


@pytest.fixture
def open_page(browser: Browser, desk: Desk) -> Iterator[Open]:
    with ExitStack() as stack:
        complaints: list[str] = []

        def opened(**device: Any) -> Page:
            (desk.campaign.folder / "target.yaml").write_text(target_yaml(desk.target))
            command = [*training_command(desk.campaign.folder), "--few", "--threads", "1"]
            address = stack.enter_context(threaded(create_app(desk, command)))
            context = browser.new_context(**device)
            stack.callback(context.close)
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
            page.goto(address)
            expect(page.locator("body")).to_have_attribute("data-state", "work")
            return page

        yield opened
        assert complaints == []


def chips(page: Page) -> list[str]:
    return [str(chip.get_attribute("data-chip")) for chip in page.locator(".chip").all()]


def answer_page(page: Page, known: dict[str, str]) -> None:
    """One key a chip, as somebody who sees everything would."""
    page.locator(".chip").first.focus()
    for chip in chips(page):
        page.keyboard.press("y" if known[chip] == "yes" else "n")
    expect(page.locator("body")).to_have_attribute("data-open", "0")


def turn(page: Page, key: str = "Enter") -> None:
    before = page.locator("body").get_attribute("data-page")
    page.keyboard.press(key)
    expect(page.locator("body")).not_to_have_attribute("data-page", str(before), timeout=20_000)


@pytest.mark.slow
def test_from_a_few_clicks_to_a_model_that_asks_back(open_page: Open, desk: Desk, monkeypatch: Any) -> None:
    monkeypatch.setattr("geoslave.search.pages.plan", lambda table: _plan(table, 4, 10))
    index, sites = shared()
    known = truth(index, sites)
    page = open_page(viewport={"width": 1360, "height": 900})
    expect(page.locator("#train")).to_be_disabled()
    for number in (1, 2):
        answer_page(page, known)
        if number == 1:  # undo, and again
            page.keyboard.press("z")
            expect(page.locator("body")).to_have_attribute("data-open", "1")
            page.keyboard.press("y" if known[chips(page)[-1]] == "yes" else "n")
        turn(page)
        expect(page.locator("#clicks")).to_have_text(str(12 * number))
    expect(page.locator("#interval")).to_contain_text("sure")

    # where the sites are: by tap, and drawn with the keyboard
    page.locator("#place").click()
    expect(page.locator("#kind")).to_have_text("place the sites")
    page.locator(".chip").first.click(position={"x": 60, "y": 70})
    expect(page.locator(".chip").first.locator(".mark.line")).to_have_count(1)
    page.locator(".chip").first.focus()
    page.keyboard.press("e")
    expect(page.locator("#large")).to_be_visible()
    page.keyboard.press("2")
    for move in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        page.keyboard.press("Space")
        for _ in range(4):
            page.keyboard.press(f"Shift+{move}")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.locator("#large")).to_be_hidden()
    expect(page.locator(".chip").first.locator("polygon.mark.line")).to_have_count(1)
    for chip in page.locator(".chip").all()[1:]:
        chip.click(position={"x": 60, "y": 70})
    turn(page)

    page.locator("#train").click()
    expect(page.locator("body")).to_have_attribute("data-training", "running")
    expect(page.locator("body")).to_have_attribute("data-training", "trained", timeout=200_000)
    told = json.loads((desk.campaign.folder / "trained.json").read_text())
    assert told["taught"]["outlines"] == 1 and told["start_from"] == "none"
    assert (desk.campaign.folder / "model" / "model.onnx").is_file()
    assert (desk.campaign.folder / "detections.gpkg").is_file()
    expect(page.locator("#model")).to_contain_text(f"finds {told['detections']} places")
    if told["unsure"]:
        page.keyboard.press("a")
        expect(page.locator("body")).to_have_attribute("data-open", "0")
        turn(page)
        expect(page.locator("#kind")).to_have_text("the model asks")
        expect(page.locator(".chip").first.locator("polygon.found.line")).to_have_count(1)


def _plan(table: Any, sites: int, negatives: int) -> Any:
    from geoslave.search import training

    return training.plan(table, sites, negatives)


def test_on_a_phone_taps_go_round_the_answers_and_the_rest_is_one_tap(open_page: Open, desk: Desk) -> None:
    page = open_page(**PHONE)
    chip = page.locator(".chip").nth(1)
    for said in ("yes", "no", "unsure", ""):
        chip.tap(position={"x": 30, "y": 40})
        expect(chip).to_have_attribute("data-said", said)
    chip.tap(position={"x": 30, "y": 40})
    page.locator("#enlarge").tap()
    expect(page.locator("#large")).to_be_visible()
    page.locator("#canvas").tap(position={"x": 200, "y": 150})
    page.locator("#large-yes").tap()
    expect(chip.locator("circle.mark.line")).to_have_count(2)
    page.locator("#rest").tap()
    expect(page.locator("body")).to_have_attribute("data-open", "0")
    wide = page.evaluate("() => document.documentElement.scrollWidth")
    assert wide <= 390
    page.locator("#next").tap()
    expect(page.locator("#clicks")).to_have_text("12")
    assert len(desk.marks.current()[chips_of(desk, "yes")[-1]]) == 2


def chips_of(desk: Desk, answer: str) -> list[str]:
    return [chip for chip, said in desk.campaign.known().items() if said == answer]


def test_the_page_loaded_again_stands_as_it_was(open_page: Open) -> None:
    page = open_page()
    page.locator(".chip").first.focus()
    page.keyboard.press("u")
    page.keyboard.press("n")
    expect(page.locator("body")).to_have_attribute("data-open", "10")
    expect(page.locator("body")).to_have_attribute("data-sending", "0")
    page.reload()
    expect(page.locator("body")).to_have_attribute("data-open", "10")
    expect(page.locator(".chip").first).to_have_attribute("data-said", "unsure")
    expect(page.locator(".chip").nth(2)).to_be_focused()
