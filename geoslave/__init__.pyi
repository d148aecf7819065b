from geoslave.api import (
    Count as Count,
    DemoScene as DemoScene,
    Evaluated as Evaluated,
    Findings as Findings,
    ReviewPlan as ReviewPlan,
    SceneView as SceneView,
    count_sites as count_sites,
    evaluate as evaluate,
    evaluate_layer as evaluate_layer,
    find_sites as find_sites,
    list_models as list_models,
    open_scene as open_scene,
    plan_review as plan_review,
    read_layer as read_layer,
    render_demo as render_demo,
)

__version__: str
