"""`geoslave models add https://...`: fetched, checked as a package from disk is, and nothing kept that is not right."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from geoslave.errors import ModelError
from geoslave.model import fetch
from geoslave.model.library import add_package
from geoslave.model.mlm import sha256
from geoslave.model.package import open_package
from tests.factories import write_bright_model
from tests.model.spoiling import age, lose, tamper

Run = Callable[..., tuple[int, str, str]]


class _Handler(SimpleHTTPRequestHandler):
    """A folder on loopback; /to/... sends on to what follows, /short/... breaks off after half, /500 fails."""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path.startswith("/short/"):
            content = (Path(self.directory) / self.path.removeprefix("/short/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
        elif self.path == "/500":
            self.send_error(500)
        else:
            super().do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("GEOSLAVE_MODELS", str(folder))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_bright_model(tmp_path / "served" / "bright")


@pytest.fixture
def server(model: Path) -> Iterator[str]:
    """The address at which the folder above the model is served."""
    listening = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(model.parent)))
    thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()


def pack(model: Path, name: str = "bright.zip", **extra: bytes) -> Path:
    archive = model.parent / name
    with zipfile.ZipFile(archive, "w") as packed:
        for path in model.iterdir():
            packed.write(path, path.name)
        for entry, content in extra.items():
            packed.writestr(entry.replace("__", "/").replace("_DOT_", "."), content)
    return archive


def refused(home: Path, address: str, words: str) -> str:
    with pytest.raises(ModelError, match=words) as caught:
        add_package(address)
    said = str(caught.value)
    assert "\n" not in said and ".geoslave-" not in said and str(home) not in said
    assert not home.exists() or not list(home.iterdir()), "nothing may be kept"
    return said


@pytest.mark.parametrize(
    "path",
    ["bright.zip", "to//bright.zip", "bright.zip?download=1", "archive", "bright/", "bright", "bright/model.json"],
)
def test_a_model_is_fetched_as_an_archive_or_file_by_file(path: str, model: Path, server: str, home: Path) -> None:
    (model / "README.md").write_text(
        "# bright\n\n![reliability](./reliability.png) ![gone](gone.png) ![odd](../x.png)\n"
    )
    (model / "reliability.png").write_bytes(b"picture")
    (pack(model).rename(model.parent / "archive") if path == "archive" else pack(model))
    seen: list[tuple[str, int, int]] = []
    added = add_package(f"{server}/{path}", step=lambda *now: seen.append(now))
    assert added.folder == home / "bright"
    assert open_package("bright").checksum == sha256(model / "model.onnx")
    assert {path.name for path in home.iterdir()} == {"bright"}
    assert {p.name: p.read_bytes() for p in added.folder.iterdir()} == {p.name: p.read_bytes() for p in model.iterdir()}
    what, done, total = seen[-1]
    assert what.startswith("fetching") and done == total > 0


def test_the_command_takes_an_address(model: Path, server: str, home: Path, run: Run) -> None:
    pack(model)
    status, out, err = run("models", "add", f"{server}/bright.zip", "--json")
    assert status == 0, err
    assert json.loads(out)["folder"] == str(home / "bright")
    status, _, err = run("models", "add", f"{server}/bright.zip")
    assert status == 1 and "--overwrite" in err
    status, _, err = run("models", "add", f"{server}/absent.zip")
    assert status == 1 and f"{server}/absent.zip: the server answers 404" in err


def no_json(model: Path) -> None:
    (model / "model.json").write_text("<html>")


@pytest.mark.parametrize("form", ["zip", "folder"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (tamper, "hash differs"),
        (lose, "is missing|answers 404 for model.safetensors"),
        (age, r"made by geoslave 7\.1, newer than this .*update"),
        (no_json, "cannot be read as a model description"),
        (lambda model: (model / "model.json").unlink(), "no model package"),
    ],
)
def test_what_is_wrong_is_named_by_its_address_and_not_kept(
    damage: Callable[[Path], None], words: str, form: str, model: Path, server: str, home: Path
) -> None:
    damage(model)
    address = f"{server}/{pack(model).name if form == 'zip' else 'bright/'}"
    assert address.rstrip("/") in refused(home, address, words)


def test_an_archive_with_a_way_out_or_a_pickle_is_refused(model: Path, server: str, home: Path, tmp_path: Path) -> None:
    pack(model, "slip.zip", ___DOT__DOT___DOT__DOT___evil_DOT_png=b"x")
    refused(home, f"{server}/slip.zip", "way out")
    assert not list(tmp_path.rglob("evil*"))
    pack(model, "pickle.zip", extra_DOT_pkl=pickle.dumps({"a": 1}))
    refused(home, f"{server}/pickle.zip", r"extra\.pkl")


@pytest.mark.parametrize(
    "href", ["./weights.pkl", "../../secret.png", "https://elsewhere.example/model.onnx", "/etc/passwd"]
)
def test_a_description_that_names_other_files_is_refused(href: str, model: Path, server: str, home: Path) -> None:
    item = json.loads((model / "model.json").read_text())
    item["assets"]["more"] = {"href": href}
    (model / "model.json").write_text(json.dumps(item))
    (model / "weights.pkl").write_bytes(pickle.dumps({"a": 1}))
    refused(home, f"{server}/bright/", "belongs to no model package")


def test_what_is_too_large_is_refused_before_it_came(
    model: Path, server: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(model)
    largest = archive.stat().st_size - 1
    monkeypatch.setattr(fetch, "LARGEST_PACKAGE", largest)
    refused(home, f"{server}/bright.zip", f"larger than {largest:,} bytes")
    # many small files are no way round it
    monkeypatch.setattr(fetch, "LARGEST_PACKAGE", max(path.stat().st_size for path in model.iterdir()) + 1)
    refused(home, f"{server}/bright/", "larger than")


def test_what_breaks_off_or_fails_is_told(model: Path, server: str, home: Path) -> None:
    pack(model)
    refused(home, f"{server}/short/bright.zip", "broke off after [0-9,]+ of [0-9,]+ bytes: try again")
    refused(home, f"{server}/500", "answers 500")
    refused(home, f"{server}/to/{server}/absent.zip", "answers 404")


def test_only_addresses_that_nobody_on_the_way_can_change_are_taken(server: str, home: Path) -> None:
    refused(home, "http://example.org/bright.zip", "not encrypted")
    refused(home, "ftp://example.org/bright.zip", "https://")
    refused(home, "file:///etc/passwd", "https://")
    refused(home, "https://", "https://")
    for onward in ("file:///etc/passwd", "http://example.org/bright.zip", "ftp://example.org/x"):
        refused(home, f"{server}/to/{onward}", "https://|not encrypted|cannot be reached|302")


def test_a_server_that_is_not_there_is_told(server: str, home: Path) -> None:
    refused(home, "https://127.0.0.1:1/bright.zip", "cannot be reached .*by hand")
    refused(home, server.replace("http:", "https:") + "/bright.zip", "cannot be reached")  # it speaks no TLS
