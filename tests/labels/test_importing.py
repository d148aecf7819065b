"""Whatever people label with ends in one table on the right place; what cannot be used is named, with file and line."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geoslave.errors import LabelError, OutputError
from geoslave.labels.formats import LabelWarning, read_labels
from geoslave.labels.images import ImageIndex, centre_in, file_name, geobox_around
from geoslave.labels.importing import Options, import_labels, told_format, write_labels
from geoslave.labels.table import COLUMNS, sites_of, weak_of
from geoslave.targets import get_target

TARGET = get_target("brick_kiln")
GRID = Affine(10, 0, 500_000, 0, -10, 2_600_000)
"""Of the image a.tif, 100 x 80 pixels (columns x rows) in UTM 45 N."""
COLS, ROWS = 100, 80
CORNERS = np.array([[20, 30], [29, 33], [27, 38], [18, 35]], float)
"""A kiln in pixels of that image."""
BOX = shapely.box(18, 30, 29, 38)


def on_earth(pixels: shapely.Geometry, grid: Affine = GRID, crs: int = 32645) -> shapely.Geometry:
    placed = shapely.transform(pixels, lambda xy: np.column_stack(grid @ (xy[:, 0], xy[:, 1])))
    return gpd.GeoSeries([placed], crs=crs).to_crs(4326)[0]


KILN = on_earth(shapely.Polygon(CORNERS))


def bring(*sources: Path, **options: Any) -> tuple[gpd.GeoDataFrame, Any]:
    return import_labels(list(sources), Options(TARGET, **options))


def centres(table: gpd.GeoDataFrame) -> np.ndarray:
    """Longitude and latitude [n, 2]."""
    return shapely.get_coordinates(shapely.centroid(table.geometry.to_numpy()))


def same(outline: shapely.Geometry, expected: shapely.Geometry) -> bool:
    """They are one outline, whatever corner it starts from."""
    return outline.symmetric_difference(expected).area < 1e-3 * expected.area


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with a georeferenced image a.tif."""
    folder = tmp_path / "images"
    folder.mkdir()
    write_image(folder / "a.tif", crs=32645, transform=GRID)
    return folder


def write_image(path: Path, pixels: Any = None, **options: Any) -> Path:
    pixels = np.zeros((3, ROWS, COLS), np.uint8) if pixels is None else np.asarray(pixels)
    count, rows, cols = pixels.shape
    driver = "PNG" if path.suffix == ".png" else "GTiff"
    with rasterio.open(
        path, "w", driver=driver, width=cols, height=rows, count=count, dtype=pixels.dtype, **options
    ) as file:
        file.write(pixels)
    return path


def text(folder: Path, name: str, *lines: str) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder


def shares(corners: Any = CORNERS) -> str:
    return " ".join(f"{value:.6f}" for value in (np.asarray(corners) / (COLS, ROWS)).ravel())


def pixels_text() -> str:
    return " ".join(f"{value:.1f}" for value in CORNERS.ravel())


# --- the formats, each as its own tool writes it


def yolo_obb(folder: Path) -> Path:
    return text(folder / "labels", "a.txt", f"0 {shares()}")


def yolo_segment(folder: Path) -> Path:
    middle = (CORNERS[0] + CORNERS[1]) / 2
    return text(folder / "labels", "a.txt", f"0 {shares(np.insert(CORNERS, 1, middle, axis=0))}")


def dota(folder: Path) -> Path:
    line = f"{pixels_text()} brick_kiln 0"
    return text(folder / "labelTxt", "a.txt", "imagesource:GoogleEarth", "gsd:0.146343", line)


def coco(folder: Path, **changes: Any) -> Path:
    annotation = {
        "id": 1,
        "image_id": 7,
        "category_id": 3,
        "segmentation": [CORNERS.ravel().tolist()],
        "area": 48.0,
        "bbox": [18, 30, 11, 8],
        "iscrowd": 0,
        **changes,
    }
    content = {
        "info": {},
        "licenses": [],
        "images": [{"id": 7, "file_name": "images/a.tif", "width": COLS, "height": ROWS}],
        "categories": [{"id": 3, "name": "brick_kiln", "supercategory": "site"}],
        "annotations": [annotation],
    }
    (folder / "coco.json").write_text(json.dumps(content))
    return folder / "coco.json"


def label_studio(folder: Path, *results: dict[str, Any], image: str = "/data/upload/1/3fa85f64-a.tif") -> Path:
    polygon = {
        "id": "x1",
        "type": "polygonlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": COLS,
        "original_height": ROWS,
        "image_rotation": 0,
        "value": {"points": (CORNERS / (COLS, ROWS) * 100).tolist(), "polygonlabels": ["brick_kiln"], "closed": True},
    }
    answer = {"id": 11, "completed_by": 4, "was_cancelled": False, "result": list(results) or [polygon]}
    tasks = [{"id": 1, "data": {"image": image}, "annotations": [answer], "predictions": []}]
    (folder / "project.json").write_text(json.dumps(tasks))
    return folder / "project.json"


def region(kind: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": kind, "original_width": COLS, "original_height": ROWS, "value": value, **more}


@pytest.mark.parametrize("write", [yolo_obb, yolo_segment, dota, coco, label_studio])
def test_outlines_on_an_image_lie_where_they_were_drawn(tmp_path, images, write: Callable[[Path], Path]) -> None:
    """Also without being told where the images are: they stand beside the labels."""
    source = write(tmp_path)
    for options in ({"images": images}, {}):
        table, report = bring(source, **options)
        assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
        assert same(table.geometry[0], KILN) and len(table) == 1 and report.to_dict()["n_read"] == 1
        assert table.iloc[0][["class_name", "kind", "presence"]].tolist() == ["brick_kiln", "outline", "yes"]
        assert table["image"][0] in ("a", "a.tif", "3fa85f64-a.tif")


def test_boxes_without_orientation(tmp_path, images) -> None:
    x, y = BOX.centroid.x / COLS, BOX.centroid.y / ROWS
    yolo = text(tmp_path / "boxes", "a.txt", "", f"0 {x} {y} {11 / COLS} {8 / ROWS} 0.75")
    table, _ = bring(yolo, coco(tmp_path, segmentation=[]), images=images, keep_duplicates=True)
    assert [same(outline, on_earth(BOX)) for outline in table.geometry] == [True, True]
    assert table["certainty"].tolist() == [0.75, 1]


def test_label_studios_rectangles_turn_clockwise_about_their_corner(tmp_path, images) -> None:
    """On an image that is no square: in per cent the rectangle would be sheared."""
    value = {"x": 40, "y": 50, "width": 20, "height": 10, "rotation": 90, "rectanglelabels": ["kiln"]}
    table, _ = bring(label_studio(tmp_path, region("rectanglelabels", value)), images=images)
    assert same(table.geometry[0], on_earth(shapely.box(32, 40, 40, 60)))  # 20 wide, 8 high, turned to the left
    assert table["class_name"].tolist() == ["kiln"]


def test_label_studios_choices_answer_for_the_whole_image(tmp_path, images) -> None:
    source = label_studio(tmp_path, region("choices", {"choices": ["Brick kiln"]}))
    table, report = bring(source, images=images)
    assert same(table.geometry[0], on_earth(shapely.box(0, 0, COLS, ROWS)))
    assert table.iloc[0][["class_name", "kind", "presence"]].tolist() == ["brick_kiln", "chip", "yes"]
    assert report.kinds == {"chip": 1}


def test_what_label_studio_holds_besides_is_counted(tmp_path, images) -> None:
    brush = region("brushlabels", {"format": "rle", "rle": [0, 1], "brushlabels": ["kiln"]})
    odd = region("choices", {"choices": ["Pretty"]})
    kiln = region("polygonlabels", {"points": (CORNERS / (COLS, ROWS) * 100).tolist(), "polygonlabels": ["kiln"]})
    table, report = bring(label_studio(tmp_path, brush, odd, kiln), images=images)
    assert len(table) == 1
    left = report.sources[0].left_out
    assert sorted(left.values()) == [1, 1] and any("brushlabels" in why for why in left)
    assert any("Pretty" in why for why in left)


def test_run_length_masks_are_left_out_with_a_count(tmp_path, images) -> None:
    path = coco(tmp_path)
    content = json.loads(path.read_text())
    rle = {"counts": [10, 20], "size": [ROWS, COLS]}
    content["annotations"].append({**content["annotations"][0], "id": 2, "segmentation": rle, "iscrowd": 1})
    path.write_text(json.dumps(content))
    table, report = bring(path, images=images)
    assert len(table) == 1 and report.sources[0].left_out == {"run-length masks (RLE; export them as polygons)": 1}


def test_masks_become_outlines_of_each_class(tmp_path, images) -> None:
    mask = np.zeros((1, ROWS, COLS), np.uint8)
    mask[0, 30:38, 18:29] = 1
    mask[0, 60:64, 60:64] = 2
    mask[0, 64:66, 64:66] = 2  # touches at a corner
    mask[0, :5] = 255
    tif = write_image(tmp_path / "mask.tif", mask, crs=32645, transform=GRID, nodata=255)
    (tmp_path / "masks").mkdir()
    png = write_image(tmp_path / "masks" / "a_mask.png", mask)
    for source in (tif, png):
        table, report = bring(source, images=None if source == tif else images, classes=("FCBK", "Zigzag"))
        assert table["class_name"].tolist() == ["FCBK", "Zigzag"] and table["class_id"].tolist() == [1, 2]
        assert same(table.geometry[0], on_earth(BOX)) and table.geometry.is_valid.all()
        assert table.to_crs(32645).area[1] == pytest.approx(2000, rel=1e-3)
        assert report.sources[0].format == "mask"


def test_a_black_and_white_mask_beside_its_image(images) -> None:
    mask = np.zeros((1, ROWS, COLS), np.uint8)
    mask[0, 30:38, 18:29] = 255
    table, _ = bring(write_image(images / "a.png", mask))
    assert len(table) == 1 and same(table.geometry[0], on_earth(BOX)) and table["class_name"][0] == "brick_kiln"


def test_masks_that_do_not_fit_are_refused(tmp_path, images) -> None:
    ones = np.ones((1, ROWS, COLS), np.uint8)
    cases = {
        "smaller": (ones[:, :40], r"a\.png: the mask is 100 x 40 pixels, its image a\.tif 100 x 80"),
        "picture": (np.arange(ROWS * COLS, dtype=np.uint8).reshape(1, ROWS, COLS), "no classes"),
        "colour": (np.ones((3, ROWS, COLS), np.uint8), "3 bands"),
        "empty": (ones * 0, "no site in any of 1 masks"),
    }
    for name, (pixels, message) in cases.items():
        (tmp_path / name).mkdir()
        with pytest.raises(LabelError, match=message):
            bring(write_image(tmp_path / name / "a.png", pixels), images=images)
    (tmp_path / "alone").mkdir()
    with pytest.raises(LabelError, match=r"b\.png: the mask is not georeferenced"):
        bring(write_image(tmp_path / "alone" / "b.png", ones))
    with pytest.raises(LabelError, match="value 3 is beyond the 2 classes"):
        bring(write_image(tmp_path / "alone" / "a.png", ones * 3), images=images, classes=("a", "b"))


def test_yes_and_no_for_chips_become_weak_footprints(tmp_path) -> None:
    """As Amazon Mining Watch and crowds give them: a name, an answer, sometimes a centre."""
    path = tmp_path / "chips.csv"
    path.write_text(
        "chip,gallery,label,lon,lat\n0001,madre,1,-70.0,-12.9\n0002,madre,0,-70.1,-12.9\n0003,madre,1,,\n"
        "-12.5000_-70.2000,madre,?,,\n"
    )
    table, report = bring(path, gsd_m=10, chip_size=48)
    assert table["presence"].tolist() == ["yes", "no", "unsure"] and set(table["kind"]) == {"chip"}
    assert table["gallery"].tolist() == ["madre"] * 3
    assert table.to_crs(32719).area.to_numpy() == pytest.approx([480**2] * 3, rel=0.01)
    assert centres(table)[:, 0] == pytest.approx([-70, -70.1, -70.2])
    assert list(report.sources[0].left_out.values()) == [1] and len(weak_of(table)) == 3 and sites_of(table).empty


def test_chips_answered_twice_are_one_and_unsure_where_answers_differ(tmp_path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(
        "image;answer\n24.1000_89.1000.png;yes\n24.1000_89.1000.png;no\n24.2000_89.1000.png;no\n24.2000_89.1000.png;no\n"
    )
    table, report = bring(path)
    assert dict(zip(table["image"], table["presence"], strict=True)) == {
        "24.1000_89.1000.png": "unsure",
        "24.2000_89.1000.png": "no",
    }
    assert any("answered more than once" in note for note in report.notes)


@pytest.mark.parametrize("name", ["k.geojson", "k.gpkg", "k.fgb", "k.shp", "k.parquet", "k.kml", "k.kmz", "k.json"])
def test_layers_of_every_format(tmp_path, images, name: str) -> None:
    path = tmp_path / name
    table = gpd.GeoDataFrame({"Class": ["Zigzag"]}, geometry=[KILN], crs=4326)
    if name == "k.parquet":
        table.to_parquet(path)
    elif name == "k.kmz":
        table.to_file(tmp_path / "doc.kml", driver="KML")
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "doc.kml", "doc.kml")
    else:
        table.to_file(path, driver={".kml": "KML", ".json": "GeoJSON"}.get(path.suffix))
    assert told_format(path) == "vector"
    labels, report = bring(path, images=images)
    assert same(labels.geometry[0], KILN) and labels["class_name"].tolist() == ["Zigzag"]
    assert report.sources[0].name == name and not report.sources[0].sentences()


def test_a_file_with_the_wrong_ending_is_told_by_its_content(tmp_path) -> None:
    table = gpd.GeoDataFrame(geometry=[KILN], crs=4326)
    table.to_parquet(tmp_path / "k.geojson")
    assert same(bring(tmp_path / "k.geojson")[0].geometry[0], KILN)


GOOGLE_EARTH = """<?xml version="1.0" encoding="UTF-8"?>
<kml xmlns="http://www.opengis.net/kml/2.2" xmlns:gx="http://www.google.com/kml/ext/2.2">
<Document><name>kilns.kmz</name>
<Style id="s"><LineStyle><color>ff0000ff</color></LineStyle></Style>
<Folder><name>north</name>
<Placemark><name>Kiln 1</name><description>zigzag, 12 m chimney</description><styleUrl>#s</styleUrl>
<Polygon><tessellate>1</tessellate><outerBoundaryIs><LinearRing><coordinates>
89.0,24.0,0 89.001,24.0,0 89.001,24.0005,0 89.0,24.0005,0 89.0,24.0,0
</coordinates></LinearRing></outerBoundaryIs></Polygon></Placemark>
<Placemark><name>road</name><LineString><coordinates>89,24,0 89.1,24,0</coordinates></LineString></Placemark>
</Folder>
<Folder><name>south</name>
<Placemark><name>Kiln 2</name><Point><coordinates>89.0,23.9,0</coordinates></Point></Placemark>
<Placemark><name>Kiln 3</name><MultiGeometry>
<Point><coordinates>89.5,23.9,0</coordinates></Point>
<Polygon><outerBoundaryIs><LinearRing><coordinates>
89.5,23.9,0 89.501,23.9,0 89.501,23.9005,0 89.5,23.9,0
</coordinates></LinearRing></outerBoundaryIs></Polygon></MultiGeometry></Placemark>
</Folder></Document></kml>
"""


def test_what_google_earth_saves(tmp_path) -> None:
    """Folders, heights, pins and outlines mixed, a road drawn by the way."""
    (tmp_path / "k.kml").write_text(GOOGLE_EARTH)
    with zipfile.ZipFile(tmp_path / "k.kmz", "w") as archive:
        archive.writestr("files/icon.png", b"")
        archive.writestr("doc.kml", GOOGLE_EARTH)
    for name in ("k.kml", "k.kmz"):
        table, report = bring(tmp_path / name)
        assert table["Name"].tolist() == ["Kiln 1", "Kiln 2", "Kiln 3"]
        assert table["kind"].tolist() == ["outline", "point", "outline"] and not table.geometry.has_z.any()
        assert report.sources[0].left_out == {"rows that are neither areas nor points (LineString)": 1}
    with zipfile.ZipFile(tmp_path / "empty.kmz", "w") as archive:
        archive.writestr("readme.txt", "")
    with pytest.raises(LabelError, match=r"without a \.kml"):
        bring(tmp_path / "empty.kmz")


def test_points_of_a_csv_are_of_the_kind_point(tmp_path) -> None:
    (tmp_path / "p.csv").write_text("lon,lat,class\n89.5,24.1,Zigzag\n89.6,24.2,FCBK\nnan,24.3,FCBK\n")
    table, report = bring(tmp_path / "p.csv")
    assert table["kind"].tolist() == ["point"] * 2 and table["class_name"].tolist() == ["Zigzag", "FCBK"]
    assert report.sources[0].left_out == {"rows without an outline": 1}


def test_csv_as_spreadsheets_of_other_countries_write_it(tmp_path) -> None:
    """Semicolons, decimal commas, no UTF-8."""
    (tmp_path / "p.csv").write_bytes("nom;lat;lon\nfour à briques;24,25;89,5\n".encode("cp1252"))
    table, _ = bring(tmp_path / "p.csv")
    assert centres(table)[0] == pytest.approx([89.5, 24.25]) and table["nom"].tolist() == ["four à briques"]


# --- classes


def test_names_of_classes_come_from_the_lists_yolo_keeps(tmp_path, images) -> None:
    labels = text(tmp_path / "set" / "labels" / "train", "a.txt", f"1 {shares()}")
    assert bring(labels, images=images)[0][["class_name", "class_id"]].to_numpy().tolist() == [["brick_kiln", 1]]
    (tmp_path / "set" / "data.yaml").write_text("nc: 2\nnames:\n  0: FCBK\n  1: Zigzag\n")
    assert bring(labels, images=images)[0]["class_name"].tolist() == ["Zigzag"]
    (labels / "classes.txt").write_text("FCBK\nCFCBK\n")
    assert bring(labels, images=images)[0]["class_name"].tolist() == ["CFCBK"]
    assert bring(labels, images=images, classes=("a", "b"))[0]["class_name"].tolist() == ["b"]
    assert bring(labels, images=images, classes=("kiln",))[0]["class_name"].tolist() == ["kiln"]


# --- where images lie


def test_images_named_by_their_centre_need_no_georeference(tmp_path) -> None:
    """SentinelKilnDB: PNG without a georeference, latitude first."""
    labels = text(tmp_path / "labels", "24.0000_89.0000.txt", "2 0.5 0.5 0.0625 0.0625")
    table, _ = bring(labels)
    assert centres(table)[0] == pytest.approx([89, 24])
    assert table.to_crs(32645).area[0] == pytest.approx(80 * 80, rel=0.005)
    folder = tmp_path / "chips"
    folder.mkdir()
    write_image(folder / "24.0000_89.0000.png", np.zeros((3, 64, 64), np.uint8))  # half as many pixels as thought
    table, _ = bring(labels, images=folder)
    assert table.to_crs(32645).area[0] == pytest.approx(40 * 40, rel=0.005)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("23.0761_89.2143.png", (89.2143, 23.0761)),
        ("-12.5_-70.25", (-70.25, -12.5)),
        ("/data/local-files/?d=chips/23.0761_89.2143.tif", (89.2143, 23.0761)),
        ("1234abcd-23.0761_89.2143_aug.jpg", (89.2143, 23.0761)),
        ("100.5000_12.2500.png", (100.5, 12.25)),  # no latitude is 100: longitude first
        ("scene_12.tif", None),
        ("S2A_20240101.tif", None),
    ],
)
def test_centres_in_names(name: str, expected: tuple[float, float] | None) -> None:
    assert centre_in(name) == expected


def test_names_of_addresses_are_file_names() -> None:
    assert file_name("s3://bucket/folder/a%20b.tif?token=x") == "a b.tif"
    assert file_name("C:\\chips\\a.tif") == "a.tif"


@given(st.floats(-179.9, 179.9), st.floats(-70, 70), st.integers(16, 300), st.floats(0.5, 30))
def test_grids_around_a_centre_have_the_size_asked_for(lon: float, lat: float, side: int, gsd: float) -> None:
    geobox = geobox_around((lon, lat), (side, side), gsd)
    assert geobox.extent.geom.centroid.distance(shapely.Point(lon, lat)) < 1e-6
    local = gpd.GeoSeries([geobox.extent.geom], crs=4326).to_crs(f"+proj=aeqd +lon_0={lon} +lat_0={lat}")
    assert local.area[0] == pytest.approx((side * gsd) ** 2, rel=0.01)


def test_two_images_of_one_name_are_told_apart_by_their_folder_or_refused(tmp_path, images) -> None:
    for part, shift in (("train", 0), ("val", 50_000)):
        (tmp_path / "set" / part).mkdir(parents=True)
        moved = Affine.translation(shift, 0) @ GRID
        write_image(tmp_path / "set" / part / "a.tif", crs=32645, transform=moved)
    labels = text(tmp_path / "labels" / "val", "a.txt", f"0 {shares()}")
    table, _ = bring(labels, images=tmp_path / "set")
    assert table.to_crs(32645).centroid.x[0] > 550_000
    with pytest.raises(LabelError, match="several images are called a"):
        ImageIndex(tmp_path / "set").find("a.txt", "labels")


# --- labels and images that do not fit


def test_images_without_labels_and_labels_without_images_are_told(tmp_path, images) -> None:
    write_image(images / "b.tif", crs=32645, transform=GRID)
    labels = text(tmp_path / "labels", "a.txt", f"0 {shares()}")
    text(labels, "24.0000_89.0000.txt", "0 0.5 0.5 0.1 0.1")
    text(labels, "c.txt", "0 0.5 0.5 0.1 0.1")
    table, report = bring(labels, images=images)
    assert len(table) == 2  # the second is placed by the centre in its name
    notes = " ".join(report.sources[0].notes)
    assert "2 of 3 images that the labels speak about are not in images" in notes
    assert "1 of 2 images in images have no labels" in notes
    assert report.sources[0].left_out == {
        "labels of images without a place (not georeferenced, no centre in the name)": 1
    }


def test_labels_none_of_whose_images_is_there_are_refused(tmp_path, images) -> None:
    labels = text(tmp_path / "other", "z.txt", f"0 {shares()}")
    with pytest.raises(LabelError, match=r"none of the 1 images it speaks about \(the first: z\.txt\)"):
        bring(labels, images=images)
    with pytest.raises(LabelError, match="no label can be placed on earth"):
        bring(text(tmp_path / "far" / "x" / "y", "z.txt", f"0 {shares()}"))


def test_labels_that_miss_the_imagery_are_refused_with_both_boxes(tmp_path, images) -> None:
    gpd.GeoDataFrame(geometry=[shapely.box(10, 10, 10.1, 10.1)], crs=4326).to_file(tmp_path / "far.geojson")
    with pytest.raises(LabelError, match=r"labels cover 10\.000\.\.10\.100 E.*images 87\.000\.\.87\.010 E"):
        bring(tmp_path / "far.geojson", images=images)


def test_labels_drawn_on_an_image_of_another_size_are_refused(tmp_path, images) -> None:
    write_image(images / "a.tif", np.zeros((3, 40, 50), np.uint8), crs=32645, transform=GRID)
    with pytest.raises(LabelError, match=r"a\.tif of 100 x 80 pixels, but the image has 50 x 40"):
        bring(coco(tmp_path), images=images)


def test_labels_off_their_image_are_left_out(tmp_path, images) -> None:
    path = text(tmp_path / "labelTxt", "a.txt", f"{pixels_text()} kiln 0", "500 500 510 500 510 510 500 510 kiln 1")
    table, report = bring(path, images=images)
    assert len(table) == 1 and report.sources[0].left_out == {"labels that lie off their image": 1}


def test_empty_label_files_are_answers_where_they_are_asked_for(tmp_path, images) -> None:
    labels = text(tmp_path / "labels", "a.txt")
    text(labels, "24.0000_89.0000.txt", "0 0.5 0.5 0.1 0.1")
    table, report = bring(labels)
    assert len(table) == 1 and "1 images were looked at and hold no site" in " ".join(report.sources[0].notes)
    table, report = bring(labels, negatives=True)
    assert sorted(table["presence"]) == ["no", "yes"] and report.kinds == {"outline": 1, "chip": 1}
    (labels / "24.0000_89.0000.txt").unlink()
    with pytest.raises(LabelError, match="labels: holds no label"):
        bring(labels)


# --- repaired


def test_outlines_that_cross_themselves_are_repaired_with_a_count(tmp_path, images) -> None:
    bow = CORNERS[[0, 2, 1, 3]]
    table, report = bring(text(tmp_path / "labels", "a.txt", f"0 {shares(bow)}"), images=images)
    assert table.geometry.is_valid.all() and report.sources[0].repaired == {"outlines that crossed themselves": 1}


def test_swapped_axes_are_found_by_the_imagery(tmp_path, images) -> None:
    swapped = shapely.transform(KILN, lambda xy: xy[:, ::-1])
    gpd.GeoDataFrame(geometry=[swapped], crs=4326).to_file(tmp_path / "k.geojson")
    x, y = KILN.centroid.coords[0]
    (tmp_path / "p.csv").write_text(f"lon,lat\n{y},{x}\n")
    for name in ("k.geojson", "p.csv"):
        table, report = bring(tmp_path / name, images=images)
        assert table.geometry[0].centroid.distance(KILN.centroid) < 1e-6
        assert sum(report.sources[0].repaired.values()) == 1 and "swapped" in report.lines()[1]


def test_latitudes_beyond_ninety_are_swapped_axes(tmp_path) -> None:
    (tmp_path / "p.csv").write_text("lon,lat\n12.5,100.25\n89.5,100.25\n")
    table, report = bring(tmp_path / "p.csv")
    assert centres(table)[:, 0] == pytest.approx([100.25, 100.25])
    assert list(report.sources[0].repaired.values()) == [2]


def test_one_row_with_swapped_axes_does_not_turn_the_others(tmp_path) -> None:
    (tmp_path / "p.csv").write_text("lon,lat\n100.2,12.5\n100.3,12.6\n12.7,100.25\n")
    table, report = bring(tmp_path / "p.csv")
    assert centres(table)[:, 0] == pytest.approx([100.2, 100.3, 100.25])
    assert list(report.sources[0].repaired.values()) == [1]


def test_a_crs_can_be_given_where_none_is_declared(tmp_path) -> None:
    metres = gpd.GeoDataFrame(geometry=[KILN], crs=4326).to_crs(32645)
    metres.to_file(tmp_path / "k.shp")
    (tmp_path / "k.prj").unlink()
    with pytest.raises(LabelError, match=r"no CRS.*--crs"):
        bring(tmp_path / "k.shp")
    assert same(bring(tmp_path / "k.shp", crs="EPSG:32645")[0].geometry[0], KILN)
    # GeoJSON of metres that does not say so
    content = {"type": "FeatureCollection", "features": json.loads(metres.to_json())["features"]}
    (tmp_path / "k.geojson").write_text(json.dumps(content))
    with pytest.raises(LabelError, match=r"k\.geojson: its CRS counts in degrees.*--crs"):
        bring(tmp_path / "k.geojson")
    assert same(bring(tmp_path / "k.geojson", crs="EPSG:32645")[0].geometry[0], KILN)
    with pytest.raises(LabelError, match="'nonsense' is no CRS"):
        bring(tmp_path / "k.shp", crs="nonsense")


# --- duplicates


def test_sites_of_overlapping_patches_are_one(tmp_path) -> None:
    """The same place seen from two patches; the larger outline stays. Two in one patch stay two."""
    east = 0.0001  # ten metres
    labels = text(tmp_path / "labels", "24.0000_89.0000.txt", "0 0.5 0.5 0.04 0.04", "0 0.51 0.5 0.04 0.04")
    text(labels, f"24.0000_{89 + east:.4f}.txt", "0 0.49 0.5 0.06 0.06")
    table, report = bring(labels)
    assert report.n_duplicates == 2 and len(table) == 1 and table["image"][0] == "24.0000_89.0001"
    (labels / "24.0000_89.0001.txt").unlink()
    table, report = bring(labels)
    assert report.n_duplicates == 0 and len(table) == 2
    table, report = bring(labels, tmp_path / "labels", keep_duplicates=True)
    assert len(table) == 4


def test_dense_targets_are_not_merged_into_one(tmp_path) -> None:
    (tmp_path / "p.csv").write_text("lon,lat\n89.0,24.0\n89.0002,24.0\n")
    table, _ = import_labels([tmp_path / "p.csv"], Options(get_target("building")))
    assert len(table) == 2


# --- malformed files: named with their line


def malformed(folder: Path) -> dict[Path, str]:
    def one(name: str, *lines: str) -> Path:
        return text(folder / name, "a.txt", *lines)

    good = f"0 {shares()}"
    return {
        one("word", good, "0 0.5 kiln 0.1 0.1"): r"a\.txt, line 2: 'kiln' is no number",
        one("nan", "0 nan 0.5 0.1 0.1"): r"a\.txt, line 1: 'nan' is no number",
        one("short", "0 0.5 0.5 0.1"): r"a\.txt, line 1: has 4 values",
        one("pixels", "0 64 64 10 10"): r"a\.txt, line 1: 64 is no share",
        one("half", "0.5 0.5 0.5 0.1 0.1"): r"a\.txt, line 1: .*no whole class number",
        one("flat", "0 0.5 0.5 0 0.1"): r"a\.txt, line 1: a box of 0 by 0\.1",
        one("dota", f"{pixels_text()} kiln 0", "1 2 3 kiln"): r"a\.txt, line 2: .* is not  x1 y1",
        one("nothing"): "holds no label",
        text(folder / "beyond" / "labels", "a.txt", good, good.replace("0 ", "2 ", 1)): "class 2 is beyond the 2",
    }


def test_malformed_text_is_refused_with_file_and_line(tmp_path, images) -> None:
    (tmp_path / "beyond").mkdir()
    (tmp_path / "beyond" / "classes.txt").write_text("FCBK\nZigzag\n")
    for source, message in malformed(tmp_path).items():
        with pytest.raises(LabelError, match=message) as error:
            bring(source, images=images)
        assert "\n" not in str(error.value)
    (tmp_path / "beyond" / "classes.txt").unlink()
    (tmp_path / "beyond" / "data.yaml").write_text("names: [FCBK\n")
    with pytest.raises(LabelError, match=r"data\.yaml: no list of class names"):
        bring(tmp_path / "beyond" / "labels", images=images)
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "a.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(LabelError, match=r"a\.txt: cannot be read as text"):
        bring(tmp_path / "bytes", images=images)


def test_malformed_json_is_refused_with_its_place(tmp_path, images) -> None:
    path = tmp_path / "broken.json"
    cases = {
        '{"images": [],\n "annotations": [,]}': r"broken\.json, line 2, column",
        '{"some": "thing"}': "neither GeoJSON, COCO nor a Label Studio",
        '[{"image": "a.tif", "label": []}]': "not JSON-MIN",
        '{"images": [{"id": 1}], "annotations": []}': "images or categories without 'file_name'",
        '[{"id": 5, "data": {"image": "a.tif"}, "annotations": [{"result": [{"type": "polygonlabels"}]}]}]': "task 5",
        '[{"id": 6, "data": {"text": 3}, "annotations": []}]': "task 6: names no image",
    }
    for content, message in cases.items():
        path.write_text(content)
        with pytest.raises(LabelError, match=message) as error:
            bring(path, images=images)
        assert "\n" not in str(error.value)
    for changes, message in (
        ({"category_id": 9}, "annotation 1: category 9 is beyond the 1 categories"),
        ({"image_id": 9}, "annotation 1: speaks of image 9"),
        ({"segmentation": [[1, 2, 3]]}, "annotation 1: cannot be read"),
        ({"segmentation": [[float("nan")] * 8]}, "annotation 1: cannot be read.*a coordinate is no number"),
    ):
        with pytest.raises(LabelError, match=message):
            bring(coco(tmp_path, **changes), images=images)
    geojson = tmp_path / "cut.geojson"
    geojson.write_text('{"type": "FeatureCollection",\n "features": [\n')
    with pytest.raises(LabelError, match=r"cut\.geojson: cannot be read as geojson \(line 3"):
        bring(geojson)


@pytest.mark.parametrize("ending", [".geojson", ".gpkg", ".shp", ".fgb", ".parquet", ".kml", ".kmz"])
def test_a_layer_cut_off_halfway_is_refused_in_one_line(tmp_path, ending: str) -> None:
    whole = tmp_path / f"whole{'.kml' if ending == '.kmz' else ending}"
    layer = gpd.GeoDataFrame({"class_name": ["brick_kiln"]}, geometry=[KILN], crs=4326)
    if ending == ".parquet":
        layer.to_parquet(whole)
    else:
        layer.to_file(whole, driver="KML" if whole.suffix == ".kml" else None)
    cut = tmp_path / f"cut{ending}"
    half = whole.read_bytes()[: whole.stat().st_size // 2]
    if ending == ".kmz":
        with zipfile.ZipFile(cut, "w") as archive:
            archive.writestr("doc.kml", half)
    else:
        cut.write_bytes(half)
    with pytest.raises(LabelError, match=rf"cut\{ending}: cannot be read as") as error:
        bring(cut)
    assert "\n" not in str(error.value)


def test_files_that_are_not_what_their_ending_says_are_refused(tmp_path, images) -> None:
    cases = {
        "no.kmz": (b"no archive", "cannot be read as kmz"),
        "quote.csv": (b'lat,lon\n24,"89\n', "cannot be read as csv"),
        "header.csv": (b"lat,lon\n", "holds no outline"),
        "cut.png": (b"\x89PNG\r\n\x1a\n junk", "cannot be opened as an image"),
        "cut.tif": (b"II*\0junk", "cannot be opened as an image"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LabelError, match=message) as error:
            bring(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)


def test_rows_of_a_csv_without_a_place_are_left_out_with_a_count(tmp_path) -> None:
    (tmp_path / "p.csv").write_text("lat,lon\n24.0,89.0\nabc,89\n,\n")
    table, report = bring(tmp_path / "p.csv")
    assert len(table) == 1 and sum(report.sources[0].left_out.values()) == 2


def test_other_things_that_are_no_labels(tmp_path, images) -> None:
    (tmp_path / "names.csv").write_text("name\nx\n")
    (tmp_path / "chips.csv").write_text("image,label\n24.0_89.0,yes\n24.1_89.0,perhaps so\n")
    (tmp_path / "bare").mkdir()
    layers = tmp_path / "layers"
    layers.mkdir()
    (layers / "k.geojson").touch()
    (tmp_path / "k.docx").write_bytes(b"x")
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "names.csv", {}, "name them lon and lat"),
        (tmp_path / "chips.csv", {"format": "chips"}, r"chips\.csv, line 3: 'perhaps so' is neither"),
        (tmp_path / "names.csv", {"format": "chips"}, "name them image and label"),
        (tmp_path / "bare", {}, "holds no labels"),
        (layers, {}, "name the files themselves"),
        (tmp_path / "k.docx", {}, "not a labels file"),
        (tmp_path / "absent", {}, "no such file"),
        (tmp_path / "names.csv", {"images": tmp_path / "absent"}, "no such folder"),
        (tmp_path / "names.csv", {"images": tmp_path / "bare"}, "holds no image"),
    ]
    for source, options, message in cases:
        with pytest.raises(LabelError, match=message):
            bring(source, **options)


# --- written and read again


@pytest.mark.parametrize("ending", [".gpkg", ".geojson", ".fgb", ".parquet"])
def test_the_table_survives_being_written(tmp_path, images, ending: str) -> None:
    (tmp_path / "chips.csv").write_text("chip,label,FID,tags\n24.0_89.0,no,3,x\n")
    table, _ = bring(yolo_obb(tmp_path), tmp_path / "chips.csv")
    out = tmp_path / f"labels{ending}"
    write_labels(table, out)
    again = read_labels(out, weak=True)
    for column in ("class_name", "certainty", "source", "kind", "presence"):
        assert sorted(again[column]) == sorted(table[column])
    with pytest.warns(LabelWarning, match="1 rows that are no sites"):
        assert read_labels(out)["kind"].tolist() == ["outline"]
    with pytest.raises(OutputError, match="exists"):
        write_labels(table, out)
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


def test_a_file_of_nothing_but_weak_answers_has_no_sites(tmp_path) -> None:
    (tmp_path / "chips.csv").write_text("chip,label\n24.0_89.0,yes\n")
    write_labels(bring(tmp_path / "chips.csv")[0], tmp_path / "weak.gpkg")
    with pytest.raises(LabelError, match="only answers for whole chips"):
        read_labels(tmp_path / "weak.gpkg")


def test_columns_called_kind_or_presence_that_mean_something_else_are_kept(tmp_path) -> None:
    gpd.GeoDataFrame({"kind": ["FCBK"], "presence": ["2019"]}, geometry=[KILN], crs=4326).to_file(tmp_path / "k.gpkg")
    table, _ = bring(tmp_path / "k.gpkg")
    assert table.iloc[0][["kind", "presence", "kind_in_file", "presence_in_file"]].tolist() == [
        "outline",
        "yes",
        "FCBK",
        "2019",
    ]


# --- real labels


@pytest.mark.parametrize("with_images", [True, False])
def test_sentinelkilndbs_labels_lie_on_its_sites(tmp_path, data_dir: Path, with_images: bool) -> None:
    """Georeferenced by the chips, the outlines are the published ones to a centimetre; by names, to 3 m."""
    kilns = data_dir / "kilns_s2"
    labels = shutil.copytree(kilns / "labels_yolo_obb", tmp_path / "alone" / "labels")
    chips = kilns / "chips" if with_images else None
    names = ("CFCBK", "FCBK", "Zigzag")
    table, report = bring(labels, images=chips, classes=names, keep_duplicates=True)
    known = gpd.read_file(kilns / "kilns.geojson")
    assert report.n_duplicates == 4 and len(table) == len(known) == 41
    ours = table.assign(x=centres(table)[:, 0]).sort_values(["image", "x"]).to_crs(32646)
    theirs = known.assign(x=centres(known)[:, 0]).sort_values(["patch_id", "x"]).to_crs(32646)
    assert ours["image"].tolist() == theirs["patch_id"].tolist()
    assert ours["class_name"].tolist() == theirs["class"].tolist()
    apart = ours.centroid.distance(theirs.centroid, align=False)
    assert apart.max() < (0.02 if with_images else 3)
    assert ours.area.to_numpy() == pytest.approx(theirs.area.to_numpy(), rel=0.02)
    merged, _ = bring(labels, images=chips, classes=names)
    assert len(merged) == 37
    layer, report = bring(kilns / "kilns.geojson", images=kilns / "chips")
    assert len(layer) == 37 and report.n_duplicates == 4


def test_the_weak_labels_of_mines(data_dir: Path) -> None:
    """12,022 answers, of which those with a centre can be placed."""
    path = data_dir / "mines_s2" / "chips.csv"
    table, report = bring(path, gsd_m=10, chip_size=48)
    rows = pd.read_csv(path)
    placed = rows["lon"].notna() & rows["lat"].notna()
    assert sum(report.sources[0].left_out.values()) == (~placed).sum() and len(rows) == report.sources[0].n_read
    assert 0 < len(table) <= placed.sum() and set(table["kind"]) == {"chip"}


def test_real_coco_boxes_cover_the_buildings_they_were_made_from(data_dir: Path) -> None:
    """HOT fAIr: boxes a tile, buildings across tiles cut in pieces; and one answer a tile."""
    folder = data_dir / "buildings_banepa" / "train"
    options = Options(get_target("building"), images=folder / "oam", keep_duplicates=True)
    boxes, report = import_labels([folder / "detection_labels.json"], options)
    assert len(boxes) == report.sources[0].n_read == 1847 and report.classes == {"building": 1847}
    outlines, report = import_labels(sorted((folder / "osm").glob("*.geojson")), options)
    assert len(outlines) == 1466 and report.classes == {"building": 1466}
    chips, report = import_labels([folder / "classification_labels.csv"], options)
    assert report.sources[0].format == "chips" and report.presence == {"yes": 48}
    tiles, covered = (table.to_crs(32645).union_all() for table in (chips, boxes))
    buildings = outlines.to_crs(32645).union_all().intersection(tiles)
    assert buildings.intersection(covered).area > 0.98 * buildings.area


def test_a_class_that_is_a_number_is_an_id(tmp_path) -> None:
    gpd.GeoDataFrame({"label": [1]}, geometry=[KILN], crs=4326).to_file(tmp_path / "k.gpkg")
    table, _ = bring(tmp_path / "k.gpkg")
    assert table["class_name"].tolist() == ["brick_kiln"] and table["class_id"].tolist() == [1]
