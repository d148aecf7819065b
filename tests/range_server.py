"""An HTTP file server with range requests on loopback: python range_server.py FOLDER [--no-versions]

A process of its own, because GDAL holds Python's lock while it opens a file. Prints its port;
/_sent answers with the bytes of file content sent so far. Files have an ETag, unless --no-versions.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    folder = Path()
    sent = 0
    versions = True
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        if self.path == "/_sent":
            self._send(200, str(Handler.sent).encode(), body=True)
            return
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self._send(404, b"", body=False)
            return
        size = path.stat().st_size
        version = {"ETag": f'"{path.stat().st_mtime_ns:x}"'} if self.versions else {}
        asked = self.headers.get("Range")
        if not asked:
            self._send(200, path.read_bytes(), body, version)
            return
        start, _, end = asked.removeprefix("bytes=").partition("-")
        first, last = int(start), min(int(end or size), size - 1)
        with path.open("rb") as file:
            file.seek(first)
            content = file.read(last + 1 - first)
        self._send(206, content, body, {"Content-Range": f"bytes {first}-{last}/{size}", **version})

    def _send(self, status: int, content: bytes, body: bool, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Accept-Ranges": "bytes", "Content-Length": str(len(content)), **(more or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)
            if self.path != "/_sent":
                Handler.sent += len(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    Handler.versions = "--no-versions" not in sys.argv
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
