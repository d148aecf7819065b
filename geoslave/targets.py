"""What to look for: kinds of sites, with their sizes in metres and where each figure comes from.

A preset is one YAML file in configs/targets; a user's own target is one more of them, given by its path
wherever a target's name is asked for. A figure without an entry in `sources` is a placeholder: a guess that
a user should replace by measurements of a few places of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from geoslave.errors import GeoslaveError
from geoslave.settings import read_settings, suggestion

Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Range = tuple[Positive, Positive]
Words = Annotated[str, Field(min_length=1, max_length=2_000)]

SIZES = ("area_m2", "length_m", "aspect", "typical_m", "merge_distance_m", "gsd_m")
"""The figures that need a source each."""
_TOLD = (*SIZES, "shows", "season", "lookalikes")
_SOURCED = ("area_m2", "length_m", "aspect")
_REMEDY = "see one with  geoslave targets show fish_camp --yaml"


class TargetError(GeoslaveError):
    """A target's file asks for something that cannot be, or there is no such target."""


class Target(BaseModel):
    """A kind of site, as it looks from above."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="geoslave target")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="Short name: letters, digits and _.")
    title: Words = Field(description="As people call it.")
    shows: str = Field(default="", max_length=2_000, description="What of it can be seen from above.")
    area_m2: Range = Field(description="Smallest and largest plausible area of the outline.")
    length_m: Range = Field(description="Smallest and largest plausible longer side of the oriented box.")
    aspect: Range = Field(description="Smallest and largest plausible length / width.")
    typical_m: Range = Field(description="Length and width of a typical site: the footprint of a point label.")
    merge_distance_m: float = Field(
        ge=0, le=1e6, allow_inf_nan=False, description="Two detections farther apart than this are never one site."
    )
    gsd_m: Positive = Field(default=10, description="Coarsest imagery, in metres a pixel, in which it can be found.")
    chip_m: Positive | None = Field(
        default=None,
        description="Side of a chip in a search. null: 3.2 times the typical length; of large sites 480 m, or one "
        "length.",
    )
    dates: int = Field(default=1, ge=1, le=4, description="Dates to look at: 2 for what comes and goes with a season.")
    season: str = Field(default="", max_length=2_000, description="When it can be seen.")
    lookalikes: tuple[Words, ...] = Field(default=(), description="What is easily taken for it.")
    sources: dict[str, Words] = Field(default={}, description="Figure -> where it comes from. Others are guesses.")
    training: dict[str, Any] = Field(
        default={}, description="Settings of a training (see geoslave train) that differ from those of a search."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Target:
        for name in ("area_m2", "length_m", "aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the smallest, {low:g}, is more than the largest, {high:g}: swap them")
        if self.aspect[0] < 1:
            raise ValueError(f"aspect: {self.aspect[0]:g} is below 1: it is length / width, the longer side first")
        if self.typical_m[0] < self.typical_m[1]:
            raise ValueError(f"typical_m: length {self.typical_m[0]:g} is less than width {self.typical_m[1]:g}")
        if not self.length_m[0] <= self.typical_m[0] <= self.length_m[1]:
            raise ValueError(f"typical_m: a length of {self.typical_m[0]:g} m is outside of length_m")
        unknown = next((name for name in self.sources if name not in _TOLD), None)
        if unknown is not None:
            raise ValueError(f"sources: '{unknown}' is no figure{suggestion(unknown, _TOLD)}")
        return self

    @property
    def sourced(self) -> bool:
        """Whether its sizes come from a source."""
        return all(name in self.sources for name in _SOURCED)

    @property
    def unsourced(self) -> tuple[str, ...]:
        """The figures that are guesses."""
        return tuple(name for name in SIZES if name not in self.sources)

    @property
    def source(self) -> str:
        """All sources, in words."""
        named = "; ".join(dict.fromkeys(self.sources.values()))
        return named or "no published sizes: every figure is a guess"

    @property
    def search_chip_m(self) -> float:
        """Side of a chip in a search, in metres: about three sites, so that one fills enough of it to show.

        Of large sites a piece of 480 m, as Amazon Mining Watch works on.
        """
        length = self.typical_m[0]
        return self.chip_m or min(3.2 * length, max(length, 480.0))


def read_target(path: Path) -> Target:
    """A target from its YAML file.

    Raises:
        TargetError: that names the line, what is wrong with it, and what may have been meant.
    """
    return read_settings(path, Target, _REMEDY, TargetError)


def target_yaml(target: Target) -> str:
    """A target as the YAML file it can be read from."""
    facts = target.model_dump(mode="json", exclude_defaults=True)
    return str(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=110))


def target_files() -> Iterator[Path]:
    """The presets' files: in the installed package, else in the repository."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_targets", package.parent / "configs" / "targets"):
        if folder.is_dir():
            yield from sorted(folder.glob("*.yaml"))
            return


def preset_text(name: str) -> str:
    """The file of a preset, with its comments."""
    return next(path for path in target_files() if read_target(path).name == name).read_text(encoding="utf-8")


@cache
def _presets() -> dict[str, Target]:
    return {target.name: target for target in map(read_target, target_files())}


class _Presets(Mapping[str, Target]):
    """The presets by name; read when first asked for."""

    def __getitem__(self, name: str) -> Target:
        return _presets()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_presets())

    def __len__(self) -> int:
        return len(_presets())


TARGETS: Mapping[str, Target] = _Presets()


def is_target_file(name: str) -> bool:
    """Whether a target was given by the path of its file."""
    return name.lower().endswith((".yaml", ".yml"))


def get_target(name: str) -> Target:
    """The preset of this name, or the target in the YAML file of this path.

    Raises:
        TargetError: if there is none, or the file is wrong.
    """
    if is_target_file(name):
        return read_target(Path(name))
    if name in TARGETS:
        return TARGETS[name]
    if Path(name).is_file():
        raise TargetError(f"{name} is no target: a target's file ends in .yaml")
    near = suggestion(name, list(TARGETS)).removeprefix(": ")
    raise TargetError(f"no target '{name}': {near.rstrip('?')}, or give your own as a .yaml file")
