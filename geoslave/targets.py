"""What to look for: kinds of sites, with their sizes in metres and where each figure comes from.

A preset without a source says so (`sourced=False`): its figures are placeholders a user should
replace.
"""

from __future__ import annotations

from dataclasses import dataclass

from geoslave.errors import GeoslaveError


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of site, as it looks from above."""

    name: str
    title: str
    area_m2: tuple[float, float]
    """Smallest and largest plausible area of the outline."""
    length_m: tuple[float, float]
    """Smallest and largest plausible longer side of the oriented box."""
    aspect: tuple[float, float]
    """Smallest and largest plausible length / width."""
    typical_m: tuple[float, float]
    """Length and width of a typical site: the default footprint of a point label."""
    merge_distance_m: float
    """Two detections farther apart than this are never one site."""
    sourced: bool
    source: str


_KILNEYE = "KilnEye: medians and 5-95 % ranges of 21,941 hand-validated oriented boxes in India"

TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target(
            name="brick_kiln",
            title="brick kiln (Bull's trench or zigzag)",
            area_m2=(1_500, 12_000),
            length_m=(50, 150),
            aspect=(1.2, 2.9),
            typical_m=(100, 48),
            merge_distance_m=50,
            sourced=True,
            source=_KILNEYE,
        ),
        Target(
            name="mine",
            title="artisanal gold mine",
            area_m2=(2_000, 5_000_000),
            length_m=(50, 20_000),
            aspect=(1, 50),
            typical_m=(480, 480),
            merge_distance_m=50,
            sourced=False,
            source="no published outlines; Amazon Mining Watch works on patches of 480 m",
        ),
        Target(
            name="fish_camp",
            title="fish-processing camp",
            area_m2=(1_000, 500_000),
            length_m=(30, 2_000),
            aspect=(1, 20),
            typical_m=(200, 150),
            merge_distance_m=50,
            sourced=False,
            source="no published sizes; drying racks are what shows (Jackson et al. 2020, 10 camps in the Sundarbans)",
        ),
        Target(
            name="charcoal",
            title="charcoal production site",
            area_m2=(20, 2_000),
            length_m=(5, 60),
            aspect=(1, 3),
            typical_m=(15, 15),
            merge_distance_m=10,
            sourced=False,
            source="no published sizes; dark round ash spots that need imagery of about 0.5 m",
        ),
        Target(
            name="building",
            title="building",
            area_m2=(10, 20_000),
            length_m=(3, 300),
            aspect=(1, 20),
            typical_m=(12, 8),
            merge_distance_m=1,
            sourced=False,
            source="a stand-in target with dense public labels, used in tests and tutorials",
        ),
    )
}


def get_target(name: str) -> Target:
    """The preset of this name.

    Raises:
        GeoslaveError: if there is none.
    """
    try:
        return TARGETS[name]
    except KeyError:
        raise GeoslaveError(f"no target '{name}': choose one of {', '.join(TARGETS)}") from None
