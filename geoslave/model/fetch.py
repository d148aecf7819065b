"""A model package fetched from the net into a scratch folder; nothing of it is trusted or kept yet (see `library`)."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from ipaddress import ip_address
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit

from geoslave.errors import ModelError
from geoslave.model.package import FILES, PICTURES, open_package

LARGEST_PACKAGE = 4 << 30
"""Bytes of a package, packed or not: more is no model of ours but a trap."""
TIMEOUT_S = 30.0
"""So long a server may keep silent."""

Step = Callable[[str, int, int], None]
"""Takes what is fetched, bytes that came, and bytes that will come (0: the server does not say)."""

_PIECE = 1 << 16
_DESCRIPTION = 1 << 24
"""Bytes that model.json may have."""
_ZIP = b"PK"
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*://")
_SHOWN_PICTURE = re.compile(r"!\[[^\]]*\]\(\s*(?:\./)?([\w.\-]+)")


def is_address(source: str) -> bool:
    """Whether a source is an address on the net and no path."""
    return _SCHEME.match(source) is not None


def fetch_package(address: str, folder: Path, step: Step = lambda *_: None) -> Path:
    """Fetch a package: a .zip, or a folder that holds model.json and the files it names.

    Args:
        address: https:// (http:// only to this computer), of the .zip, of the folder or of its model.json.
        folder: an empty scratch folder that is there.

    Returns:
        The .zip or a folder, below `folder`; still to be checked.

    Raises:
        ModelError: if the address is of another kind or cannot be reached, if what is there is no package, is
            larger than LARGEST_PACKAGE, or breaks off.
    """
    fetch = _Fetch(address, step)
    path = urlsplit(address).path
    if path.endswith(("/model.json", "/")):
        return fetch.files(_folder_of(address), folder / "files")
    archive = folder / "package.zip"
    try:
        fetch.file(address, archive, "package")
    except _NotThereError:
        if path.lower().endswith(".zip"):
            raise
    else:
        with archive.open("rb") as file:
            if file.read(len(_ZIP)) == _ZIP or path.lower().endswith(".zip"):
                return archive
        archive.unlink()
    return fetch.files(_folder_of(address + "/"), folder / "files")


class _NotThereError(ModelError):
    """The server answers that it has no such thing."""


@dataclass(slots=True)
class _Fetch:
    """One package; counts all bytes, so that many files are no way round the limit."""

    address: str
    step: Step
    fetched: int = 0

    def files(self, base: str, folder: Path) -> Path:
        """model.json below an address, then what it names and what its card shows."""
        folder.mkdir()
        try:
            self.file(_join(base, "model.json"), folder / "model.json", "model.json", _DESCRIPTION)
        except _NotThereError as error:
            raise ModelError(
                f"{self.address} is no model package: there is neither a .zip nor a model.json; give the address of one"
            ) from error
        self._refuse_unreadable(folder)
        for name in self._named(folder / "model.json"):
            self.file(_join(base, name), folder / name, name)
        for name in _shown(folder / "README.md"):
            try:
                self.file(_join(base, name), folder / name, name)
            except _NotThereError:  # a card without its picture still is a card
                continue
        return folder

    def _refuse_unreadable(self, folder: Path) -> None:
        """A description of a newer format, or of something else, is told before its files are fetched."""
        try:
            open_package(folder, verify=False)
        except ModelError as error:
            raise ModelError(str(error).replace(str(folder), self.address)) from error

    def _named(self, description: Path) -> list[str]:
        """The files that a model.json names, each a bare name of a package's file."""
        try:
            assets = json.loads(description.read_text(encoding="utf-8"))["assets"].values()
            names = [str(asset["href"]).removeprefix("./") for asset in assets]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self.address}: model.json is no description of a model ({type(error).__name__}): "
                "check the address, or ask who made it"
            ) from error
        for name in names:
            if name not in FILES and not _is_picture(name):
                raise ModelError(
                    f"{self.address}: its model.json names '{name}', which belongs to no model package: "
                    "do not trust where it came from"
                )
        return [name for name in dict.fromkeys(names) if name != "model.json"]

    def file(self, address: str, path: Path, called: str, largest: int = LARGEST_PACKAGE) -> None:
        """One file."""
        try:
            with _opener(address).open(_request(address), timeout=TIMEOUT_S) as answer, path.open("wb") as out:
                total = int(answer.headers.get("Content-Length") or 0)
                self._refuse_too_large(total, largest)
                done = 0
                for piece in _pieces(answer):
                    done += len(piece)
                    self._refuse_too_large(done, largest)
                    out.write(piece)
                    self.step(f"fetching {called}", done, total)
        except HTTPError as error:
            what = _NotThereError if error.code in (403, 404, 410) else ModelError
            raise what(f"{self.address}: the server answers {error.code} for {called}: check the address") from error
        except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            raise ModelError(
                f"{self.address} cannot be reached ({' '.join(str(reason).split())[:120] or type(reason).__name__}): "
                "check the address and the network, or fetch the .zip by hand and add that"
            ) from error
        except OSError as error:
            raise ModelError(f"{self.address}: {called} cannot be written ({error.strerror}): make room") from error
        if total and done < total:
            raise ModelError(f"{self.address}: {called} broke off after {done:,} of {total:,} bytes: try again")
        self.fetched += done

    def _refuse_too_large(self, size: int, largest: int) -> None:
        if size > largest or self.fetched + size > LARGEST_PACKAGE:
            raise ModelError(
                f"{self.address}: larger than {min(largest, LARGEST_PACKAGE):,} bytes: no model is so large; "
                "check the address"
            )


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """A server may send us on, but not to where we would not go by ourselves."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        _refuse_other_kinds(newurl)
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise ModelError(f"{req.full_url} sends on to {newurl}, which is not encrypted: do not trust it")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(address: str) -> urllib.request.OpenerDirector:
    """Opens http and https alone; no proxy stands between this computer and itself."""
    _refuse_other_kinds(address)
    proxies = [urllib.request.ProxyHandler({})] if _is_loopback(urlsplit(address).hostname or "") else []
    return urllib.request.build_opener(_SafeRedirects(), *proxies)


def _request(address: str) -> urllib.request.Request:
    return urllib.request.Request(address, headers={"User-Agent": "geoslave"})


def _pieces(answer: Any) -> Iterator[bytes]:
    while piece := answer.read(_PIECE):
        yield piece


def _refuse_other_kinds(address: str) -> None:
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError as error:
        raise ModelError(f"{address} is no address ({error}): check it") from error
    if not host or parts.scheme not in ("https", "http"):
        raise ModelError(f"{address}: a model is fetched from https:// addresses; give one, or a folder or .zip")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ModelError(
            f"{address} is not encrypted, so anybody on the way could change the model: give its https:// address"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _folder_of(address: str) -> str:
    """An address without the last part of its path; query kept, for it may be a key."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(path=parts.path.rsplit("/", 1)[0] + "/"))


def _join(base: str, name: str) -> str:
    parts = urlsplit(base)
    return urlunsplit(parts._replace(path=parts.path + name))


def _shown(card: Path) -> list[str]:
    """The pictures beside it that a card shows."""
    if not card.is_file():
        return []
    names = _SHOWN_PICTURE.findall(card.read_text(encoding="utf-8", errors="replace"))
    return [name for name in dict.fromkeys(map(unquote, names)) if _is_picture(name)]


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).name == name and "\\" not in name and Path(name).suffix.lower() in PICTURES
