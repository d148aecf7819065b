"""The review page in a real browser (Chromium): the whole story, trouble on the way, a phone, no OpenLayers."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from geoslave.cli.main import cli
from geoslave.review.access import Access
from geoslave.review.app import OPENLAYERS, WEB, create_app
from geoslave.review.store import Store, open_store
from geoslave.review.tasks import Vote
from tests.review.review_factory import MANY, add_review, threaded

PHONE = {"viewport": {"width": 390, "height": 780}, "is_mobile": True, "has_touch": True}
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("GEOSLAVE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    missing = "CHROMIUM ABSENT: install it (Debian: chromium)" if found is None else ""
    if not OPENLAYERS.is_file():
        missing = "OPENLAYERS ABSENT: run  python3 scripts/fetch_web.py"
    if missing:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "review.sqlite") as opened:
        opened.set_setting("retirement", {"votes": 3, "agreement": 1.0, "most": 3})
        opened.set_setting("gold_share", 0)
        yield opened


@pytest.fixture
def open_page(browser: Browser, store: Store, tmp_path: Path) -> Iterator[Open]:
    """Opens the page as somebody: the local reviewer, or with `role` a newcomer at their invitation."""
    with ExitStack() as stack:
        complaints: list[str] = []

        def opened(role: str = "", path: str = "/", seen: bool = True, **device: Any) -> Page:
            address = stack.enter_context(threaded(create_app(store, tmp_path, login=bool(role), limits=MANY)))
            context: BrowserContext = stack.enter_context(_context(browser, device))
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
            if role:
                page.goto(f"{address}/join#{Access(store, login=True).invite(role)}")
            else:
                if seen:
                    context.request.post(f"{address}/api/tutorial")
                page.goto(address + path)
            return page

        yield opened
        assert complaints == []


class _context:
    def __init__(self, browser: Browser, device: dict[str, Any]) -> None:
        self.opened = browser.new_context(**device)

    def __enter__(self) -> BrowserContext:
        return self.opened

    def __exit__(self, *_: object) -> None:
        self.opened.close()


def wait_for_task(page: Page) -> None:
    expect(page.locator("body")).to_have_attribute("data-state", "work")


def press(page: Page, key: str, answered: int) -> None:
    """Answer by keyboard, and see it counted."""
    wait_for_task(page)
    page.keyboard.press(key)
    expect(page.locator("#count")).to_have_text(f"{answered} answered")


def all_sent(page: Page) -> None:
    until(page, "() => !Object.keys(localStorage).some((key) => key.startsWith('geoslave.vote.'))")


def until(page: Page, condition: str, patience_s: float = 20) -> None:
    """Wait for a JavaScript function to give true (Playwright's own way needs eval, which the page forbids)."""
    end = time.monotonic() + patience_s
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def test_the_whole_story(open_page: Open, store: Store, tmp_path: Path) -> None:
    tasks = add_review(store, tmp_path, 30, tutorial=2, before=True, zooms=("near", "far"))
    for who, said in (("one", "yes"), ("two", "no")):
        person = store.add_reviewer(who)
        while (task := store.lease(person)) is not None:
            answer = said if task.task_id == tasks[0].task_id else "yes"
            store.vote(Vote(task.task_id, person, answer, key=f"{who}-{task.task_id}"))

    page = open_page("reviewer")
    page.get_by_label("What may the coordinator call you?").fill("Amina <b>")
    page.get_by_role("button", name="Join").click()
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#stage")).to_have_text("Example 1 of 2")
    page.keyboard.press("n")
    expect(page.locator("#feedback")).to_contain_text("fired bricks")
    page.keyboard.press("Enter")
    expect(page.locator("#stage")).to_have_text("Example 2 of 2")
    page.keyboard.press("y")
    page.locator("#feedback-next").click()
    expect(page.locator("#said")).to_contain_text("your answers count")

    for number in range(1, 31):
        press(page, "ynubo"[number % 5] if number > 1 else "y", number)
        if number == 10:
            all_sent(page)
            page.keyboard.press("z")
            expect(page.locator("#count")).to_have_text("9 answered")
            page.keyboard.press("c")
            page.locator("#note").fill("<img src=x onerror=document.title='broken'>")
            page.keyboard.press("Escape")
            press(page, "n", 10)
    expect(page.locator("#message-title")).to_have_text("Nothing left to look at")
    all_sent(page)
    amina = next(one for one in store.reviewers() if one.name == "Amina <b>")
    mine = store.votes(amina.id)
    assert len(mine) == len({vote.task_id for vote in mine}) == 30
    assert amina.tutorial_done and [vote.note for vote in mine if vote.note] == [
        "<img src=x onerror=document.title='broken'>"
    ]

    chief = open_page("coordinator")
    chief.locator("#name").fill("Chief")
    chief.keyboard.press("Enter")
    chief.wait_for_url("**/")
    chief.goto(chief.url + "coordinator")
    open_conflicts = len(store.conflicts())
    expect(chief.locator("#n-conflicts")).to_have_text(str(open_conflicts))
    expect(chief.locator("#reviewers")).to_contain_text("Amina <b>")
    expect(chief.locator("#strata")).to_contain_text("high")
    expect(chief.locator("#map canvas").first).to_be_visible()
    for left in range(open_conflicts, 0, -1):
        expect(chief.locator("#n-conflicts")).to_have_text(str(left))
        chief.locator("#settle [data-answer=no]").click()
    expect(chief.locator("#no-conflicts")).to_be_visible()
    assert chief.title() == "Coordinator - geoslave review"
    settled = {task: held["settled"] for task, held in store.standings().items() if held["settled"]}
    assert tasks[0].task_id in settled and set(settled.values()) == {"no"}

    assert store.verify().votes == 90
    store.close()
    told = _geoslave("review", "consensus", tmp_path, "--out", tmp_path / "verdicts")
    assert told["verdicts"] == 30 and told["status"]["settled"] == len(settled) and told["reviewers"] == 3
    with (tmp_path / "verdicts" / "verdicts.csv").open(newline="") as file:
        verdicts = {row["task_id"]: row for row in csv.DictReader(file)}
    assert verdicts[tasks[0].task_id]["answer"] == "no" and len(verdicts) == 30
    assert len((tmp_path / "verdicts" / "votes.csv").read_text().splitlines()) == 91, "a vote a line, and a heading"
    _geoslave("labels", "from-review", tmp_path, "--target", "brick_kiln", "--out", tmp_path / "labels.geojson")
    labels = json.loads((tmp_path / "labels.geojson").read_text())["features"]
    presence = Counter(label["properties"]["presence"] for label in labels)
    assert len(labels) == 30 and presence["no"] >= len(settled), "what was settled as no is a hard negative"
    assert presence["yes"] + presence["no"] + presence["unsure"] == 30


def test_notes_of_reviewers_are_text_for_the_coordinator(open_page: Open, store: Store, tmp_path: Path) -> None:
    task = add_review(store, tmp_path, 1)[0]
    note = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
    for who, said in (("one", "yes"), ("two", "no"), ("<i>three</i>", "unsure")):
        person = store.add_reviewer(who)
        store.lease(person)
        store.vote(Vote(task.task_id, person, said, note=note, key=f"k-{said}"))
    page = open_page(path="/coordinator")
    expect(page.locator("#votes")).to_contain_text(note)
    expect(page.locator("#votes")).to_contain_text("<i>three</i>")
    assert page.locator("#votes img, #votes script, #votes i").count() == 0
    assert page.title() == "Coordinator - geoslave review"


def test_votes_made_offline_are_kept_and_sent_later_once(open_page: Open, store: Store, tmp_path: Path) -> None:
    add_review(store, tmp_path, 12)
    page = open_page()
    press(page, "y", 1)
    all_sent(page)
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    for number, key in enumerate("nub", start=2):
        press(page, key, number)
    expect(page.locator("#sending")).to_have_text("Offline: 3 kept, sent later")
    page.keyboard.press("z")  # this one has never been sent
    expect(page.locator("#count")).to_have_text("3 answered")
    press(page, "o", 4)
    assert len(store.votes()) == 1
    page.context.set_offline(False)
    all_sent(page)
    assert sorted(vote.answer for vote in store.votes()) == ["no", "offset", "unsure", "yes"]
    expect(page.locator("#sending")).to_be_empty()


def test_votes_outlive_the_page_that_made_them(open_page: Open, store: Store, tmp_path: Path) -> None:
    add_review(store, tmp_path, 6)
    page = open_page()
    page.route("**/api/votes", lambda route: route.abort())
    for number in (1, 2):
        press(page, "y", number)
    page.unroute("**/api/votes")
    page.reload()
    wait_for_task(page)
    all_sent(page)
    assert len(store.votes()) == 2


def test_a_reload_without_a_connection_loses_nothing(open_page: Open, store: Store, tmp_path: Path) -> None:
    add_review(store, tmp_path, 6)
    page = open_page()
    press(page, "y", 1)
    all_sent(page)
    page.evaluate("async () => { await navigator.serviceWorker.ready; }")
    until(page, "() => navigator.serviceWorker.controller !== null")
    until(page, "async () => Boolean(await caches.match('/web/review.js'))")
    page.context.set_offline(True)
    press(page, "n", 2)
    page.reload()
    expect(page.locator("#message-title")).to_have_text("No connection")
    expect(page.locator("#message-text")).to_contain_text("1 of your answers is kept here")
    kept = page.evaluate("async () => (await (await caches.open('geoslave-page-1')).keys()).map((r) => r.url).join()")
    assert "/web/review.js" in kept and "/pictures/" not in kept and "/api/" not in kept
    page.context.set_offline(False)
    wait_for_task(page)
    all_sent(page)
    assert sorted(vote.answer for vote in store.votes()) == ["no", "yes"]


def test_a_connection_cut_after_the_vote_arrived_counts_it_once(open_page: Open, store: Store, tmp_path: Path) -> None:
    add_review(store, tmp_path, 6)
    page = open_page()
    cut: list[str] = []

    def cut_once(route: Route) -> None:
        if len(cut) < 2:
            cut.append(route.fetch().text())  # the server has it, its answer never comes
            route.abort()
        else:
            route.continue_()

    page.route("**/api/votes", cut_once)
    press(page, "y", 1)
    all_sent(page)
    assert len(cut) == 2 and len(store.votes()) == 1
    page.keyboard.press("z")
    expect(page.locator("#count")).to_have_text("0 answered")
    assert store.votes() == [] and store.verify().records == 2


def test_a_vote_that_somebody_else_turned_away_is_kept_and_one_of_ours_is_not(
    open_page: Open, store: Store, tmp_path: Path
) -> None:
    add_review(store, tmp_path, 6)
    page = open_page()
    turned_away: list[int] = []

    def answer(route: Route) -> None:
        strange = [
            {"status": 404, "body": "<h1>nginx</h1>", "content_type": "text/html"},
            {"status": 403, "body": "null", "content_type": "application/json"},
        ]
        if len(turned_away) < len(strange):
            route.fulfill(**strange[len(turned_away)])  # type: ignore[arg-type]
            turned_away.append(1)
        else:
            route.continue_()

    page.route("**/api/votes", answer)
    press(page, "y", 1)
    expect(page.locator("#sending")).to_have_text("Offline: 1 kept, sent later")
    all_sent(page)
    assert len(turned_away) == 2 and len(store.votes()) == 1
    expect(page.locator("#count")).to_have_text("1 answered")
    page.unroute("**/api/votes")
    refusal = {"message": "no", "kind": "Retired"}
    page.route("**/api/votes", lambda route: route.fulfill(status=409, json=refusal))
    wait_for_task(page)
    page.keyboard.press("n")
    expect(page.locator("#said")).to_have_text("One of your answers was no longer needed.")
    all_sent(page)
    expect(page.locator("#count")).to_have_text("1 answered")
    assert len(store.votes()) == 1


def test_what_a_coordinator_settled_cannot_be_undone(open_page: Open, store: Store, tmp_path: Path) -> None:
    add_review(store, tmp_path, 6)
    page = open_page()
    for number in (1, 2):
        press(page, "y", number)
    all_sent(page)
    first, second = store.votes()
    store.settle(second.task_id, store.add_reviewer("Chief", "coordinator"), "no")
    page.keyboard.press("z")
    expect(page.locator("#said")).to_contain_text("settled")
    expect(page.locator("#count")).to_have_text("2 answered")
    page.keyboard.press("z")
    expect(page.locator("#count")).to_have_text("1 answered")
    assert store.votes() == [second] and first.task_id != second.task_id


SERVICE_WORKER = """async ({ source, kept, line }) => {
    const held = new Map(kept ? [["/web/api.js", "kept"]] : []), heard = {};
    const cache = { match: async (path) => held.get(path), put: async (path) => held.set(path, "put") };
    const scope = { addEventListener: (name, react) => { heard[name] = react; }, location: { origin: "http://x" } };
    const lines = { stalls: () => new Promise(() => {}), cut: async () => { throw new TypeError("cut"); },
        slow: () => new Promise((go) => setTimeout(() => go({ ok: true, clone: () => "new", told: "new" }), 60)) };
    const soon = (call) => setTimeout(call, 20);
    const caches = { open: async () => cache };
    new Function("self", "caches", "fetch", "setTimeout", source)(scope, caches, lines[line], soon);
    let answer;
    const request = { url: "http://x/web/api.js", method: "GET" };
    heard.fetch({ request, respondWith: (given) => { answer = given; } });
    return answer.then((came) => came.told ?? came, (error) => `error: ${error.message}`);
}"""


@pytest.mark.parametrize(
    ("kept", "line", "came"),
    [
        (True, "stalls", "kept"),
        (True, "slow", "kept"),
        (True, "cut", "kept"),
        (False, "slow", "new"),
        (False, "cut", "error: cut"),
    ],
)
def test_a_line_that_hangs_does_not_keep_the_page_waiting(browser: Browser, kept: bool, line: str, came: str) -> None:
    with _context(browser, {}) as context:
        page = context.new_page()
        source = (WEB / "offline.js").read_text()
        assert page.evaluate(SERVICE_WORKER, {"source": source, "kept": kept, "line": line}) == came


def test_marks_by_mouse_and_by_keyboard(open_page: Open, store: Store, tmp_path: Path) -> None:
    add_review(store, tmp_path, 0, search=2, zooms=("near",))
    page = open_page()
    wait_for_task(page)
    page.keyboard.press("y")
    expect(page.locator("#said")).to_contain_text("Mark at least one")
    page.keyboard.press("m")
    expect(page.locator("#said")).to_have_text("1 mark")
    box = page.locator("#viewer").bounding_box() or {}
    middle = {"x": box["width"] / 2 + 90, "y": box["height"] / 2 + 40}
    page.locator("#viewer").click(position=middle)
    expect(page.locator("#said")).to_have_text("2 marks")
    page.wait_for_timeout(400)  # two clicks in a row are a double click
    page.locator("#viewer").click(position=middle)
    expect(page.locator("#said")).to_have_text("1 mark")
    page.keyboard.press("n")
    expect(page.locator("#said")).to_contain_text("Take your marks back")
    press(page, "y", 1)
    press(page, "n", 2)
    all_sent(page)
    yes, no = store.votes()
    assert [(mark.x, mark.y, mark.picture) for mark in yes.marks] == [(48.0, 48.0, "pictures/near-now.png")]
    assert (yes.answer, no.answer, no.marks) == ("yes", "no", ())


def test_surroundings_dates_and_outline(open_page: Open, store: Store, tmp_path: Path) -> None:
    add_review(store, tmp_path, 2, before=True)
    page = open_page()
    wait_for_task(page)
    for key, name in (("2", "Around"), ("3", "Far"), ("1", "Close")):
        page.keyboard.press(key)
        expect(page.get_by_role("button", name=name, exact=True)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("h")
    expect(page.get_by_role("button", name="Outline")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("w")
    expect(page.locator("#date-before")).to_have_text("before: 2021-01-15")
    expect(page.locator("#date-now")).to_have_text("now: 2025-02-03")
    shades = "() => [0.4, 0.6].map((at) => { const c = document.querySelector('#viewer canvas');" + (
        "return c.getContext('2d').getImageData(c.width * at, c.height / 2, 1, 1).data[0]; })"
    )
    until(page, f"() => String(({shades})()) === '130,90'")
    page.locator("#swipe-at").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    until(page, f"() => String(({shades})()) === '130,130'")
    page.keyboard.press("w")
    until(page, f"() => String(({shades})()) === '90,90'")


def test_a_phone(open_page: Open, store: Store, tmp_path: Path) -> None:
    add_review(store, tmp_path, 3, before=True)
    page = open_page(**PHONE)
    wait_for_task(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for button in page.locator("#buttons button").all():
        box = button.bounding_box() or {}
        assert (
            box["height"] >= 44 and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 780
        )
    page.get_by_role("button", name="Bad imagery").tap()
    expect(page.locator("#count")).to_have_text("1 answered")
    page.get_by_role("button", name="Undo").tap()
    expect(page.locator("#count")).to_have_text("0 answered")
    page.goto(page.url + "coordinator")
    expect(page.locator("#strata")).to_contain_text("high")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_phone_of_somebody_who_signed_in(open_page: Open, store: Store, tmp_path: Path) -> None:
    add_review(store, tmp_path, 3, tutorial=1)
    page = open_page("coordinator", **PHONE)
    page.locator("#name").fill("Dora")
    page.get_by_role("button", name="Join").tap()
    welcome = page.locator("#welcome")
    expect(welcome).to_contain_text("Bad imagery")
    assert page.locator("#welcome kbd").count() == 0, "a phone has no keys"
    page.get_by_role("button", name="Start").tap()
    expect(page.locator("#stage")).to_be_visible()
    out = page.get_by_role("button", name="Sign out").bounding_box() or {}
    assert out["x"] + out["width"] <= 390 and page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_without_openlayers_people_can_still_answer(open_page: Open, store: Store, tmp_path: Path) -> None:
    add_review(store, tmp_path, 1, search=1, zooms=("near",))
    page = open_page(path="/web/icon.svg", service_workers="block")  # what it fetches cannot be cut off here
    page.route("**/vendor/*", lambda route: route.abort())
    page.goto(page.url.replace("web/icon.svg", ""))
    wait_for_task(page)
    expect(page.locator("#notice")).to_contain_text("scripts/fetch_web.py")
    for number in (1, 2):
        wait_for_task(page)
        if "Mark every" in page.locator("#question").inner_text():
            page.locator("#viewer svg").click()
            expect(page.locator("#said")).to_have_text("1 mark")
        press(page, "y", number)
    all_sent(page)
    assert sorted(len(vote.marks) for vote in store.votes()) == [0, 1]
    page.goto(page.url + "coordinator")
    expect(page.locator("#picked")).to_contain_text("scripts/fetch_web.py")


def test_every_control_has_a_name_and_the_keyboard_reaches_it(open_page: Open, store: Store, tmp_path: Path) -> None:
    add_review(store, tmp_path, 3, before=True)
    page = open_page()
    wait_for_task(page)
    unnamed = """() => [...document.querySelectorAll('button, input, textarea, progress, a')]
        .filter((e) => e.checkVisibility())
        .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map((e) => e.id)"""
    for path in ("", "coordinator"):
        page.goto(page.url.rsplit("/", 1)[0] + "/" + path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate(unnamed) == []
    page.goto(page.url.rsplit("/", 1)[0])
    wait_for_task(page)
    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.answer || document.activeElement.id"))
    assert {"yes", "no", "unsure", "bad_imagery", "offset", "help", "theme", "outline", "swipe"} <= reached
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_what_is_written_can_be_read_dark_and_light(open_page: Open, store: Store, tmp_path: Path) -> None:
    styles = (WEB / "style.css").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in styles.split("}")[:2])
    for colours in (light, dark):
        for ink in ("ink", "soft", "yes", "no", "unsure", "bad", "offset"):
            for paper in ("paper", "card"):
                assert _contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper, colours[ink])
        for ink, paper in (
            ("on-accent", "accent"),
            ("ink", "good-paper"),
            ("ink", "miss-paper"),
            ("unsure", "miss-paper"),
        ):
            assert _contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
    add_review(store, tmp_path, 1)
    page = open_page(color_scheme="dark")
    wait_for_task(page)
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name="Dark or light").click()
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")


def _contrast(ink: str, paper: str) -> float:
    """WCAG 2.2: contrast ratio."""
    bright, dim = sorted((_luminance(ink), _luminance(paper)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _geoslave(*words: object) -> dict[str, Any]:
    """A command of geoslave, as a coordinator types it: its answer."""
    ran = CliRunner().invoke(cli, [*map(str, words), "--json"])
    assert ran.exit_code == 0, ran.output
    return dict(json.loads(ran.stdout))
