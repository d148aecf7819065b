"""Who may see the review page, and how often: invitations, sessions, roles, limits, headers.

A person joins by a link that works once. Its token stands behind the link's #, which browsers neither
send to servers nor pass on, so it ends in no log. The store keeps hashes of tokens only. A session is a
random token of its own, signed, in a cookie that scripts cannot read and other sites cannot send.

On this computer alone (127.0.0.1) there is one local reviewer and no login; requests that came through
a proxy, or under another name than this computer's, are refused there.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeTimedSerializer

from geoslave.review.store import InvitationRefused, Reviewer, ReviewError, Store, UnknownReviewer

LOCAL_ID = "local"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
COOKIE = "geoslave_session"
INVITATION_DAYS = 7
SESSION_DAYS = 60
KNOWN_S = 3.0
"""Who is signed in is not looked up again for so long; what this server changes holds at once."""
CHECKED_S = 600.0
"""Nor is a cookie's signature checked again for so long."""
TICKET_DAYS = 2


class SignedOut(ReviewError):
    """Nobody, or nobody known, asks."""


class Forbidden(ReviewError):
    """The role, the origin or the place of the request does not allow it."""


class TooOften(ReviewError):
    """More requests than one person makes."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many requests: wait {max(1, round(seconds))} s and try again")
        self.seconds = max(1, round(seconds))


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests a second that go on for long, and at most at once."""

    person: tuple[float, int] = (30.0, 240)
    """Of one reviewer: looking ahead fetches a dozen pictures at once."""
    stranger: tuple[float, int] = (20.0, 120)
    """Of one address without a session: the page itself."""
    joining: tuple[float, int] = (0.5, 30)
    """Invitations tried from one address (a class room has one address)."""


class Throttle:
    """Token buckets by name; the names least recently seen are forgotten."""

    def __init__(self, remembered: int = 10_000) -> None:
        self._remembered = remembered
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._turn = threading.Lock()

    def pass_one(self, name: str, limit: tuple[float, int], now: float | None = None) -> None:
        """Raises TooOften if `name` is above `limit` (a second, at once)."""
        rate, most = limit
        now = time.monotonic() if now is None else now
        with self._turn:
            left, before = self._buckets.pop(name, (float(most), now))
            left = min(float(most), left + (now - before) * rate)
            self._buckets[name] = (max(left - 1, 0) if left >= 1 else left, now)
            while len(self._buckets) > self._remembered:
                self._buckets.popitem(last=False)
        if left < 1:
            raise TooOften((1 - left) / rate)


class Access:
    """Signs and checks what people carry: sessions, links, tickets for pictures."""

    def __init__(self, store: Store, *, login: bool) -> None:
        """
        Args:
            login: sessions are asked for; else everybody is the one local reviewer.
        """
        self.store = store
        self.login = login
        secret = _secret(store)
        self._sessions = URLSafeTimedSerializer(secret, salt="session")
        self._links = URLSafeTimedSerializer(secret, salt="link")
        self._tickets = URLSafeTimedSerializer(secret, salt="ticket")
        self._people: tuple[dict[str, Reviewer], float] = ({}, -math.inf)  # by the hash of their token; until when
        self._looking = threading.Lock()
        self._checked: dict[str, tuple[str, float]] = {}  # cookie -> the hash of its token; until when
        if not login:
            store.add_reviewer("you", "coordinator", reviewer_id=LOCAL_ID)

    def who(self, cookie: str | None) -> Reviewer:
        """The person behind a session's cookie.

        Raises:
            SignedOut: if there is none, it was tampered with, is too old, or the person was disabled.
        """
        known = self.known(cookie)
        if known is None:
            known = self._among(self._look_up(), cookie) or self._newcomer(cookie)
        if known is None:
            raise SignedOut("you are signed out: open your link again, or ask the coordinator for a new one")
        return known

    def known(self, cookie: str | None) -> Reviewer | None:
        """The same as far as it was looked up some seconds ago; asks no database."""
        people, until = self._people
        return None if until <= time.monotonic() else self._among(people, cookie)

    def _among(self, people: dict[str, Reviewer], cookie: str | None) -> Reviewer | None:
        return people.get(self._session_hash(cookie)) if self.login else people[LOCAL_ID]

    def _look_up(self) -> dict[str, Reviewer]:
        """Everybody at once, which is cheaper than each on their own: by the hash of their token."""
        with self._looking:
            if self._people[1] <= time.monotonic():
                people = self.store.signed_in() if self.login else {LOCAL_ID: self.store.reviewer(LOCAL_ID)}
                self._people = (people, time.monotonic() + KNOWN_S)
            return self._people[0]

    def _newcomer(self, cookie: str | None) -> Reviewer | None:
        """Somebody who joined at another server since."""
        hashed = self._session_hash(cookie)
        return self.store.reviewer_by_token(hashed) if self.login and hashed else None

    def _session_hash(self, cookie: str | None) -> str:
        """What the store knows a session by; empty if the cookie was not signed here, or too long ago."""
        hashed, until = self._checked.get(cookie or "", ("", 0.0))
        if until <= time.monotonic():
            token = _token(self._sessions, cookie, SESSION_DAYS)
            hashed = token_hash("session", token) if token else ""
            if hashed and cookie:
                if len(self._checked) > 10_000:
                    self._checked = {}
                self._checked[cookie] = (hashed, time.monotonic() + CHECKED_S)
        return hashed

    def forget(self) -> None:
        """People were changed: look everybody up again, also where others were being looked up meanwhile."""
        with self._looking:
            self._people = ({}, -math.inf)

    def join(self, link_token: str, name: str) -> tuple[Reviewer, str]:
        """Use a link, once: the person, and the cookie of their session.

        Raises:
            InvitationRefused: if it is unknown, used or too old.
        """
        session = secrets.token_urlsafe(32)
        hashed = token_hash("session", session)
        token = _token(self._links, link_token, INVITATION_DAYS)
        if token is None:
            raise InvitationRefused("this link is unknown, used or too old: ask for a new one")
        known = self.store.reviewer_by_token(token_hash("return", token))
        if known is None:
            known = self.store.redeem(token_hash("invitation", token), name, hashed)
        else:
            self.store.change_reviewer(known.id, token_hash=hashed)
            self.forget()
        return known, self._sessions.dumps(session)

    def leave(self, reviewer: Reviewer) -> None:
        """End the person's session, also where its cookie was copied to."""
        if self.login:
            self.store.change_reviewer(reviewer.id, token_hash=None)
            self.forget()

    def invite(self, role: str, days: float = INVITATION_DAYS) -> str:
        """A token for a new person's link; works once. The store keeps its hash."""
        token = secrets.token_urlsafe(32)
        self.store.invitation(token_hash("invitation", token), role, datetime.now(UTC) + timedelta(days=days))
        self.store.set_setting("invited", True)
        return str(self._links.dumps(token))

    def invite_back(self, reviewer_id: str) -> str:
        """A token for somebody who lost their session; works once and ends the session they had.

        Raises:
            UnknownReviewer: or disabled.
        """
        person = self.store.reviewer(reviewer_id)
        if person.role not in ("reviewer", "coordinator") or person.id == LOCAL_ID:
            raise UnknownReviewer(f"{reviewer_id} is nobody who signs in: see  geoslave review invite --list")
        token = secrets.token_urlsafe(32)
        self.store.change_reviewer(reviewer_id, token_hash=token_hash("return", token))
        self.forget()
        return str(self._links.dumps(token))

    def ticket(self, reviewer: Reviewer, task_id: str) -> str:
        """Lets this person, and nobody else, fetch the pictures of a task they were given."""
        return str(self._tickets.dumps([reviewer.id, task_id]))

    def admitted(self, reviewer: Reviewer, ticket: str) -> str:
        """The task whose pictures a ticket opens.

        Raises:
            Forbidden: if it is forged, too old, or somebody else's.
        """
        held = _opened(self._tickets, ticket, TICKET_DAYS)
        if not isinstance(held, list) or len(held) != 2 or held[0] != reviewer.id:
            raise Forbidden("this picture belongs to a task that was not given to you: take the next one")
        return str(held[1])


def token_hash(purpose: str, token: str) -> str:
    """What the store keeps of a token. Tokens are random, so that one fast hash is enough."""
    return hashlib.sha256(f"{purpose}:{token}".encode("utf-8", "replace")).hexdigest()


def is_set_up(store: Store) -> bool:
    """Whether people were invited, so that the page may be opened to other computers."""
    if store.setting("invited", False):
        return True
    return any(one.role in ("reviewer", "coordinator") and one.id != LOCAL_ID for one in store.reviewers())


def check_address(store: Store, host: str) -> None:
    """Refuse to open the page to others before anybody was invited.

    Raises:
        Forbidden: if `host` is not this computer alone and no reviewers are set up.
    """
    if host not in LOCAL_HOSTS and not is_set_up(store):
        raise Forbidden(
            f"{host} opens the page to other computers, but no reviewers are set up: "
            "make links first with  geoslave review invite"
        )


def check_local(host_header: str, headers: set[str]) -> None:
    """Without login, only this computer itself may ask: no proxy between, no other name (DNS rebinding).

    Raises:
        Forbidden: else.
    """
    name = urlsplit(f"//{host_header}").hostname if _is_host(host_header) else None
    if name not in LOCAL_HOSTS:
        raise Forbidden("without login this page answers to 127.0.0.1 and localhost only")
    if headers & {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"}:
        raise Forbidden("this came through a proxy: start the page with --login, so that people sign in")


def check_origin(method: str, host_header: str, origin: str | None, fetch_site: str | None) -> None:
    """A request that changes something must come from this page, not from another one in the same browser.

    Raises:
        Forbidden: else.
    """
    if method in ("GET", "HEAD", "OPTIONS"):
        return
    if fetch_site not in (None, "same-origin", "none"):
        raise Forbidden("this request came from another site: use the review page itself")
    if origin is not None and origin.partition("://")[2] != host_header:
        raise Forbidden("this request came from another site: use the review page itself")


def security_headers(secure: bool) -> dict[str, str]:
    """Sent with every answer: nothing but this server's own files runs or is shown, and nothing is kept."""
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "geolocation=(), camera=(), microphone=()",
        "X-Robots-Tag": "noindex",
    }
    return headers | ({"Strict-Transport-Security": "max-age=31536000"} if secure else {})


def _secret(store: Store) -> str:
    """Signs what people carry. Kept in the store, so that a restart signs nobody out; tokens are not."""
    if store.setting("secret") is None:
        store.set_setting("secret", secrets.token_urlsafe(32))
    return str(store.setting("secret"))


def _opened(box: URLSafeTimedSerializer, sealed: str | None, days: float) -> object:
    """What was signed; None if it was not signed here, or too long ago."""
    if not sealed or len(sealed) > 1000:
        return None
    try:
        held: object = box.loads(sealed, max_age=round(days * 86_400))
    except (BadSignature, ValueError):
        return None
    return held


def _token(box: URLSafeTimedSerializer, sealed: str | None, days: float) -> str | None:
    held = _opened(box, sealed, days)
    return held if isinstance(held, str) else None


def _is_host(text: str) -> bool:
    try:
        return bool(text) and urlsplit(f"//{text}").netloc == text
    except ValueError:
        return False
