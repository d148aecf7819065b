"""What may be wrong with a model package, done to one: on disk and on the net it is refused alike."""

from __future__ import annotations

import json
from pathlib import Path


def tamper(model: Path) -> None:
    with (model / "model.onnx").open("ab") as file:
        file.write(b"\0")


def lose(model: Path) -> None:
    (model / "model.safetensors").unlink()


def age(model: Path) -> None:
    """Made by a newer geoslave, with a file that this one does not know."""
    item = json.loads((model / "model.json").read_text())
    item["properties"]["geoslave:spec"]["format"] = 99
    item["properties"]["geoslave:version"] = "7.1"
    item["assets"]["new"] = {"href": "./new.bin"}
    (model / "model.json").write_text(json.dumps(item))
