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

_API = (
    "Count",
    "DemoScene",
    "Evaluated",
    "Findings",
    "ReviewPlan",
    "SceneView",
    "count_sites",
    "evaluate",
    "evaluate_layer",
    "find_sites",
    "list_models",
    "open_scene",
    "plan_review",
    "read_layer",
    "render_demo",
)
"""Names of `geoslave.api` that stand here too (types: __init__.pyi)."""
__all__ = ["__version__", *_API]


def __getattr__(name: str) -> Any:
    """What notebooks use, loaded when it is first asked for (PEP 562)."""
    if name not in _API:
        raise AttributeError(f"module 'geoslave' has no attribute '{name}'; it has {', '.join(_API)}")
    value = getattr(importlib.import_module("geoslave.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
