"""The review page's routes: what they give, to whom, and what they do with trouble."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.openapi import from_dict

from geoslave.review import app as review_app
from geoslave.review.app import create_app
from geoslave.review.store import Store, StoreTrouble, open_store
from geoslave.review.tasks import Retirement, Task, Vote
from tests.review.review_factory import HERE, add_review, client_of, serving, signed_in, vote_of

SECRETS = ("score", "stratum", "inclusion", "gold", "lon", "lat", "0.5", "tutorial", "tier")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "review.sqlite") as opened:
        add_review(opened, tmp_path, 6, search=1, gold=1, tutorial=2, before=True)
        opened.set_setting("gold_share", 0)
        yield opened


@pytest.fixture
def local(store: Store, tmp_path: Path) -> TestClient:
    return client_of(store, tmp_path)


@pytest.fixture
def amina(store: Store, tmp_path: Path) -> TestClient:
    return signed_in(store, tmp_path, "Amina")


@pytest.fixture
def bram(store: Store, tmp_path: Path) -> TestClient:
    return signed_in(store, tmp_path, "Bram")


@pytest.fixture
def chief(store: Store, tmp_path: Path) -> TestClient:
    return signed_in(store, tmp_path, "Chief", "coordinator")


def lease(client: TestClient, want: int = 1, held: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    answer = client.post("/api/tasks/lease", json={"want": want, "held": held})
    assert answer.status_code == 200
    return list(answer.json()["tasks"])


# ---------------------------------------------------------------- reviewing


def test_a_reviewer_gets_tasks_and_their_pictures_and_nothing_more(amina: TestClient) -> None:
    tasks = lease(amina, 3)
    assert len({task["task_id"] for task in tasks}) == 3
    assert set(tasks[0]) == {"task_id", "kind", "pictures"}
    told = amina.post("/api/tasks/lease", json={"want": 3}).text + amina.get("/api/me").text
    assert not [word for word in SECRETS if f'"{word}"' in told]
    for picture in tasks[0]["pictures"]:
        answer = amina.get(picture["url"])
        assert answer.status_code == 200 and answer.content.startswith(b"\x89PNG")
        assert answer.headers["cache-control"] == "private, no-store"


def test_a_vote_is_kept_once_however_often_it_is_sent(amina: TestClient, store: Store) -> None:
    task = lease(amina)[0]
    sent = vote_of(task, "no" if task["kind"] == "search" else "offset", note="beside the road")
    first, again = (amina.post("/api/votes", json=sent).json() for _ in range(2))
    assert not first["repeated"] and again["repeated"] and first["vote_id"] == again["vote_id"]
    assert [(vote.task_id, vote.note) for vote in store.votes()] == [(task["task_id"], "beside the road")]
    changed = amina.post("/api/votes", json={**sent, "answer": "unsure"})
    assert changed.status_code == 409 and "key" in changed.json()["message"]
    second = amina.post("/api/votes", json={**sent, "key": "key-2"})
    assert second.status_code == 409 and "undo it first" in second.json()["message"]
    assert amina.get("/api/me").json()["answered"] == 1


def test_a_vote_brings_the_next_tasks_in_its_answer(amina: TestClient, store: Store) -> None:
    task, ahead = lease(amina, 2)
    sent = vote_of(task, "no", want=2, held=[ahead["task_id"]])
    told = amina.post("/api/votes", json=sent).json()
    given = {one["task_id"] for one in told["tasks"]}
    assert len(given) == 2 and not given & {task["task_id"], ahead["task_id"]} and 0 <= told["done_share"] <= 1
    again = amina.post("/api/votes", json=sent).json()
    assert again["repeated"] and {one["task_id"] for one in again["tasks"]} == given
    assert "tasks" not in amina.post("/api/votes", json=vote_of(ahead, "no", "key-2")).json()
    for number, one in enumerate(told["tasks"]):
        assert amina.get(one["pictures"][0]["url"]).status_code == 200
        assert amina.post("/api/votes", json=vote_of(one, "no", f"key-n{number}")).status_code == 200
    assert len(store.votes()) == 4


def test_undo_gives_the_task_back(amina: TestClient, store: Store) -> None:
    task = lease(amina)[0]
    amina.post("/api/votes", json=vote_of(task, "unsure"))
    assert amina.post("/api/votes/key-1/undo").json() == {"undone": "key-1", "repeated": False}
    assert amina.post("/api/votes/key-1/undo").json()["repeated"]
    assert store.votes() == [] and task["task_id"] in [held["task_id"] for held in lease(amina)]
    assert amina.post("/api/votes", json=vote_of(task, "no", "key-2")).status_code == 200


def test_marks_of_a_search_are_kept(amina: TestClient, store: Store) -> None:
    tasks = lease(amina, 8)
    search = next(task for task in tasks if task["kind"] == "search")
    path = search["pictures"][0]["path"]
    outside = vote_of(search, "yes", marks=[{"x": 500, "y": 5, "picture": path}])
    assert amina.post("/api/votes", json=outside).status_code == 422
    sent = vote_of(search, "yes", marks=[{"x": 10.5, "y": 20, "picture": path}])
    assert amina.post("/api/votes", json=sent).status_code == 200
    assert [(mark.x, mark.y) for mark in store.votes()[0].marks] == [(10.5, 20.0)]


def test_the_tutorial_tells_right_from_wrong_and_is_no_vote(amina: TestClient, store: Store) -> None:
    told = amina.get("/api/tutorial")
    assert '"gold"' not in told.text and "fired bricks" not in told.text
    examples = told.json()["tasks"]
    assert len(examples) == 2
    known = store.task(examples[0]["task_id"]).gold
    other = "no" if known == "yes" else "yes"
    right = amina.post(f"/api/tutorial/{examples[0]['task_id']}", json={"answer": known}).json()
    wrong = amina.post(f"/api/tutorial/{examples[0]['task_id']}", json={"answer": other}).json()
    assert right["right"] and not wrong["right"] and wrong["expected"] == known and "fired bricks" in wrong["why"]
    assert store.votes() == []
    assert not amina.get("/api/me").json()["tutorial_done"]
    amina.post("/api/tutorial")
    assert amina.get("/api/me").json()["tutorial_done"]


def test_gold_answers_cannot_be_tried_out_in_the_tutorial_nor_examples_dealt_out(
    store: Store, amina: TestClient
) -> None:
    gold = next(task for task in store.tasks() if task.gold and not task.tutorial)
    assert amina.post(f"/api/tutorial/{gold.task_id}", json={"answer": "yes"}).status_code == 404
    store.set_setting("gold_share", 1)
    dealt = {task["task_id"] for task in lease(amina, 10)}
    assert gold.task_id in dealt and not dealt & {task.task_id for task in store.tutorial()}


# ---------------------------------------------------------------- what is not allowed


def test_another_reviewers_task_votes_and_pictures_are_out_of_reach(
    amina: TestClient, bram: TestClient, store: Store
) -> None:
    mine = lease(amina)[0]
    stolen = bram.post("/api/votes", json=vote_of(mine, "no"))
    assert stolen.status_code == 403 and "not given to you" in stolen.json()["message"]
    assert bram.get(mine["pictures"][0]["url"]).status_code == 403
    amina.post("/api/votes", json=vote_of(mine, "no"))
    assert bram.post("/api/votes/key-1/undo").status_code == 404
    assert bram.post("/api/votes", json=vote_of(mine, "no")).status_code == 409, "the key is another's"
    assert [vote.task_id for vote in store.votes()] == [mine["task_id"]]


COORDINATING = (
    ("GET", "/api/coordinator/overview"),
    ("GET", "/api/coordinator/conflicts"),
    ("GET", "/api/coordinator/map"),
    ("GET", "/api/coordinator/tasks/t000-a"),
    ("POST", "/api/coordinator/tasks/t000-a/settle"),
    ("POST", "/api/coordinator/invitations"),
    ("POST", "/api/coordinator/reviewers/{id}/link"),
    ("POST", "/api/coordinator/reviewers/{id}"),
    ("POST", "/api/coordinator/shown"),
)
REVIEWING = (
    ("GET", "/api/me"),
    ("POST", "/api/leave"),
    ("POST", "/api/tasks/lease"),
    ("POST", "/api/votes"),
    ("POST", "/api/votes/key-1/undo"),
    ("GET", "/api/tutorial"),
    ("POST", "/api/tutorial"),
    ("POST", "/api/tutorial/t008-c"),
    ("GET", "/pictures/x/0"),
)
BODY = {"answer": "yes", "disabled": True, "role": "coordinator", "task_id": "t000-a", "key": "k", "want": 1}


def body_for(path: str) -> dict[str, Any]:
    """The fields the route takes."""
    names = {
        "settle": ("answer",),
        "invitations": ("role",),
        "votes": ("task_id", "answer", "key"),
        "t008-c": ("answer",),
        "lease": ("want",),
    }
    last = path.rsplit("/", 1)[-1]
    wanted = names.get(last, ("disabled",) if "reviewers" in path and last != "link" else ())
    return {name: BODY[name] for name in wanted}


def test_the_lists_of_routes_are_whole(store: Store, tmp_path: Path) -> None:
    paths = create_app(store, tmp_path, login=True).openapi()["paths"]
    shapes = {(method.upper(), path.count("/"), path.split("{")[0]) for path, held in paths.items() for method in held}
    listed = [*COORDINATING, *REVIEWING, ("POST", "/api/join")]
    for method, depth, start in shapes:
        assert any(m == method and p.count("/") == depth and p.startswith(start) for m, p in listed), start


@pytest.mark.parametrize(("method", "path"), COORDINATING)
def test_reviewers_cannot_do_what_coordinators_do(
    method: str, path: str, amina: TestClient, bram: TestClient, store: Store
) -> None:
    path = path.format(id=bram.get("/api/me").json()["id"])
    answer = amina.request(method, path, json=body_for(path) if method == "POST" else None)
    assert answer.status_code == 403 and "only coordinators" in answer.json()["message"]
    assert bram.get("/api/me").status_code == 200
    assert store.records() == [] and store.setting("shown") is None


@pytest.mark.parametrize(("method", "path"), COORDINATING + REVIEWING)
def test_strangers_get_nothing(method: str, path: str, store: Store, tmp_path: Path) -> None:
    client = client_of(store, tmp_path, login=True)
    client.cookies.set("geoslave_session", "ImZvcmdlZCI.awKdvw.forged")
    answer = client.request(method, path, json=body_for(path) if method == "POST" else None)
    assert answer.status_code == 401 and "signed out" in answer.json()["message"]


@pytest.mark.parametrize(("method", "path"), [route for route in COORDINATING + REVIEWING if route[0] == "POST"])
def test_another_site_in_the_browser_can_do_nothing(method: str, path: str, chief: TestClient) -> None:
    answer = chief.request(method, path, json=body_for(path), headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403 and "another site" in answer.json()["message"]


def test_without_login_only_this_computer_is_answered(store: Store, tmp_path: Path) -> None:
    app = create_app(store, tmp_path)
    assert TestClient(app, base_url=HERE).get("/api/me").json()["role"] == "coordinator"
    for headers in ({"Host": "review.example.org"}, {"X-Forwarded-For": "10.0.0.1"}):
        answer = TestClient(app, base_url=HERE).get("/api/me", headers=headers)
        assert answer.status_code == 403
    assert TestClient(app, base_url=HERE).post("/api/join", json={"token": "x"}).status_code == 403


def test_every_answer_carries_the_strict_headers(amina: TestClient) -> None:
    for path in ("/", "/join", "/coordinator", "/api/me", "/nothing", "/web/review.js"):
        headers = amina.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "cache-control" in headers


def test_the_page_asks_no_other_server_and_runs_nothing_inline() -> None:
    for file in review_app.WEB.glob("*.*"):
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text, file.name
        if file.suffix == ".html":
            assert " style=" not in text and " onclick=" not in text and "<script>" not in text, file.name
        if file.suffix == ".js":
            assert "innerHTML" not in text and "insertAdjacentHTML" not in text and "eval(" not in text, file.name


@pytest.mark.parametrize("path", ["/web/../app.py", "/web/%2e%2e/app.py", "/web/index.html", "/web//etc/passwd"])
def test_files_beside_the_page_are_out_of_reach(path: str, local: TestClient) -> None:
    answer = local.get(path)
    assert answer.status_code == 404 and "create_app" not in answer.text


def test_a_picture_outside_the_folder_is_not_given(tmp_path: Path) -> None:
    from geoslave.review.tasks import Picture

    (tmp_path / "secret.png").write_bytes(b"\x89PNG secret")
    folder = tmp_path / "review"
    folder.mkdir()
    with open_store(folder / "review.sqlite") as store:
        store.add_tasks([Task("t", "validate", "all", 1.0, pictures=(Picture("../secret.png", "near", 9, 9),))])
        client = client_of(store, folder)
        assert client.get(lease(client)[0]["pictures"][0]["url"]).status_code == 404


# ---------------------------------------------------------------- coordinating


def conflict(store: Store, task_id: str) -> None:
    """Votes that differ as much as they can."""
    for number in range(4):
        who = store.add_reviewer(f"voter {number}", reviewer_id=f"voter-{number}")
        while (task := store.lease(who, held=())) is not None and task.task_id != task_id:
            answer = "no" if task.kind == "search" else "yes"
            store.vote(Vote(task.task_id, who, answer, key=f"{who}-{task.task_id}"))
        note = "<img src=x onerror=alert(1)>" if number == 0 else ""
        store.vote(Vote(task_id, who, ("yes", "no")[number % 2], note=note, key=f"{who}-{task_id}"))


def test_a_coordinator_sees_how_it_goes_and_settles_a_conflict(chief: TestClient, store: Store) -> None:
    store.set_setting("retirement", {"votes": 4, "agreement": 0.9, "most": 4})
    assert store.retirement() == Retirement(4, 0.9, 4)
    chief.get("/api/me")
    with open_store(store._database.url.database) as fresh:  # the votes wanted follow the rule
        assert fresh.retirement().most == 4
    conflict(store, "t000-a")
    facts = chief.get("/api/coordinator/overview").json()
    assert facts["n_conflicts"] == 1 and facts["n_votes"] > 4
    assert {row["stratum"] for row in facts["strata"]} == {"high", "low"}
    voters = {one["name"]: one for one in facts["reviewers"]}
    assert voters["voter 0"]["votes"] > 0 and 0 < voters["voter 0"]["agreement"] < 1
    told = chief.get("/api/coordinator/conflicts").json()
    assert told["total"] == 1 and [vote["answer"] for vote in told["conflicts"][0]["votes"]] == ["yes", "no"] * 2
    assert chief.get(told["conflicts"][0]["pictures"][0]["url"]).status_code == 200
    settled = chief.post("/api/coordinator/tasks/t000-a/settle", json={"answer": "no", "note": "a shed"})
    assert settled.status_code == 200
    assert chief.get("/api/coordinator/conflicts").json()["total"] == 0
    assert store.standings()["t000-a"]["settled"] == "no"


def test_the_map_of_tasks_is_for_coordinators(chief: TestClient) -> None:
    collection = chief.get("/api/coordinator/map").json()
    assert len(collection["features"]) == 10
    assert collection["features"][0]["geometry"]["coordinates"] == [10.0, 2.0]
    assert collection["features"][0]["properties"]["state"] == "open"


def test_reviewers_see_score_and_place_only_where_the_coordinator_allows_it(
    chief: TestClient, store: Store, tmp_path: Path
) -> None:
    chief.post("/api/coordinator/shown", json={"score": True, "coordinates": False})
    task = lease(signed_in(store, tmp_path, "Amina"))[0]
    assert task["score"] == 0.5 and "lon" not in task
    chief.post("/api/coordinator/shown", json={"score": False, "coordinates": True})
    task = lease(signed_in(store, tmp_path, "Bram"))[0]
    assert "score" not in task and task["lat"] == 2.0


def test_a_coordinator_invites_shuts_out_and_lets_in(chief: TestClient) -> None:
    token = chief.post("/api/coordinator/invitations", json={"role": "reviewer"}).json()["token"]
    newcomer = TestClient(chief.app, base_url=HERE)
    assert newcomer.post("/api/join", json={"token": token, "name": "Devi"}).json()["role"] == "reviewer"
    person = newcomer.get("/api/me").json()["id"]
    chief.post(f"/api/coordinator/reviewers/{person}", json={"disabled": True})
    assert newcomer.get("/api/me").status_code == 401
    chief.post(f"/api/coordinator/reviewers/{person}", json={"disabled": False})
    assert newcomer.get("/api/me").status_code == 200
    me = chief.get("/api/me").json()["id"]
    assert chief.post(f"/api/coordinator/reviewers/{me}", json={"disabled": True}).status_code == 403
    link = chief.post(f"/api/coordinator/reviewers/{person}/link").json()["token"]
    assert newcomer.get("/api/me").status_code == 401
    newcomer.post("/api/join", json={"token": link})
    assert newcomer.get("/api/me").json()["name"] == "Devi"


# ---------------------------------------------------------------- trouble


def test_a_note_of_ten_megabytes_is_refused(amina: TestClient, store: Store) -> None:
    task = lease(amina)[0]
    answer = amina.post("/api/votes", json=vote_of(task, "no", note="x" * 10_000_000))
    assert answer.status_code == 413 and "2000 characters" in answer.json()["message"]
    longer = amina.post("/api/votes", json=vote_of(task, "no", note="x" * 2001))
    assert longer.status_code == 413 and "2001" in longer.json()["message"]
    assert store.votes() == []

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    assert amina.post("/api/votes", content=endless()).status_code == 413


@pytest.mark.parametrize("unknown", ["nothing", "t999-z"])
def test_votes_that_cannot_be_are_refused_with_a_clear_line(unknown: str, amina: TestClient, store: Store) -> None:
    assert amina.post("/api/votes", json=vote_of({"task_id": unknown})).status_code == 404
    task = lease(amina)[0]
    for changed in (
        {"answer": "maybe"},
        {"key": ""},
        {"key": "<script>"},
        {"marks": [{"x": "NaN", "y": 1, "picture": "p"}]},
        {"created_at": "yesterday"},
        {"reviewer_id": "somebody else"},
        {"marks": [{"x": 1, "y": 1, "picture": "p"}] * 501},
    ):
        answer = amina.post("/api/votes", json={**vote_of(task), **changed})
        assert answer.status_code == 422 and "load the page again" in answer.json()["message"], changed
    assert store.votes() == []


def test_a_clock_that_cannot_be_right_does_not_date_votes(amina: TestClient, store: Store) -> None:
    for number, (task, when) in enumerate(
        zip(lease(amina, 2), ("2999-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"), strict=True)
    ):
        sent = vote_of(task, "no", f"key-{number}", created_at=when)
        assert amina.post("/api/votes", json=sent).status_code == 200
    assert all(abs(vote.created_at.timestamp() - time.time()) < 60 for vote in store.votes())


def test_a_database_in_trouble_is_told_and_the_vote_may_be_sent_again(
    amina: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = lease(amina)[0]

    def full(*_: object, **__: object) -> None:
        raise StoreTrouble("review.sqlite: database or disk is full: free some space")

    with monkeypatch.context() as patched:
        patched.setattr(store._database, "writing", full)
        answer = amina.post("/api/votes", json=vote_of(task, "no"))
        assert answer.status_code == 503 and "disk is full" in answer.json()["message"]
        assert answer.headers["retry-after"]
    assert amina.post("/api/votes", json=vote_of(task, "no")).status_code == 200


def test_a_connection_cut_in_mid_vote_leaves_no_half_vote(store: Store, tmp_path: Path) -> None:
    with serving(tmp_path) as (address, process):
        port = int(address.rsplit(":", 1)[1])
        task = httpx.post(f"{address}/api/tasks/lease", json={"want": 1}).json()["tasks"][0]
        sent = vote_of(task, "no")
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port)) as cut:
                head = f"POST /api/votes HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
                cut.sendall(f'{head}Content-Length: 200\r\n\r\n{{"task_id": "'.encode())
        assert store.votes() == []
        assert httpx.post(f"{address}/api/votes", json=sent).status_code == 200
        process.kill()
    with serving(tmp_path) as (address, _):
        assert httpx.post(f"{address}/api/votes", json=sent).json()["repeated"]
    assert len(store.votes()) == 1
    assert store.verify().votes == 1


def test_without_openlayers_the_page_still_comes(
    local: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "web"
    bare.mkdir()
    for file in review_app.WEB.glob("*.*"):
        (bare / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(review_app, "WEB", bare)
    assert local.get("/web/vendor/ol.js").status_code == 404
    assert "plainViewer" in local.get("/web/viewer.js").text


# ---------------------------------------------------------------- fuzzing


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_input_makes_the_server_fail(mode: GenerationMode, local: TestClient) -> None:
    """Requests made from the API's own schema, valid ones and broken ones: none ends in a 5xx."""
    answered: Counter[int] = Counter()
    for found in from_dict(local.app.openapi()).get_all_operations():  # type: ignore[attr-defined]
        operation = found.ok()
        answered += _fuzz(operation, mode, local)
    assert sum(answered.values()) > 50 and max(answered) < 500
    assert (200 in answered) if mode is GenerationMode.POSITIVE else (422 in answered)


def _fuzz(operation: Any, mode: GenerationMode, client: TestClient) -> Counter[int]:
    answered: Counter[int] = Counter()

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(operation.as_strategy(generation_mode=mode))
    def attempt(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url=HERE)
        for name in ("cookies", "verify", "timeout", "auth"):
            sent.pop(name, None)
        headers = {k: v for k, v in (sent.pop("headers", None) or {}).items() if k.lower() not in ("host", "cookie")}
        if "data" in sent:
            sent["content"] = sent.pop("data")
        answer = client.request(**sent, headers={k: v.encode("utf-8") for k, v in headers.items()})
        assert answer.status_code < 500, case.as_curl_command()
        answered[answer.status_code] += 1

    with suppress(Unsatisfiable):  # nothing that is broken can be sent where nothing is taken
        attempt()
    return answered
