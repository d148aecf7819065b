"""The documentation: nothing without words, a site that builds offline without a warning, links that lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def site_of() -> ModuleType:
    """scripts/docs_site.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "scripts/docs_site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as the README says; a warning is an error."""
    place = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(place)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "GEOSLAVE_MODELS": str(place.parent / "none")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    return place


def test_every_command_option_and_setting_has_words(site_of: ModuleType) -> None:
    assert site_of.undocumented() == []


def test_what_lacks_words_is_named(site_of: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from geoslave.cli.detect import command

    monkeypatch.setattr(command.params[1], "help", None)
    monkeypatch.setattr(command, "epilog", None)
    assert site_of.undocumented() == [
        "geoslave detect: no example",
        f"geoslave detect {command.params[1].opts[0]}: no help",
    ]


def test_every_command_and_setting_has_its_place(site_of: ModuleType) -> None:
    pages = site_of.pages()
    for path, command in site_of.all_commands():
        text = pages[f"commands/{path[1]}.md"]
        assert f"geoslave {' '.join(path[1:])}\n" in text
        for option in command.params:
            assert option.param_type_name == "argument" or f"{option.opts[0]}" in text
    for name, (module, model, _, _) in site_of.CONFIGS.items():
        for found in site_of.nested(site_of._load(module, model)):
            for setting in found.model_fields:
                assert f"`{setting}`" in pages[f"settings/{name}.md"]


def test_text_of_people_stays_text(site_of: ModuleType) -> None:
    assert site_of._cell("a|b <script> *.tif `x<y`") == "a\\|b \\<script\\> \\*.tif `x<y`"


def test_links_of_the_readme_lead_where_they_led(site_of: ModuleType) -> None:
    moved = site_of._moved(
        "[a](docs/region.md#engines) [b](data/models/kiln-s2/README.md) [c](https://x.org)", "README.md", "index.md"
    )
    assert moved == "[a](region.md#engines) [b](models/kiln-s2.md) [c](https://x.org)"
    assert site_of._moved("[r](reliability.png)", "data/models/kiln-s2/README.md", "models/kiln-s2.md") == (
        "[r](../data/models/kiln-s2/reliability.png)"
    )


def test_the_site_is_whole_and_asks_no_server(built: Path) -> None:
    for name in (
        "index",
        "tutorial",
        "commands/region",
        "settings/region",
        "python/api",
        "models/kiln-s2",
        "responsible-use",
    ):
        assert (built / f"{name}.html").is_file()
    loaded = re.compile(
        r"<(?:script|img|iframe|source)[^>]+src=\"(?:https?:)?//|<link[^>]+href=\"(?:https?:)?//[^\"]+\.css"
    )
    for page in built.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not loaded.search(text), page.name
        assert str(ROOT) not in text, f"{page.name} holds a path of this machine"
    for style in built.rglob("*.css"):
        assert not re.search(r"@import|url\((?:https?:)?//", style.read_text("utf-8"))


def test_links_and_pictures_of_the_site_exist(built: Path) -> None:
    """Also those written as HTML, which mkdocs does not check."""
    for page in built.rglob("*.html"):
        if page.name == "404.html":
            continue
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text("utf-8")):
            if "://" in link or link.startswith(("mailto:", "data:", "javascript:")):
                continue
            assert (page.parent / link).exists(), f"{page.relative_to(built)} leads to {link}"
