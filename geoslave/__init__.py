"""geoslave: map and measure the places of modern slavery that can be seen from space.

In a notebook, `import geoslave` is all that is needed; what it offers is loaded when it is used:

    scene = geoslave.open_scene("scene.tif")
    found = geoslave.find_sites("scene.tif", model="kiln-s2")
    found.detections                       # a GeoDataFrame
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_API = {
    "scenes": ("DemoScene", "SceneView", "open_scene", "render_demo"),
    "findings": ("Findings", "find_sites", "list_models", "read_layer"),
    "evaluating": ("Evaluated", "evaluate", "evaluate_layer"),
    "counting": ("Count", "ReviewPlan", "count_sites", "plan_review"),
}
"""Modules of `geoslave.api`, and their names that stand here too (types: __init__.pyi)."""
_HOME = {name: module for module, names in _API.items() for name in names}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """What notebooks use, loaded when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'geoslave' has no attribute '{name}'; it has {', '.join(_HOME)}")
    value = getattr(importlib.import_module(f"geoslave.api.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
