"""A page for people, served from this computer until Ctrl-C."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from geoslave.errors import MissingExtra, OutputError

if TYPE_CHECKING:
    from fastapi import FastAPI


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """An open door at an address.

    Raises:
        OutputError: if it cannot be opened.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, port))
        except OSError as error:
            why = error.strerror or error
            raise OutputError(f"{host}:{port} cannot be opened ({why}): choose another --port") from error
        yield door


def serve_until_stopped(app: FastAPI, door: socket.socket, **options: Any) -> None:
    """Serve until Ctrl-C.

    Args:
        options: of uvicorn.

    Raises:
        MissingExtra: without a server.
    """
    try:
        import uvicorn
    except ImportError:
        raise MissingExtra("the review page", "review") from None
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # who looked when is nobody's business
        server_header=False,
        forwarded_allow_ips="127.0.0.1",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        **options,
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[door])
