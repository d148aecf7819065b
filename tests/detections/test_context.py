"""Distances, siting rules and clusters around sites."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely

from geoslave.detections.context import clusters, enrich, geocentric, nearest, read_rules, summary
from geoslave.errors import GeoslaveError

Run = Callable[..., tuple[int, str, str]]
RULES = Path(__file__).resolve().parents[2] / "configs" / "rules"
GEOD = pyproj.Geod(ellps="WGS84")


def points(*at: tuple[float, float]) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(geometry=[shapely.Point(p) for p in at], crs=4326)


def around(lon: float, lat: float, azimuth: float, metres: float) -> tuple[float, float]:
    return GEOD.fwd(lon, lat, azimuth, metres)[:2]


@pytest.mark.parametrize("lat", [0.0, 24.0, -60.0])
def test_distances_to_points_are_those_of_the_ellipsoid(lat: float) -> None:
    features = points(around(88, lat, 30, 4321.0), around(88, lat, 200, 9000.0))
    assert nearest(np.array([[88.0, lat]]), features, "school")[0] == pytest.approx(4321.0, abs=0.01)


def test_distances_to_lines_and_polygons_agree_with_a_projection() -> None:
    rng = np.random.default_rng(0)
    at = np.stack([88 + rng.random(200) * 0.2, 24 + rng.random(200) * 0.2], axis=1)
    river = shapely.LineString([(88, 24.02), (88.09, 24.11), (88.2, 24.05)])
    town = shapely.box(88.1, 24.14, 88.14, 24.17)
    layer = gpd.GeoDataFrame(geometry=[river, town], crs=4326)
    flat = layer.to_crs(32645)
    expected = (
        gpd.GeoSeries([shapely.Point(p) for p in at], crs=4326).to_crs(32645).apply(lambda p: flat.distance(p).min())
    )
    # UTM is off by up to 0.04 % there
    assert nearest(at, layer, "river") == pytest.approx(expected.to_numpy(), rel=2e-3, abs=2)


def test_inside_is_zero_and_far_is_missing() -> None:
    layer = gpd.GeoDataFrame(geometry=[shapely.box(88, 24, 89, 25)], crs=4326)
    inside, far = nearest(np.array([[88.5, 24.5], [95.0, 24.5]]), layer, "town")
    assert inside == 0 and np.isnan(far)


def test_layers_in_another_crs_mean_the_same() -> None:
    features = points((88.01, 24.0))
    at = np.array([[88.0, 24.0]])
    assert nearest(at, features.to_crs(32645), "a")[0] == pytest.approx(nearest(at, features, "a")[0], abs=0.01)


def test_clusters_are_those_of_dbscan_by_hand() -> None:
    """Five in a row 1 km apart, one on the edge of reach, one alone, three too few."""
    row = [around(88, 24, 90, 1000.0 * k) for k in range(5)]
    edge, alone = around(*row[-1], 90, 1900.0), (89.0, 24.0)
    few = [(87.0, 24.0), (87.001, 24.0), (87.002, 24.0)]
    label, size = clusters(geocentric(np.array([*row, edge, alone, *few])), 2000.0, 4)
    assert label.tolist() == [0] * 6 + [-1] * 4
    assert size.tolist() == [6] * 6 + [0] * 4


def test_rules_are_told_in_words_with_what_was_not_checked() -> None:
    kilns = points((88.0, 24.0), around(88, 24, 90, 700.0), (88.5, 24.0))
    schools = points(around(88, 24, 0, 400.0))
    book = read_rules(RULES / "assam-2013.yaml")
    table = enrich(kilns, {"school": schools}, [book])
    assert table["breaks_assam-2013"].tolist() == ["school < 500 m", "", ""]
    unchecked = "dwelling, town, hospital, public_building, place_of_worship, sanctuary, river, lake, railway"
    assert table["unchecked_assam-2013"].iloc[0] == unchecked
    india = enrich(kilns, {}, [read_rules(RULES / "india-2022.yaml")])
    assert india["breaks_india-2022"].tolist() == ["kiln < 1000 m", "kiln < 1000 m", ""]


@pytest.mark.parametrize("path", sorted(RULES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_rule_book_is_dated_and_has_its_source(path: Path) -> None:
    book = read_rules(path)
    assert book.name == path.stem and len(book.source) > 40
    assert not book.unverified or "verified" in book.source.lower()


def test_distances_nobody_verified_are_told() -> None:
    book = read_rules(RULES / "india-2022.yaml")
    near = enrich(points((88.0, 24.0)), {"dwelling": points(around(88, 24, 0, 300.0))}, [book])
    assert near["breaks_india-2022"].item() == "dwelling < 800 m (distance not verified)"
    told = summary(enrich(points((88.0, 24.0)), {}, [book]), [book])["rules"]
    assert book.unverified == ("dwelling", "orchard")
    assert told["india-2022"]["unverified"] == "dwelling, orchard"  # type: ignore[index]


def test_a_rule_book_without_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "name: x\nplace: y\nin_force_from: 2020-01-01\nrules: [{to: school, at_least_m: 5}]\n"
    )
    with pytest.raises(GeoslaveError, match="source"):
        read_rules(tmp_path / "r.yaml")
    with pytest.raises(GeoslaveError, match="cannot be read"):
        read_rules(tmp_path / "absent.yaml")


def test_bad_layers_are_refused() -> None:
    with pytest.raises(GeoslaveError, match="no features"):
        enrich(points((88, 24)), {"school": points((88, 24)).iloc[:0]})
    with pytest.raises(GeoslaveError, match="no CRS"):
        enrich(points((88, 24)), {"school": gpd.GeoDataFrame(geometry=[shapely.Point(0, 0)])})


def test_the_command_writes_a_layer(run: Run, tmp_path: Path) -> None:
    points((88.0, 24.0), (88.5, 24.0)).to_file(tmp_path / "kilns.gpkg")
    points((88.001, 24.0)).to_file(tmp_path / "schools.geojson")
    out = tmp_path / "out.gpkg"
    command = ("detections", "enrich", tmp_path / "kilns.gpkg", "--near", f"school={tmp_path / 'schools.geojson'}")
    status, printed, _ = run(*command, "--rules", RULES / "bangladesh-2013.yaml", "--out", out, "--json")
    facts = json.loads(printed)
    assert status == 0 and facts["rules"]["bangladesh-2013"]["n_breaking"] == 1
    assert gpd.read_file(out)["school_m"].iloc[0] == pytest.approx(101.8, abs=0.2)
    assert run(*command, "--out", out)[0] == 1
    assert (
        run("detections", "enrich", tmp_path / "kilns.gpkg", "--near", "school", "--out", tmp_path / "b.gpkg")[0] == 2
    )
