from geoslave.api.counting import Count, ReviewPlan, count_sites, plan_review
from geoslave.api.evaluating import Evaluated, evaluate, evaluate_layer
from geoslave.api.findings import Findings, find_sites, list_models, read_layer
from geoslave.api.scenes import DemoScene, SceneView, open_scene, render_demo

__version__: str
__all__ = [
    "Count",
    "DemoScene",
    "Evaluated",
    "Findings",
    "ReviewPlan",
    "SceneView",
    "__version__",
    "count_sites",
    "evaluate",
    "evaluate_layer",
    "find_sites",
    "list_models",
    "open_scene",
    "plan_review",
    "read_layer",
    "render_demo",
]
