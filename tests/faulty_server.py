"""`range_server`, but a share of its answers is bad: python faulty_server.py FOLDER SEED SHARE [KIND...]

A bad answer stalls, is cut in the middle, says 429 or 503, or holds garbage of the right length.
Which request meets which fault is drawn from the seed, the range and how often it was asked for.
/_faults answers how many there were of each kind.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import range_server

KINDS = ("stall", "cut", "429", "503", "garbage")


class FaultyHandler(range_server.Handler):
    seed = "0"
    share = 0.05
    stall_s = 3.0
    kinds: ClassVar[list[str]] = list(KINDS)
    asked: ClassVar[Counter[str]] = Counter()
    faults: ClassVar[Counter[str]] = Counter()

    def _send(self, status: int, content: bytes, body: bool, more: dict[str, str] | None = None) -> None:
        kind = self._fault() if status in (200, 206) and not self.path.startswith("/_") else None
        if kind is None:
            super()._send(status, content, body, more)
            return
        FaultyHandler.faults[kind] += 1
        if kind == "garbage":
            super()._send(status, random.Random(len(content)).randbytes(len(content)), body, more)
        elif kind in ("429", "503"):
            super()._send(int(kind), b"", False)
        else:
            self._break_off(status, content, more, kind)

    def _break_off(self, status: int, content: bytes, more: dict[str, str] | None, kind: str) -> None:
        """Promise all, send half of it, and then nothing or the end."""
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(more or {})}.items():
            self.send_header(key, value)
        with suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
        if kind == "stall":
            time.sleep(self.stall_s)
        self.close_connection = True

    def _fault(self) -> str | None:
        key = f"{self.command} {self.path} {self.headers.get('Range')}"
        FaultyHandler.asked[key] += 1
        digest = hashlib.sha256(f"{self.seed} {key} {FaultyHandler.asked[key]}".encode()).digest()
        drawn = random.Random(digest)
        return drawn.choice(self.kinds) if drawn.random() < self.share else None

    def _answer(self, body: bool) -> None:
        if self.path == "/_faults":
            super()._send(200, json.dumps(FaultyHandler.faults).encode(), body)
        else:
            super()._answer(body)


if __name__ == "__main__":
    FaultyHandler.folder = Path(sys.argv[1])
    FaultyHandler.seed, FaultyHandler.share = sys.argv[2], float(sys.argv[3])
    FaultyHandler.kinds = sys.argv[4:] or list(KINDS)
    server = ThreadingHTTPServer(("127.0.0.1", 0), FaultyHandler)
    print(server.server_port, flush=True)
    server.serve_forever()
