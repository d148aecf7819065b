"""Before any route: size, origin and place of a request; after it: the security headers."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from geoslave.review import access as a
from geoslave.review.tasks import MAX_NOTE

MAX_BODY = 1 << 17
DRAINED = 1 << 25
"""A larger body is not even read to its end."""
_HEADERS = {
    secure: [(name.lower().encode(), value.encode()) for name, value in a.security_headers(secure).items()]
    for secure in (False, True)
}


class Guard:
    """Before any route: size, origin and place of a request; after it: the security headers."""

    def __init__(self, app: ASGIApp, login: bool) -> None:
        self.app = app
        self.login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = with_headers(send, scope)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            host = headers.get("host", "")
            if not self.login:
                a.check_local(host, set(headers))
            a.check_origin(scope["method"], host, headers.get("origin"), headers.get("sec-fetch-site"))
        except a.Forbidden as error:
            await JSONResponse({"message": str(error), "kind": "Forbidden"}, 403)(scope, receive, send)
            return
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MAX_BODY:
            if int(length) <= DRAINED:
                await _drain(receive)
            await _too_large(scope, receive, send)
            return
        await self._bounded(scope, receive, send)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A body that does not say its length is cut off where it grows too large."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_BODY:
                raise _TooLarge
            return message

        async def unless_too_large(message: Message) -> None:
            if seen <= MAX_BODY:
                await send(message)

        with suppress(_TooLarge):
            await self.app(scope, counted, unless_too_large)
        if seen > MAX_BODY:
            await _too_large(scope, receive, send)


class _TooLarge(Exception):
    pass


async def _drain(receive: Receive) -> None:
    """Read a body to nowhere, so that a browser that is still sending gets our answer."""
    more = True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    message = f"what was sent is larger than {MAX_BODY >> 10} kB: a note has at most {MAX_NOTE} characters"
    await JSONResponse({"message": message, "kind": "TooLarge"}, 413, {"Connection": "close"})(scope, receive, send)


def with_headers(send: Send, scope: Scope) -> Callable[[Message], Awaitable[None]]:
    """What sends an answer with the security headers, to be kept by no cache unless it says otherwise."""
    added = _HEADERS[scope.get("scheme") == "https"]

    async def headed(message: Message) -> None:
        if message["type"] == "http.response.start":
            held = {name.lower() for name, _ in message["headers"]}
            extra = added + ([] if b"cache-control" in held else [(b"cache-control", b"no-store")])
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return headed
