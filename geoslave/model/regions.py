"""The regions of a recipe's labelled scenes, and the same recipe without one of them: leave one region out."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import pandas as pd

from geoslave.errors import GeoslaveError, LabelError
from geoslave.labels.formats import read_labels
from geoslave.labels.split import named
from geoslave.model.outlines import NOT_LEARNED, Outlines, class_indices
from geoslave.model.recipe import LabelledScenes, TrainConfig
from geoslave.model.scene_pixels import grid_of


@dataclass(frozen=True, slots=True)
class Regions:
    """Which scenes a recipe has in which region, and all sites it knows."""

    scenes: Mapping[str, tuple[Path, ...]]
    """By region, by falling number of scenes."""
    n_without: int
    """Scenes of which no label tells the region: they are trained on whatever is held out, and never looked at."""
    sites: gpd.GeoDataFrame
    """In longitude and latitude, each outline once; only what the recipe learns as a site."""


def region_of(here: gpd.GeoDataFrame, source: LabelledScenes) -> str | None:
    """The region that most labels of a scene name."""
    if not source.region_column or not len(here):
        return None
    if source.region_column not in here:
        raise LabelError(f"{source.labels} has no column '{source.region_column}': change 'region_column'")
    return str(here[source.region_column].mode()[0])


def read_regions(config: TrainConfig) -> Regions:
    """The regions that can be left out; those a recipe holds out anyway, and scenes it leaves out, are not among them.

    No pixel is read.

    Raises:
        GeoslaveError: if the recipe names no regions, there are fewer than two, or the labels cannot be read.
    """
    sources = [source for source in config.scenes if source.region_column]
    if not sources:
        raise GeoslaveError(
            f"no labelled scenes of {config.name} tell their region: set 'region_column' of 'scenes' to the column of "
            "the labels that names it (chips with a yes or no alone cannot be cross-validated by region)"
        )
    scenes: defaultdict[str, list[Path]] = defaultdict(list)
    n_without, sites = 0, []
    for source in sources:
        if not source.labels or source.centre_in_name:
            raise GeoslaveError(
                f"scenes of {source.scenes} cannot be held out by region: that takes 'labels' with a column "
                f"'{source.region_column}' and scenes with a georeference of their own"
            )
        table = read_labels(source.labels, config.sought)
        table = table.assign(class_index=class_indices(table, source, config))
        sites.append(_sites(table, config))
        outlines = Outlines(table)
        for path in sorted(Path(source.scenes).glob(source.files)):
            grid = None if named(path.name, source.leave_out) else grid_of(path, config)
            if grid is None:  # what cannot be read, training says
                continue
            region = region_of(outlines.on(grid), source)
            if region is None:
                n_without += 1
            elif region not in source.held_out:
                scenes[region].append(path)
    if len(scenes) < 2:
        raise GeoslaveError(
            f"the scenes of {config.name} lie in {len(scenes)} region ({', '.join(scenes) or 'none'}) by "
            f"'region_column': {sources[0].region_column}; leaving one out takes two or more"
        )
    ordered = {name: tuple(scenes[name]) for name in sorted(scenes, key=lambda name: (-len(scenes[name]), name))}
    known = pd.concat(sites, ignore_index=True)
    once = ~pd.Series(known.geometry.normalize().to_wkb()).duplicated().to_numpy()
    return Regions(ordered, n_without, known[once].reset_index(drop=True))


def without(config: TrainConfig, region: str, suffix: str) -> TrainConfig:
    """The recipe with one region more held out, and a name and a card that say so.

    Args:
        suffix: what stands for the region in the model's name (`slugs`).

    Raises:
        GeoslaveError: if nothing would be left to validate on.
    """
    checked = config.validation
    if checked.by == "region" and set(checked.regions) <= {region}:
        raise GeoslaveError(
            f"validation.regions names {region} alone: with it held out nothing is left to validate on; name another "
            "region too, or set validation.by to blocks or none"
        )
    scenes = tuple(
        source.model_copy(update={"held_out": (*source.held_out, region)}) if source.region_column else source
        for source in config.scenes
    )
    said = config.publication
    publication = said.model_copy(
        update={
            "title": f"{said.title}, trained without {region}",
            "metrics": {},  # those are of another network
            "card": f"A part of a cross-validation: it has not seen {region}, and is there to be measured on it.",
        }
    )
    changes = {"name": f"{config.name}-without-{suffix}", "scenes": scenes, "publication": publication}
    return config.model_copy(update=changes)


def slugs(regions: Sequence[str]) -> dict[str, str]:
    """Regions as parts of names of files and models: a-z, 0-9 and dashes, all different."""
    taken: dict[str, str] = {}
    for number, region in enumerate(sorted(regions), start=1):
        ascii_only = unicodedata.normalize("NFKD", region).encode("ascii", "ignore").decode().lower()
        plain = re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-") or "region"
        while plain in taken.values():
            plain = f"{plain}-{number}"
        taken[region] = plain
    return taken


def _sites(table: gpd.GeoDataFrame, config: TrainConfig) -> gpd.GeoDataFrame:
    kept = table[table["class_index"] != NOT_LEARNED]
    if config.classes:  # the labels may call the class in a column of another name
        kept = kept.assign(class_name=[config.classes[index] for index in kept["class_index"]])
    return kept.drop(columns="class_index").to_crs(4326)
