"""What stands around each site: distances, siting rules it would break, clusters.

Distances run from a point inside the site's outline to the nearest part of the feature, in metres on
the WGS 84 ellipsoid, 0 inside a polygon. They are measured in geocentric coordinates, where a straight
line is the distance to a centimetre over 10 km: outlines and lines become short pieces, a tree over
the pieces' middles gives candidates, and more are asked for until the nearest is certain. Nothing
beyond `max_distance_m` is looked for: its distance is missing.

A rule broken on a map is a question, not a verdict: a site may be older than the rule or the school.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from geoslave.detections.match import Geometries, lonlat
from geoslave.errors import GeoslaveError

MAX_DISTANCE_M = 50_000.0
KILN = "kiln"
"""In rules: the nearest other site of the layer itself."""
CLUSTER_M = 2_000.0
CLUSTER_LEAST = 5
_SEMI_MAJOR_M, _ECCENTRICITY2 = 6_378_137.0, 6.694379990141e-3
_PIECE_M, _PIECES = 250.0, 4_000_000
_AT_ONCE = 1_000_000

Floats = NDArray[np.float64]


class Rule(BaseModel):
    """A site must keep this far from features of a kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: str = Field(min_length=1)
    """Name of the context layer, e.g. school; kiln is the nearest other site."""
    at_least_m: float = Field(gt=0, allow_inf_nan=False)
    """Metres that must lie between them."""
    verified: bool = False
    """Whether whoever wrote it down read the distance in a text of the rule; else it must be read before use."""


class RuleBook(BaseModel):
    """Dated siting rules of a place, with their source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    """As people cite it."""
    place: str
    """Where it holds."""
    in_force_from: datetime.date
    """Since when."""
    source: str = Field(min_length=10)
    """Where it can be read."""
    rules: tuple[Rule, ...] = Field(min_length=1)
    """Distances to be kept."""

    @property
    def unverified(self) -> tuple[str, ...]:
        """What the distances are to that nobody read in a text of the rule."""
        return tuple(rule.to for rule in self.rules if not rule.verified)


def read_rules(path: str | Path) -> RuleBook:
    """Read a rule book (configs/rules/*.yaml).

    Raises:
        GeoslaveError: if it cannot be read, lacks its source or date, or holds what no rule has.
    """
    path = Path(path)
    try:
        return RuleBook.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise GeoslaveError(f"{path} cannot be read ({error.strerror}): check the name") from error
    except (yaml.YAMLError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise GeoslaveError(f"{path}: {where}: {' '.join(str(first['msg']).split())}") from error


def enrich(
    sites: gpd.GeoDataFrame,
    layers: Mapping[str, gpd.GeoDataFrame],
    books: Sequence[RuleBook] = (),
    cluster_m: float = CLUSTER_M,
    cluster_least: int = CLUSTER_LEAST,
    max_distance_m: float = MAX_DISTANCE_M,
) -> gpd.GeoDataFrame:
    """The sites with columns of their surroundings.

    `<layer>_m` for each layer and `kiln_m` (the nearest other site): metres, missing beyond `max_distance_m`;
    `breaks_<book>`: the rules it would break, in words, empty for none; `unchecked_<book>`: those whose layer
    was not given; `cluster_id` (-1: none) and `cluster_size` from DBSCAN.

    Raises:
        GeoslaveError: if a layer has no CRS or no features.
    """
    points = shapely.point_on_surface(lonlat(sites, "sites"))
    at = np.stack([shapely.get_x(points), shapely.get_y(points)], axis=1)
    if not np.isfinite(at).all():
        raise GeoslaveError("some sites have no outline: remove them first")
    # neighbours in the table are neighbours on the ground: twice as fast a search
    order = np.lexsort((np.floor(at[:, 0] * 20), np.floor(at[:, 1] * 20)))
    back = np.argsort(order)
    place = geocentric(at[order])
    distances = {name: nearest(at[order], layer, name, max_distance_m)[back] for name, layer in layers.items()}
    distances.setdefault(KILN, _nearest_other(place, max_distance_m)[back])
    columns: dict[str, object] = {f"{name}_m": np.round(metres, 1) for name, metres in distances.items()}
    for book in books:
        columns[f"breaks_{book.name}"], columns[f"unchecked_{book.name}"] = _broken(book, distances)
    cluster, size = clusters(place, cluster_m, cluster_least)
    return sites.assign(**columns, cluster_id=cluster[back], cluster_size=size[back])


def nearest(at: Floats, layer: gpd.GeoDataFrame, name: str, max_distance_m: float = MAX_DISTANCE_M) -> Floats:
    """Metres from each point [n, 2] (longitude, latitude) to the nearest feature; NaN beyond the limit."""
    features = lonlat(layer, f"features '{name}'")
    features = shapely.get_parts(features[~(shapely.is_missing(features) | shapely.is_empty(features))])
    if not len(features):
        raise GeoslaveError(f"layer '{name}' has no features: leave it out, or give another")
    start, end, longest = _pieces(shapely.get_parts(features))
    metres = _nearest_piece(geocentric(at), start, end, longest, max_distance_m)
    polygons = features[shapely.get_type_id(features) == 3]
    if len(polygons):
        metres[shapely.STRtree(polygons).query(shapely.points(at), predicate="within")[0]] = 0
    return np.where(metres <= max_distance_m, metres, np.nan)


def clusters(place: Floats, within_m: float, least: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """DBSCAN (Ester et al. 1996): cluster of each site, numbered by size from 0, -1 for none; and its size.

    A site with at least `least` sites within `within_m`, itself counted, is a core; cores in reach of each other
    are one cluster; a site in reach of a core joins the nearest one's.

    Args:
        place: [n, 3] geocentric metres.
    """
    n = len(place)
    label, size = np.full(n, -1, np.int64), np.zeros(n, np.int64)
    if not n:
        return label, size
    tree = _tree(place)
    core = np.flatnonzero(tree.query_ball_point(place, within_m, return_length=True, workers=-1) >= least)
    if not len(core):
        return label, size
    cores = _tree(place[core])
    pairs = cores.query_pairs(within_m, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(core), len(core)))
    group = connected_components(links, directed=False)[1]
    metres, near = cores.query(place, distance_upper_bound=within_m, workers=-1)
    inside = np.isfinite(metres)
    label[inside] = group[near[inside]]
    counts = np.bincount(label[inside])
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    size[inside] = counts[label[inside]]
    label[inside] = rank[label[inside]]
    return label, size


def geocentric(at: Floats) -> Floats:
    """[n, 3] metres from the centre of the earth, of points [n, 2] in longitude/latitude on WGS 84."""
    lon, lat = np.radians(at).T
    radius = _SEMI_MAJOR_M / np.sqrt(1 - _ECCENTRICITY2 * np.sin(lat) ** 2)
    x, y = radius * np.cos(lat) * np.cos(lon), radius * np.cos(lat) * np.sin(lon)
    return np.stack([x, y, radius * (1 - _ECCENTRICITY2) * np.sin(lat)], axis=1)


def _tree(place: Floats) -> cKDTree:
    return cKDTree(place, balanced_tree=False, compact_nodes=False)


def _nearest_other(place: Floats, max_distance_m: float) -> Floats:
    if len(place) < 2:
        return np.full(len(place), np.nan)
    metres = _tree(place).query(place, k=2, distance_upper_bound=max_distance_m, workers=-1)[0][:, 1]
    return np.where(np.isfinite(metres), metres, np.nan)


def _pieces(features: Geometries) -> tuple[Floats, Floats, float]:
    """Points, lines and rings as pieces [m, 3] to [m, 3] in geocentric metres, and the length of the longest."""
    kind = shapely.get_type_id(features)
    spots = shapely.get_coordinates(features[kind == 0])
    chains = np.concatenate([features[(kind == 1) | (kind == 2)], shapely.get_rings(features[kind == 3])])
    corners, chain = shapely.get_coordinates(chains, return_index=True)
    joined = chain[1:] == chain[:-1]
    a, b = corners[:-1][joined], corners[1:][joined]
    length = np.linalg.norm(geocentric(b) - geocentric(a), axis=1)
    longest = max(_PIECE_M, float(length.sum()) / _PIECES)
    parts = np.maximum(np.ceil(length / longest), 1).astype(int)
    of = np.repeat(np.arange(len(a)), parts)
    number = np.arange(len(of)) - np.repeat(np.cumsum(parts) - parts, parts)
    step = ((b - a) / parts[:, None])[of] if len(a) else np.zeros((0, 2))
    starts = a[of] + step * number[:, None]
    return (
        np.concatenate([geocentric(spots), geocentric(starts)]),
        np.concatenate([geocentric(spots), geocentric(starts + step)]),
        longest if len(a) else 0.0,
    )


def _nearest_piece(place: Floats, start: Floats, end: Floats, longest: float, max_distance_m: float) -> Floats:
    """Metres to the nearest piece; none is nearer than its middle less half its length: so one knows when to stop."""
    tree = _tree((start + end) / 2)
    metres = np.full(len(place), np.inf)
    left, k = np.arange(len(place)), 4 if longest else 1
    while len(left):
        unsure = []
        for rows in np.array_split(left, max(1, len(left) * k // _AT_ONCE)):
            middle, piece = tree.query(
                place[rows], k=range(1, k + 1), distance_upper_bound=max_distance_m + longest, workers=-1
            )
            known = np.isfinite(middle)
            at = np.where(known, piece, 0)
            metres[rows] = np.where(known, _to_piece(place[rows][:, None], start[at], end[at]), np.inf).min(1)
            unsure.append(rows[middle[:, -1] - longest / 2 < metres[rows]])
        left, k = (np.concatenate(unsure), k * 4) if k < len(start) else (left[:0], k)
    return metres


def _to_piece(point: Floats, start: Floats, end: Floats) -> Floats:
    """Distance from points to straight pieces, on the last axis."""
    along = end - start
    square = (along**2).sum(-1)
    share = np.divide(((point - start) * along).sum(-1), square, out=np.zeros(square.shape), where=square > 0)
    return np.asarray(np.linalg.norm(point - start - np.clip(share, 0, 1)[..., None] * along, axis=-1))


def _broken(book: RuleBook, distances: Mapping[str, Floats]) -> tuple[NDArray[np.object_], str]:
    """For each site the rules it would break, in words; and which could not be checked."""
    n = len(next(iter(distances.values())))
    said = np.full(n, "", dtype=object)
    for rule in book.rules:
        if rule.to not in distances:
            continue
        broken = distances[rule.to] < rule.at_least_m  # a missing distance is a large one
        doubt = "" if rule.verified else " (distance not verified)"
        said[broken] = said[broken] + f"{rule.to} < {rule.at_least_m:g} m{doubt}; "
    unchecked = ", ".join(rule.to for rule in book.rules if rule.to not in distances)
    return np.array([text.rstrip("; ") for text in said], dtype=object), unchecked


def summary(enriched: gpd.GeoDataFrame, books: Sequence[RuleBook]) -> dict[str, object]:
    """How many sites break which book, and how they cluster."""
    return {
        "n_sites": len(enriched),
        "rules": {
            book.name: {
                "n_breaking": int((enriched[f"breaks_{book.name}"] != "").sum()),
                "unchecked": str(enriched[f"unchecked_{book.name}"].iloc[0]) if len(enriched) else "",
                "unverified": ", ".join(book.unverified),
                "in_force_from": book.in_force_from.isoformat(),
                "source": book.source,
            }
            for book in books
        },
        "n_clusters": int(enriched["cluster_id"].max() + 1) if len(enriched) else 0,
        "n_in_clusters": int((enriched["cluster_id"] >= 0).sum()),
        "median_m": {
            name[:-2]: None if pd.isna(median) else float(median)
            for name in enriched.columns
            if name.endswith("_m") and name not in ("length_m", "width_m")
            for median in [enriched[name].median()]
        },
    }
