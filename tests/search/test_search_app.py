"""The page's server: for this computer alone, clear answers to bad input, pictures, and what a round says."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geoslave.search.app import MAX_BODY, Training, TrainingRefused, create_app
from geoslave.search.pages import Desk
from geoslave.search.pictures import SIDE
from geoslave.targets import get_target
from tests.search.search_scene import begin

HERE = "http://127.0.0.1:8010"


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(create_app(Desk(begin(), get_target("brick_kiln"))), base_url=HERE)


def chips(client: TestClient) -> list[str]:
    return [chip["chip"] for chip in client.get("/api/round").json()["page"]["chips"]]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "search.example.org"},
        {"host": "127.0.0.1.evil.example"},
        {"x-forwarded-for": "203.0.113.5"},
        {"via": "1.1 proxy"},
    ],
)
def test_other_names_and_proxies_are_refused(client: TestClient, headers: dict[str, str]) -> None:
    for path in ("/", "/api/round", f"/pictures/{chips(client)[0]}/small"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 403 and answer.json()["message"]


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}]
)
def test_another_page_in_the_same_browser_changes_nothing(client: TestClient, headers: dict[str, str]) -> None:
    before = client.get("/api/round").json()
    for path, body in (("/api/rest", {"answer": "no"}), ("/api/next", {}), ("/api/training", {}), ("/api/undo", {})):
        assert client.post(path, json=body, headers=headers).status_code == 403
    assert client.get("/api/round").json() == before


def test_every_answer_carries_the_headers_and_the_page_runs_nothing_inline(client: TestClient) -> None:
    for path in ("/", "/web/search.js", "/web/style.css", "/api/round", "/nothing"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
    page = client.get("/").text
    assert "style=" not in page and "onclick" not in page and "<script>" not in page


@pytest.mark.parametrize("name", ["..%2fapp.py", "search.html", "nothing.js", "%2e%2e%2f%2e%2e%2fpages.py"])
def test_only_the_pages_own_files_are_given_out(client: TestClient, name: str) -> None:
    assert client.get(f"/web/{name}").status_code == 404


def test_pictures_are_square_and_the_large_one_is_larger(client: TestClient) -> None:
    chip = chips(client)[0]
    for view, side in SIDE.items():
        answer = client.get(f"/pictures/{chip}/{view}")
        assert answer.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(answer.content)).size == (side, side)
    assert client.get("/pictures/0000000000000000/small").status_code == 404
    assert client.get(f"/pictures/{chip}/large?scene=other").status_code == 404
    told = client.get(f"/api/chips/{chip}").json()
    assert 0 < told["frame"][0] < 0.5 < told["frame"][1] < 1 and told["others"] == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/answer", {"chip": "0000000000000000", "answer": "yes"}, 409),
        ("/api/answer", {"chip": "0000000000000000", "answer": "perhaps"}, 422),
        ("/api/answer", {"chip": "../../etc", "answer": "yes"}, 422),
        ("/api/answer", {"chip": "a", "answer": "yes", "at": [0.1]}, 422),
        ("/api/answer", {"chip": "a", "answer": "yes", "more": 1}, 422),
        ("/api/rest", {"answer": "yes"}, 422),
        ("/api/next", {}, 409),
        ("/api/undo", {}, 409),
        ("/api/training", {}, 409),
        ("/api/chips/0000000000000000/marks", {"marks": [[[0.5, 0.5]]]}, 409),
        ("/api/chips/0000000000000000/marks", {"marks": [[[1e9, 0.5]]]}, 422),
    ],
)
def test_bad_input_gets_a_line_that_says_what_to_do(
    client: TestClient, path: str, body: dict[str, object], status: int
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert ":" in answer.json()["message"] and "\n" not in answer.json()["message"]


def test_a_body_without_end_is_cut_off(client: TestClient) -> None:
    answer = client.post("/api/answer", content=b"x" * (MAX_BODY + 1))
    assert answer.status_code == 413


@given(body=st.binary(max_size=300))
@settings(max_examples=30)
def test_no_body_whatever_breaks_it(client: TestClient, body: bytes) -> None:
    for path in ("/api/answer", "/api/rest", "/api/next", "/api/chips/x/marks", "/api/training"):
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 409, 422) and answer.json()["message"]


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.none() | st.text(max_size=3)


@given(marks=st.lists(st.lists(st.lists(numbers, max_size=3), max_size=4), max_size=3))
@settings(max_examples=30)
def test_no_marks_whatever_break_it(client: TestClient, marks: list[object]) -> None:
    chip = chips(client)[1]
    answer = client.post(f"/api/chips/{chip}/marks", json={"marks": marks})
    assert answer.status_code in (200, 422)
    client.post(f"/api/chips/{chip}/marks", json={"marks": []})


def test_a_training_runs_until_it_is_known_how_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trained.json").write_text('{"held_out_f1": 0.9}')
    told = threading.Event()
    follow = Training._follow

    def slowly(self: Training, process: subprocess.Popen[str]) -> None:
        told.wait(30)
        follow(self, process)

    monkeypatch.setattr(Training, "_follow", slowly)
    training = Training(tmp_path, [sys.executable, "-c", "raise SystemExit('Error: no imagery')"])
    training.start([])
    assert training._process is not None and training._follower is not None
    training._process.wait(30)
    assert training.state()["running"]
    with pytest.raises(TrainingRefused, match="running already"):
        training.start([])
    told.set()
    training._follower.join(30)
    state = training.state()
    assert not state["running"] and state["failed"] == "no imagery"


def test_the_loop_over_http() -> None:
    desk = Desk(begin(), get_target("brick_kiln"))
    client = TestClient(create_app(desk), base_url=HERE)
    first = chips(client)
    page = client.post("/api/answer", json={"chip": first[0], "answer": "yes", "at": [0.5, 0.5]}).json()
    assert page["chips"][0]["marks"] == [[[0.5, 0.5]]] and len(page["open"]) == len(first) - 1
    assert client.post("/api/rest", json={"answer": "no"}).json()["open"] == []
    told = client.post("/api/next", json={}).json()
    assert told["round"]["clicks"] == len(first) and told["page"]["number"] == 2
    assert client.get("/api/training").status_code == 403  # this page was not given a command to train with
