"""region.yaml: what a region job is asked to do, checked with line numbers and suggestions."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from geoslave.errors import GeoslaveError
from geoslave.settings import read_settings, suggestion
from geoslave.targets import TARGETS, TargetError, get_target, is_target_file

Composite = Literal["single", "latest", "least_cloudy", "median"]

_NOT_OF_THE_RESULT = {"workers", "threads", "attempts", "timeout_s", "gate"}
"""Settings that change how fast a job is, not what it finds; the gate does only where the model has one."""


class ConfigError(GeoslaveError):
    """region.yaml asks for something that cannot be."""


class RegionConfig(BaseModel):
    """The settings of a region job."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="geoslave region")

    target: str = Field(
        description="The kind of site to look for: a preset (geoslave targets list), or your own target's .yaml file."
    )
    model: str = Field(description="A model's name (geoslave models list) or folder.")
    aoi: str | None = Field(
        default="aoi.geojson", description="Polygons; only sites inside are reported. null: all of the scenes."
    )
    scenes: tuple[str, ...] = Field(
        default=(),
        description="Rasters, VRTs, addresses, folders or patterns (*.tif). Empty: the STAC items in scenes/.",
    )
    composite: Composite = Field(
        default="single",
        description="single: each scene on its own grid. Else scenes are brought to one grid per UTM zone and made "
        "one: by the latest, the least cloudy, or the cloud-masked median of all.",
    )
    bands: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={}, description="Band numbers by name, where scenes do not tell: {red: 3, green: 2, blue: 1}."
    )
    crs: str | None = Field(default=None, description="CRS of scenes that declare none, e.g. EPSG:32645.")
    nodata: float | Literal["none"] | None = Field(
        default=None, description="Value that means nodata, or none. null: what the scenes say."
    )
    threshold: float | None = Field(
        default=None, gt=0, le=1, description="Score that makes a detection. null: the model's."
    )
    date: datetime.date | None = Field(
        default=None, description="When the scenes were taken. null: what the scenes say."
    )
    block: int = Field(
        default=2816,
        ge=16,
        le=16384,
        description="Side of a block in pixels: a piece of work that is done, or lost and done again, as one. "
        "Rounded up to whole chips of the model.",
    )
    keep_scores: bool = Field(
        default=True, description="Keep the score map of each block (about 2 % of the imagery's size)."
    )
    backend: Literal["auto", "onnx", "torch"] = Field(default="auto", description="What runs the network.")
    gate: bool = Field(
        default=True,
        description="Let the model's gate, if it has one, choose where the model looks closely. false: everywhere.",
    )
    workers: int | None = Field(default=None, ge=1, description="Processes. null: one per core.")
    threads: int | None = Field(default=None, ge=1, description="Threads per process. null: cores / workers.")
    attempts: int = Field(default=3, ge=1, le=20, description="How often a failing block is tried.")
    timeout_s: float = Field(default=3600, gt=0, description="A block that takes longer is stopped and tried again.")

    @field_validator("target")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        if info.context and info.context.get("read_before"):
            return value  # a person's own target is kept by its name, which no list knows
        if is_target_file(value):
            try:
                return get_target(value).name
            except TargetError as error:
                raise ValueError(str(error)) from None
        if value not in TARGETS:
            raise ValueError(f"'{value}' is no target{suggestion(value, list(TARGETS))}")
        return value

    @classmethod
    def read_again(cls, told: dict[str, Any]) -> RegionConfig:
        """Settings as a run or an index keeps them (`model_dump`): checked when they were read from region.yaml."""
        return cls.model_validate(told, context={"read_before": True})

    def of_the_result(self) -> dict[str, Any]:
        """The settings that the result depends on, as plain values."""
        return self.model_dump(mode="json", exclude=_NOT_OF_THE_RESULT)


def read_config(path: Path) -> RegionConfig:
    """Read a region.yaml.

    Raises:
        ConfigError: that names the line, what is wrong with it, and what may have been meant.
    """
    return read_settings(path, RegionConfig, "make it with  geoslave region init", ConfigError)


def json_schema() -> dict[str, Any]:
    """The JSON schema of region.yaml, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **RegionConfig.model_json_schema()}


def template(target: str, model: str, scenes: Sequence[str] = (), aoi: str | None = "aoi.geojson") -> str:
    """A region.yaml with every setting explained; what may stay as it is is commented out."""
    given = {"target": target, "model": model, "aoi": aoi, "scenes": list(scenes), "composite": "single"}
    lines = [
        "# A region job of geoslave. Settings with a # before them have the value shown.",
        "# yaml-language-server: $schema=region.schema.json",
        "",
    ]
    for name, field in RegionConfig.model_fields.items():
        lines += [f"# {line}" for line in _wrapped(field.description or "")]
        value = given.get(name, field.default)
        text = f"{name}: {json.dumps(value, ensure_ascii=False)}"
        lines += [text if name in given else f"# {text}", ""]
    return "\n".join(lines)


def _wrapped(text: str, width: int = 100) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)
