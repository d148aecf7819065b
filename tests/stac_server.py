"""A small STAC API (1.0.0, with item search, `query` and paging) on loopback: python stac_server.py ITEMS.json

ITEMS.json is a list of items. Prints its port. /busy?times=N makes the next N searches answer 429;
/web answers a web page, as a wrong address does; /log answers what was searched for.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import shapely

CORE = "https://api.stacspec.org/v1.0.0"
CONFORMS = [
    f"{CORE}/core",
    f"{CORE}/collections",
    f"{CORE}/item-search",
    f"{CORE}/item-search#query",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
]


class Handler(BaseHTTPRequestHandler):
    items: tuple[dict[str, Any], ...] = ()
    busy = 0
    log: tuple[dict[str, Any], ...] = ()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(address.query).items()}
        if address.path == "/search":
            self._search(_from_query(asked), get=asked)
        elif address.path == "/busy":
            Handler.busy = int(asked["times"])
            self._answer({})
        elif address.path == "/log":
            self._answer({"searches": list(Handler.log)})
        elif address.path == "/web":
            self._send(200, b"<!DOCTYPE html><html><body>Welcome</body></html>", "text/html")
        else:
            self._page(address.path)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._search(body, get=None)

    def _page(self, path: str) -> None:
        collections = [self._collection(name) for name in sorted({item["collection"] for item in self.items})]
        named = {f"/collections/{one['id']}": one for one in collections}
        pages = {
            "/": self._root(),
            "/conformance": {"conformsTo": CONFORMS},
            "/collections": {"collections": collections, "links": self._links()},
            **named,
        }
        if path in pages:
            self._answer(pages[path])
        else:
            self._answer({"code": "NotFound", "description": path}, 404)

    def _search(self, asked: dict[str, Any], get: dict[str, str] | None) -> None:
        if Handler.busy > 0:
            Handler.busy -= 1
            self._answer({"code": "TooManyRequests"}, 429)
            return
        Handler.log = (*Handler.log, asked)
        found = [item for item in self.items if _fits(item, asked)]
        limit, token = int(asked.get("limit", 10)), int(asked.get("token", 0))
        answer: dict[str, Any] = {
            "type": "FeatureCollection",
            "features": found[token : token + limit],
            "links": self._links(),
            "context": {"matched": len(found), "returned": len(found[token : token + limit])},
        }
        if token + limit < len(found):
            answer["links"].append(self._next(token + limit, get))
        self._answer(answer)

    def _next(self, token: int, get: dict[str, str] | None) -> dict[str, Any]:
        link = {"rel": "next", "type": "application/geo+json", "href": f"{self._base()}/search"}
        if get is None:
            return {**link, "method": "POST", "body": {"token": str(token)}, "merge": True}
        from urllib.parse import urlencode

        return {**link, "method": "GET", "href": f"{link['href']}?{urlencode({**get, 'token': token})}"}

    def _base(self) -> str:
        return f"http://{self.headers['Host']}"

    def _links(self) -> list[dict[str, Any]]:
        return [{"rel": rel, "type": "application/json", "href": f"{self._base()}/"} for rel in ("root", "self")]

    def _root(self) -> dict[str, Any]:
        search = {"rel": "search", "type": "application/geo+json", "href": f"{self._base()}/search"}
        links = [
            *self._links(),
            {"rel": "conformance", "type": "application/json", "href": f"{self._base()}/conformance"},
            {"rel": "data", "type": "application/json", "href": f"{self._base()}/collections"},
            {**search, "method": "GET"},
            {**search, "method": "POST"},
        ]
        return {
            "type": "Catalog",
            "id": "loopback",
            "title": "Scenes made for a test",
            "description": "Scenes made for a test",
            "stac_version": "1.0.0",
            "conformsTo": CONFORMS,
            "links": links,
        }

    def _collection(self, name: str) -> dict[str, Any]:
        return {
            "type": "Collection",
            "id": name,
            "description": "Scenes made for a test",
            "stac_version": "1.0.0",
            "license": "CC-BY-4.0",
            "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
            "links": self._links(),
        }

    def _answer(self, content: dict[str, Any], status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


def _from_query(asked: dict[str, str]) -> dict[str, Any]:
    """A search by GET in the terms of one by POST."""
    body: dict[str, Any] = dict(asked)
    for key in ("intersects", "query"):
        if key in body:
            body[key] = json.loads(body[key])
    if "bbox" in body:
        body["bbox"] = [float(v) for v in body["bbox"].split(",")]
    if "collections" in body:
        body["collections"] = body["collections"].split(",")
    return body


def _fits(item: dict[str, Any], asked: dict[str, Any]) -> bool:
    ground = shapely.from_geojson(json.dumps(item["geometry"]))
    if "collections" in asked and item["collection"] not in asked["collections"]:
        return False
    if "bbox" in asked and not ground.intersects(shapely.box(*asked["bbox"])):
        return False
    if "intersects" in asked and not ground.intersects(shapely.from_geojson(json.dumps(asked["intersects"]))):
        return False
    if "datetime" in asked and not _in_time(item["properties"]["datetime"], asked["datetime"]):
        return False
    compare = {"lt": float.__lt__, "lte": float.__le__, "gt": float.__gt__, "gte": float.__ge__, "eq": float.__eq__}
    return all(
        compare[how](float(item["properties"][name]), float(value))
        for name, rules in asked.get("query", {}).items()
        for how, value in rules.items()
    )


def _in_time(moment: str, span: str) -> bool:
    first, _, last = span.partition("/")
    when = datetime.fromisoformat(moment)
    after = first in ("", "..") or datetime.fromisoformat(first) <= when
    return after and (last in ("", "..") or when <= datetime.fromisoformat(last or first))


if __name__ == "__main__":
    Handler.items = tuple(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
