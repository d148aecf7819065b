"""A report as PDF: printed by a Chromium that is on this machine, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from geoslave.errors import GeoslaveError, OutputError
from geoslave.files import atomic_file

SETTING = "GEOSLAVE_CHROMIUM"
"""The environment variable that names the browser."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge", "microsoft-edge")
_ELSEWHERE = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
_SECONDS = 120


def find_browser() -> str:
    """Chromium, Chrome or Edge.

    Raises:
        GeoslaveError: if there is none.
    """
    named = os.environ.get(SETTING)
    found = [named] if named else [shutil.which(name) for name in NAMES] + list(_ELSEWHERE)
    for path in found:
        if path and Path(path).is_file():
            return path
    raise GeoslaveError(
        "a PDF needs Chromium, Google Chrome or Edge, and there is none here: install one, name it with "
        f"{SETTING}, or open the HTML file in a browser and print it"
    )


def print_pdf(html: Path, out: Path, *, overwrite: bool = False) -> None:
    """Print an HTML file.

    Raises:
        GeoslaveError: without a browser, or if it fails.
        OutputError: if `out` exists and `overwrite` is false, or it cannot be written.
    """
    browser = find_browser()
    with tempfile.TemporaryDirectory() as scratch, atomic_file(out, overwrite=overwrite) as draft:
        made = Path(scratch) / "report.pdf"
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--disable-extensions",
            "--no-first-run",
            "--no-pdf-header-footer",
            f"--user-data-dir={scratch}/profile",
            f"--print-to-pdf={made}",
            html.resolve().as_uri(),
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chromium refuses its sandbox to root; the page is our own
            command.insert(1, "--no-sandbox")
        try:
            subprocess.run(command, capture_output=True, timeout=_SECONDS, check=True)
            shutil.copyfile(made, draft)
        except (subprocess.SubprocessError, OSError) as error:
            raise OutputError(
                f"{out} was not written: {Path(browser).name} could not print it ({type(error).__name__}); open "
                f"{html.name} in a browser and print it"
            ) from error
