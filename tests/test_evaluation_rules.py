"""What makes a hit and a duplicate follows the size of what is looked for."""

from geoslave.evaluation import rules_for
from geoslave.targets import get_target


def test_kilns_keep_their_published_distances_and_roofs_are_not_merged() -> None:
    assert rules_for(get_target("brick_kiln")) == {"duplicate_m": 35, "max_distance_m": 50, "edge_m": 50}
    roofs = rules_for(get_target("building"))
    assert roofs["duplicate_m"] <= 1 and roofs["max_distance_m"] <= 1 and roofs["edge_m"] <= 20
