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


def test_another_package_is_refused(fetch_web: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_web, "_download", lambda address: b"something else")
    with pytest.raises(fetch_web.FetchError, match="not the package that was reviewed"):
        fetch_web.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == [] and not fetch_web.is_there(tmp_path)


def test_without_a_connection_one_line_says_what_to_do(
    fetch_web: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    assert fetch_web.registry() == "http://127.0.0.1:9"
    with pytest.raises(fetch_web.FetchError, match=r"run  python3 scripts/fetch_web\.py"):
        fetch_web.fetch(tmp_path)


def test_the_registry_is_npms_own_unless_it_is_set(
    fetch_web: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("npm_config_registry", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert fetch_web.registry() == fetch_web.PUBLIC
    (tmp_path / ".npmrc").write_text("fund=false\nregistry = https://npm.example.org/\n")
    assert fetch_web.registry() == "https://npm.example.org"


def test_nothing_third_party_is_in_git() -> None:
    listed = subprocess.run(["git", "ls-files", "geoslave/review/web"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        assert "vendor" not in listed.stdout
