"""OpenLayers is fetched once, from the registry in use here, and only if it is what was reviewed."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fetch_web() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_web", ROOT / "scripts" / "fetch_web.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _npm(folder: Path, script: str) -> None:
    """An npm that does what `script` says; $4 is where it should put the package."""
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


def test_another_package_is_refused(fetch_web: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _npm(tmp_path, f'test "$2" = ol@{fetch_web.VERSION} && echo something else > "$4/ol-{fetch_web.VERSION}.tgz"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(fetch_web.FetchError, match="not the package that was reviewed"):
        fetch_web.fetch(tmp_path / "vendor")
    assert not (tmp_path / "vendor").exists() and not fetch_web.is_there(tmp_path / "vendor")


@pytest.mark.parametrize("script", ["exit 1", "exit 0"])
def test_without_a_connection_one_line_says_what_to_do(
    script: str, fetch_web: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """npm fails, or says all is well and leaves nothing."""
    _npm(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(fetch_web.FetchError, match=r"again with a connection") as caught:
        fetch_web.fetch(tmp_path / "vendor")
    assert "\n" not in str(caught.value)


def test_without_any_npm_it_says_what_is_missing(
    fetch_web: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(fetch_web.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(fetch_web.FetchError, match=fetch_web.NODE_WHEEL):
        fetch_web.fetch(tmp_path / "vendor")


def test_no_registry_stands_in_git() -> None:
    hosts = ("registry." + "npmjs", "files." + "pythonhosted", "pypi." + "org/simple")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        text = (ROOT / name).read_bytes().decode("utf-8", errors="ignore") if (ROOT / name).is_file() else ""
        assert not any(host in text for host in hosts), name


def test_nothing_third_party_is_in_git() -> None:
    listed = subprocess.run(["git", "ls-files", "geoslave/review/web"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        assert "vendor" not in listed.stdout
