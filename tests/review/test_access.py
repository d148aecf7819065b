"""Who gets in: links that work once, sessions that cannot be forged, roles, limits, addresses."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from itsdangerous import URLSafeTimedSerializer

from geoslave.cli.review_serve import invite, serve
from geoslave.errors import GeoslaveError, OutputError
from geoslave.review.access import (
    COOKIE,
    KNOWN_S,
    Access,
    Forbidden,
    Limits,
    SignedOut,
    Throttle,
    TooOften,
    check_address,
    check_local,
    check_origin,
    is_set_up,
    token_hash,
)
from geoslave.review.store import InvitationRefused, Reviewer, Store, UnknownReviewer, open_store
from tests.review.review_factory import add_review, client_of, signed_in


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "review.sqlite") as opened:
        add_review(opened, tmp_path)
        yield opened


@pytest.fixture
def access(store: Store) -> Access:
    return Access(store, login=True)


def test_a_link_works_once(access: Access) -> None:
    link = access.invite("reviewer")
    person, cookie = access.join(link, "Amina")
    assert (person.name, person.role) == ("Amina", "reviewer")
    assert access.who(cookie).id == person.id
    with pytest.raises(InvitationRefused, match="ask for a new one"):
        access.join(link, "Bram")


def test_links_and_sessions_that_were_not_made_here_are_refused(access: Access, store: Store) -> None:
    forged = URLSafeTimedSerializer("guessed", salt="session").dumps("x" * 43)
    _, cookie = access.join(access.invite("reviewer"), "Amina")
    changed = cookie[:-2] + ("AA" if cookie[-2:] != "AA" else "BB")
    for wrong in (None, "", forged, changed, cookie.upper(), "x" * 5000, access.invite("reviewer")):
        with pytest.raises(SignedOut):
            access.who(wrong)
    for wrong in ("", "nonsense", cookie, access.ticket(store.reviewers()[0], "t000-a")):
        with pytest.raises(InvitationRefused):
            access.join(wrong, "Mallory")
    assert [one.name for one in store.reviewers()] == ["Amina"]


def test_the_store_holds_no_token_that_would_open_a_door(access: Access, tmp_path: Path) -> None:
    link = access.invite("reviewer")
    unused = access.invite("coordinator")
    _, cookie = access.join(link, "Amina")
    held = b"".join(path.read_bytes() for path in tmp_path.glob("review.sqlite*"))
    for sealed, salt in ((link, "link"), (unused, "link"), (cookie, "session")):
        token = URLSafeTimedSerializer(access.store.setting("secret"), salt=salt).loads(sealed)
        assert token.encode() not in held and sealed.encode() not in held
    assert token_hash("session", token).encode() in held


def test_an_old_link_and_an_old_session_are_refused(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    link = access.invite("reviewer")
    _, cookie = access.join(access.invite("reviewer"), "Amina")
    later = datetime.now(UTC) + timedelta(days=61)
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: later.timestamp())
    with pytest.raises(InvitationRefused):
        access.join(link, "Bram")
    with pytest.raises(SignedOut):
        access.who(cookie)


def test_a_new_link_brings_the_same_person_back_and_ends_the_old_session(access: Access) -> None:
    person, cookie = access.join(access.invite("reviewer"), "Amina")
    link = access.invite_back(person.id)
    with pytest.raises(SignedOut):
        access.who(cookie)
    again, fresh = access.join(link, "somebody else")
    assert (again.id, again.name) == (person.id, "Amina")
    assert access.who(fresh).id == person.id
    with pytest.raises(InvitationRefused):
        access.join(link, "thief")
    with pytest.raises(UnknownReviewer):
        access.invite_back("nobody")


def test_who_is_shut_out_is_out_at_once(access: Access, store: Store) -> None:
    person, cookie = access.join(access.invite("reviewer"), "Amina")
    assert access.who(cookie) == person
    store.change_reviewer(person.id, disabled=True)
    access.forget()
    with pytest.raises(SignedOut):
        access.who(cookie)


def test_who_is_shut_out_while_others_are_looked_up_is_out_too(
    access: Access, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, cookie = access.join(access.invite("reviewer"), "Amina")
    looked, go_on = threading.Event(), threading.Event()
    look_up = store.signed_in

    def slowly() -> dict[str, Reviewer]:
        people = look_up()
        looked.set()
        go_on.wait(20)
        return people

    monkeypatch.setattr(store, "signed_in", slowly)
    asking = threading.Thread(target=access.who, args=[cookie])
    asking.start()
    looked.wait(20)
    store.change_reviewer(person.id, disabled=True)
    forgetting = threading.Thread(target=access.forget)
    forgetting.start()
    forgetting.join(0.2)  # it may have to wait for the other
    go_on.set()
    for thread in (asking, forgetting):
        thread.join(20)
    assert access.known(cookie) is None
    with pytest.raises(SignedOut):
        access.who(cookie)


def test_who_is_shut_out_by_another_program_is_out_soon(
    access: Access, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    person, cookie = access.join(access.invite("reviewer"), "Amina")
    access.who(cookie)
    store.change_reviewer(person.id, disabled=True)
    now = time.monotonic()
    monkeypatch.setattr("geoslave.review.access.time.monotonic", lambda: now + KNOWN_S + 1)
    with pytest.raises(SignedOut):
        access.who(cookie)


def test_a_ticket_opens_pictures_for_its_owner_alone(access: Access) -> None:
    amina, _ = access.join(access.invite("reviewer"), "Amina")
    bram, _ = access.join(access.invite("coordinator"), "Bram")
    ticket = access.ticket(amina, "t000-a")
    assert access.admitted(amina, ticket) == "t000-a"
    for person, held in ((bram, ticket), (amina, ticket + "A"), (amina, "x"), (amina, access.invite("reviewer"))):
        with pytest.raises(Forbidden):
            access.admitted(person, held)


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(store: Store, tmp_path: Path) -> None:
    client = client_of(store, tmp_path, login=True)
    token = Access(store, login=True).invite("reviewer")
    kept = client.post("/api/join", json={"token": token, "name": "Amina"}).headers["set-cookie"]
    assert kept.startswith(f"{COOKIE}=") and "HttpOnly" in kept and "SameSite=strict" in kept and "Path=/" in kept
    assert "Secure" not in kept
    client.base_url = "https://127.0.0.1:8765"  # type: ignore[assignment]
    again = client.post("/api/join", json={"token": Access(store, login=True).invite("reviewer"), "name": "Bram"})
    assert "Secure" in again.headers["set-cookie"]
    assert "max-age" in again.headers["strict-transport-security"]


def test_signing_out_ends_the_session_wherever_its_cookie_went(store: Store, tmp_path: Path) -> None:
    client = signed_in(store, tmp_path, "Amina")
    stolen = dict(client.cookies)
    assert client.get("/api/me").status_code == 200
    assert client.post("/api/leave", json={}).json() == {"left": True}
    client.cookies.update(stolen)
    assert client.get("/api/me").status_code == 401


def test_too_many_requests_are_slowed_down_for_one_person_only(store: Store, tmp_path: Path) -> None:
    few = Limits(person=(0.001, 5), stranger=(0.001, 3), joining=(0.001, 2))
    client = signed_in(store, tmp_path, "Amina", limits=few)
    answers = [client.get("/api/me") for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    assert int(answers[-1].headers["retry-after"]) > 0 and "wait" in answers[-1].json()["message"]
    assert signed_in(store, tmp_path, "Bram", limits=few).get("/api/me").status_code == 200
    stranger = client_of(store, tmp_path, login=True, limits=few)
    assert [stranger.get("/api/me").status_code for _ in range(4)] == [401] * 3 + [429]
    tries = [stranger.post("/api/join", json={"token": "x", "name": "x"}).status_code for _ in range(3)]
    assert tries == [403, 403, 429]


def test_a_throttle_lets_people_on_again_after_a_while() -> None:
    throttle = Throttle(remembered=2)
    for _ in range(3):
        throttle.pass_one("a", (1.0, 3), now=0.0)
    with pytest.raises(TooOften):
        throttle.pass_one("a", (1.0, 3), now=0.5)
    throttle.pass_one("a", (1.0, 3), now=1.6)
    for name in ("b", "c"):
        throttle.pass_one(name, (1.0, 3), now=1.6)
    throttle.pass_one("a", (1.0, 3), now=1.6)  # forgotten meanwhile: memory is bounded


def test_other_addresses_need_reviewers(store: Store, access: Access) -> None:
    Access(store, login=False)  # the local reviewer does not count
    assert not is_set_up(store)
    check_address(store, "127.0.0.1")
    for host in ("0.0.0.0", "192.168.1.5", "::"):
        with pytest.raises(Forbidden, match="geoslave review invite"):
            check_address(store, host)
    access.invite("reviewer")
    check_address(store, "0.0.0.0")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:8000", "[::1]:8000"])
def test_without_login_this_computer_is_answered(host: str) -> None:
    check_local(host, {"accept"})
    with pytest.raises(Forbidden, match="--login"):
        check_local(host, {"accept", "x-forwarded-for"})


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "[", "a b"])
def test_without_login_no_other_name_is_answered(host: str) -> None:
    with pytest.raises(Forbidden):
        check_local(host, set())


def test_another_site_in_the_same_browser_cannot_vote() -> None:
    check_origin("POST", "127.0.0.1:8000", "http://127.0.0.1:8000", "same-origin")
    check_origin("POST", "127.0.0.1:8000", None, None)  # no browser
    check_origin("GET", "127.0.0.1:8000", "http://evil.example", "cross-site")
    for origin, site in (("http://evil.example", None), ("null", None), (None, "cross-site"), (None, "same-site")):
        with pytest.raises(Forbidden, match="another site"):
            check_origin("POST", "127.0.0.1:8000", origin, site)


def test_serve_refuses_the_world_until_somebody_is_invited(store: Store, tmp_path: Path) -> None:
    refused = CliRunner().invoke(serve, [str(tmp_path), "--host", "0.0.0.0"])
    assert isinstance(refused.exception, Forbidden) and "no reviewers are set up" in str(refused.exception)


def test_invite_prints_links_that_work(store: Store, tmp_path: Path) -> None:
    words = [str(tmp_path), "--count", "2", "--role", "coordinator", "--url", "https://review.example.org/"]
    links = CliRunner().invoke(invite, words).stdout.split()
    assert len(links) == 2 and all(link.startswith("https://review.example.org/join#") for link in links)
    person, _ = Access(store, login=True).join(links[0].split("#")[1], "Chief")
    assert person.role == "coordinator"
    again = CliRunner().invoke(invite, [str(tmp_path), "--again", person.id, "--json"])
    link = json.loads(again.stdout)["links"][0]
    assert link.startswith("https://review.example.org/join#"), "the address was kept"
    assert Access(store, login=True).join(link.split("#")[1], "")[0].id == person.id
    listed = CliRunner().invoke(invite, [str(tmp_path), "--list"]).stdout
    assert person.id in listed and "Chief" in listed


def test_a_folder_without_a_review_is_told(tmp_path: Path) -> None:
    told = CliRunner().invoke(serve, [str(tmp_path)]).exception
    assert isinstance(told, GeoslaveError) and "geoslave review create" in str(told)
    asked = CliRunner().invoke(serve, ["postgresql://geoslave@/nothing"])
    assert asked.exit_code == 2 and "--pictures" in asked.output


def test_a_port_that_is_taken_is_told(store: Store, tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        told = CliRunner().invoke(serve, [str(tmp_path), "--port", str(held.getsockname()[1])]).exception
    assert isinstance(told, OutputError) and "--port" in str(told)
