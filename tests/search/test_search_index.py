"""An index of chips: every chip once, resumed after a kill to the same bytes, honest about scenes that changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely

from geoslave.errors import SceneError
from geoslave.search import SearchError
from geoslave.search.campaign import ranked
from geoslave.search.embedder import DEFAULT, open_embedder
from geoslave.search.index import Settings, build_index, open_index, scenes_ground, settings_for
from geoslave.search.ranking import Answers
from geoslave.targets import get_target
from tests.factories import dark_field, with_kilns
from tests.search.test_search_embedder import write_vector_model

SMALL = Settings(chip_px=24, core_px=16)
FILES = ("index.json", "chips.parquet", "vectors.npy")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> object:
    return open_embedder(write_vector_model(tmp_path_factory.mktemp("embedders") / "means"), threads=1)


@pytest.fixture
def scene(make_scene: Callable[..., Path]) -> Path:
    return make_scene(with_kilns(dark_field((100, 120)), [(20, 30), (70, 90)]))


def test_cores_tile_the_scene_exactly_once(tmp_path: Path, scene: Path, embedder: object) -> None:
    built = build_index(scenes_ground([scene]), tmp_path / "index", embedder, SMALL)
    index = open_index(tmp_path / "index")
    assert built.chips == len(index) == len(index.vectors) == 7 * 8
    assert index.chips["chip_id"].is_unique
    cores = index.chips.to_crs(32645).geometry
    assert np.isclose(cores.area.sum(), 100 * 120 * 100, rtol=1e-6)
    assert np.isclose(shapely.union_all(cores.to_numpy()).area, 100 * 120 * 100, rtol=1e-4)
    assert index.chips.geometry.total_bounds[0] < 90 < index.chips.crs.to_epsg()
    assert built.chips_per_second > 0
    assert 0 <= built.reading_share <= 1


def test_the_nearest_of_a_chip_is_itself_and_sites_are_near_each_other(
    tmp_path: Path, scene: Path, embedder: object
) -> None:
    build_index(scenes_ground([scene]), tmp_path / "index", embedder, SMALL)
    index = open_index(tmp_path / "index")
    at = index.chips.sindex.query(
        gpd.GeoSeries(gpd.points_from_xy([500_350, 500_950], [2_649_770, 2_649_270]), crs=32645).to_crs(4326)
    )[1]
    rows, similar = index.nearest(index.vectors[at[0]], 4)
    assert rows[0] == at[0]
    assert similar[0] == pytest.approx(1, abs=1e-2)
    assert (np.diff(similar) <= 0).all()
    assert at[1] in rows


def test_a_chip_is_read_with_its_margin(tmp_path: Path, scene: Path, embedder: object) -> None:
    build_index(scenes_ground([scene]), tmp_path / "index", embedder, SMALL)
    index = open_index(tmp_path / "index")
    inner = index.chips.index[(index.chips["row"] == 2) & (index.chips["col"] == 3)][0]
    raster = index.read(int(inner))
    assert raster.pixels.shape == (3, 24, 24)
    assert raster.valid.all()
    core = shapely.box(500_480, 2_649_520, 500_640, 2_649_680)
    told = gpd.GeoSeries([index.chips.geometry[inner]], crs=4326).to_crs(32645)[0]
    assert told.symmetric_difference(core).area < 1e-3 * core.area
    assert not index.read(0).valid.all()  # it hangs over the edge


def _files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_killed_at_any_part_it_goes_on_to_the_same_bytes(tmp_path: Path, scene: Path, embedder: object) -> None:
    settings = Settings(chip_px=8, core_px=4)  # several parts
    build_index(scenes_ground([scene]), tmp_path / "whole", embedder, settings)

    class Stopped(Exception):
        pass

    def stop_at(number: int) -> Callable[[str, int, int], None]:
        def step(_stage: str, done: int, _total: int) -> None:
            if done == number:
                raise Stopped

        return step

    for number in (1, 3):
        with pytest.raises(Stopped):
            build_index(scenes_ground([scene]), tmp_path / "cut", embedder, settings, step=stop_at(number))
        with pytest.raises(SearchError, match="not finished"):
            open_index(tmp_path / "cut")
    part = next((tmp_path / "cut" / "parts").rglob("*.npz"))
    part.write_bytes(part.read_bytes()[:-40])  # a disk that lost its end
    built = build_index(scenes_ground([scene]), tmp_path / "cut", embedder, settings)
    assert built.done_before == 2
    assert _files(tmp_path / "cut") == _files(tmp_path / "whole")
    assert not (tmp_path / "cut" / "parts").exists()


def test_kill_9_loses_nothing(tmp_path: Path, scene: Path, embedder: object) -> None:
    model = write_vector_model(tmp_path / "means")
    code = f"""
import time
from geoslave.search.campaign import ranked
from geoslave.search.embedder import open_embedder
from geoslave.search.index import Settings, build_index, scenes_ground
build_index(scenes_ground([{str(scene)!r}]), __import__("pathlib").Path({str(tmp_path / "index")!r}),
            open_embedder({str(model)!r}, 1), Settings(chip_px=8, core_px=4), step=lambda *_: time.sleep(0.3))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 60
    while time.monotonic() < until and not list((tmp_path / "index" / "parts").rglob("r*.npz")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    opened = open_embedder(model, threads=1)
    built = build_index(scenes_ground([scene]), tmp_path / "index", opened, Settings(chip_px=8, core_px=4))
    assert built.done_before >= 1
    build_index(scenes_ground([scene]), tmp_path / "other", opened, Settings(chip_px=8, core_px=4))
    assert _files(tmp_path / "index") == _files(tmp_path / "other")


def test_a_finished_index_is_left_as_it_is(tmp_path: Path, scene: Path, embedder: object) -> None:
    folder = tmp_path / "index"
    build_index(scenes_ground([scene]), folder, embedder, SMALL)
    before = (folder / "vectors.npy").stat().st_mtime_ns
    assert build_index(scenes_ground([scene]), folder, embedder, SMALL).parts == 0
    assert (folder / "vectors.npy").stat().st_mtime_ns == before
    with pytest.raises(SearchError, match="another embedder, or other chips"):
        build_index(scenes_ground([scene]), folder, embedder, Settings())
    build_index(scenes_ground([scene]), folder, embedder, Settings(), overwrite=True)
    assert open_index(folder).settings == Settings()


def test_an_index_older_than_its_scenes_says_so(tmp_path: Path, scene: Path, embedder: object) -> None:
    folder = tmp_path / "index"
    build_index(scenes_ground([scene]), folder, embedder, SMALL)
    ids = set(open_index(folder).chips["chip_id"])
    os.utime(scene, ns=(1, 1))
    with pytest.raises(SearchError, match="older than its scenes"):
        open_index(folder)
    assert open_index(folder, fresh=False).changed_scenes() == ["scene"]
    build_index(scenes_ground([scene]), folder, embedder, SMALL, overwrite=True)
    assert set(open_index(folder).chips["chip_id"]) == ids  # answers find their chips again


def test_nodata_holds_no_chip(tmp_path: Path, make_scene: Callable[..., Path], embedder: object) -> None:
    pixels = dark_field((64, 64))
    pixels[:, :, 32:] = 0
    built = build_index(scenes_ground([make_scene(pixels, nodata=0)]), tmp_path / "index", embedder, SMALL)
    assert (built.chips, built.empty) == (8, 8)
    nothing = make_scene(np.zeros((3, 64, 64), np.uint8), "nothing.tif", nodata=0)
    with pytest.raises(SearchError, match="no scene holds a valid pixel"):
        build_index(scenes_ground([nothing]), tmp_path / "other", embedder, SMALL)


def test_bands_that_are_missing_are_named(tmp_path: Path, scene: Path) -> None:
    model = write_vector_model(tmp_path / "nir", ("red", "green", "nir"))
    with pytest.raises(SceneError, match="nir"):
        build_index(scenes_ground([scene]), tmp_path / "index", open_embedder(model, threads=1), SMALL)
    assert not (tmp_path / "index" / "index.json").exists()


def test_an_area_chooses_chips_and_moves_none(tmp_path: Path, scene: Path, embedder: object) -> None:
    build_index(scenes_ground([scene]), tmp_path / "all", embedder, SMALL)
    box = gpd.GeoSeries([shapely.box(500_000, 2_649_500, 500_400, 2_650_000)], crs=32645).to_crs("OGC:CRS84")
    build_index(scenes_ground([scene], aoi=box), tmp_path / "some", embedder, SMALL)
    some, every = open_index(tmp_path / "some"), open_index(tmp_path / "all")
    assert 0 < len(some) < len(every)
    assert set(some.chips["chip_id"]) < set(every.chips["chip_id"])


def test_folders_of_other_things_are_left_alone(tmp_path: Path, scene: Path, embedder: object) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    with pytest.raises(SearchError, match="other things"):
        build_index(scenes_ground([scene]), tmp_path / "letters", embedder, SMALL)
    with pytest.raises(SearchError, match="no index in"):
        open_index(tmp_path / "letters")


def test_damage_is_told(tmp_path: Path, scene: Path, embedder: object) -> None:
    folder = tmp_path / "index"
    build_index(scenes_ground([scene]), folder, embedder, SMALL)
    whole = _files(folder)
    (folder / "vectors.npy").write_bytes(b"")
    with pytest.raises(SearchError, match=r"damaged.*--overwrite"):
        open_index(folder)
    with pytest.raises(SearchError, match=r"damaged.*--overwrite"):
        build_index(scenes_ground([scene]), folder, embedder, SMALL)
    build_index(scenes_ground([scene]), folder, embedder, SMALL, overwrite=True)
    assert _files(folder) == whole
    content = bytearray(whole["vectors.npy"])
    content[-7] ^= 1  # of the right length, and wrong
    (folder / "vectors.npy").write_bytes(content)
    assert open_index(folder).damaged_files() == ["vectors.npy"]
    with pytest.raises(SearchError, match=r"damaged \(vectors.npy\).*--overwrite"):
        build_index(scenes_ground([scene]), folder, embedder, SMALL)
    build_index(scenes_ground([scene]), folder, embedder, SMALL, overwrite=True)
    assert _files(folder) == whole


def over(scene: Path, folder: Path) -> Path:
    """A VRT over a scene, in another folder."""
    folder.mkdir(exist_ok=True)
    vrt = folder / "mosaic.vrt"
    with rasterio.open(scene) as file:
        bands = "".join(
            f'<VRTRasterBand dataType="Byte" band="{n}"><ColorInterp>{colour}</ColorInterp><SimpleSource>'
            f'<SourceFilename relativeToVRT="0">{scene}'
            f"</SourceFilename><SourceBand>{n}</SourceBand></SimpleSource></VRTRasterBand>"
            for n, colour in enumerate(("Red", "Green", "Blue"), start=1)
        )
        transform = ", ".join(map(str, file.transform.to_gdal()))
        vrt.write_text(
            f'<VRTDataset rasterXSize="{file.width}" rasterYSize="{file.height}"><SRS>{file.crs.to_wkt()}</SRS>'
            f"<GeoTransform>{transform}</GeoTransform>{bands}</VRTDataset>"
        )
    return vrt


def test_a_tile_replaced_under_a_mosaic_is_noticed_and_mended(tmp_path: Path, scene: Path, embedder: object) -> None:
    vrt, folder = over(scene, tmp_path / "vrt"), tmp_path / "index"
    build_index(scenes_ground([vrt]), folder, embedder, SMALL)
    os.utime(scene, ns=(1, 1))
    with pytest.raises(SearchError, match="older than its scenes"):
        open_index(folder)
    build_index(scenes_ground([vrt]), folder, embedder, SMALL, overwrite=True)
    assert open_index(folder).changed_scenes() == []


def test_parts_of_imagery_that_was_replaced_are_thrown_away(tmp_path: Path, scene: Path, embedder: object) -> None:
    vrt, settings = over(scene, tmp_path / "vrt"), Settings(chip_px=8, core_px=4)

    def stop(_stage: str, done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(scenes_ground([vrt]), tmp_path / "index", embedder, settings, step=stop)
    with rasterio.open(scene, "r+") as file:
        file.write(255 - file.read())
    os.utime(scene, ns=(1, 1))
    assert build_index(scenes_ground([vrt]), tmp_path / "index", embedder, settings).done_before == 0
    build_index(scenes_ground([vrt]), tmp_path / "anew", embedder, settings)
    assert _files(tmp_path / "index") == _files(tmp_path / "anew")


def test_a_disk_too_small_is_told_before_the_work(
    tmp_path: Path, scene: Path, embedder: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geoslave.search.index.free_bytes", lambda _: 100)
    with pytest.raises(SearchError, match="the disk has less"):
        build_index(scenes_ground([scene]), tmp_path / "index", embedder, SMALL)
    assert not (tmp_path / "index" / "parts").exists()


def test_an_index_of_a_region_with_a_persons_own_target(tmp_path: Path, scene: Path, embedder: object) -> None:
    own = get_target("mine").model_copy(update={"name": "my_site", "chip_m": 240.0})
    plain = scenes_ground([scene])
    config = plain.config.model_copy(update={"target": own.name})
    ground = replace(plain, config=config, own_target=own)
    build_index(ground, tmp_path / "index", embedder, settings_for(ground.sought.search_chip_m, 10))
    index = open_index(tmp_path / "index")
    assert index.settings.chip_px == 24
    assert index.read(0).pixels.shape == (3, 24, 24)


def test_chips_are_cut_to_the_size_of_what_is_sought() -> None:
    def width(length: float, chip_m: float | None = None) -> float:
        size = {"typical_m": (length, length / 2), "length_m": (length / 2, length * 2), "chip_m": chip_m}
        return get_target("mine").model_copy(update=size).search_chip_m

    assert settings_for(width(100), 10).chip_px == 32  # three of them wide
    assert settings_for(width(480), 10).chip_px == 48  # a large one: 480 m
    assert settings_for(width(15), 0.5).chip_px == 96
    assert settings_for(width(12), 10).chip_px == 16
    assert settings_for(width(100, chip_m=700), 10).chip_px == 70  # as a person wants it


def test_an_index_needs_no_network(tmp_path: Path, scene: Path) -> None:
    build_index(scenes_ground([scene]), tmp_path / "index", open_embedder("plain"), SMALL)
    index = open_index(tmp_path / "index")
    assert index.facts["embedder"]["name"] == "plain"
    kiln = int(np.flatnonzero((index.chips["row"] == 20 // 16) & (index.chips["col"] == 30 // 16))[0])
    assert len(ranked(index, Answers.of({kiln: True}), 5)) == 5


def test_an_index_of_an_earlier_version_is_read_and_made_anew_only_when_asked(
    tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geoslave.search.embedder.FORMAT", 2)
    build_index(scenes_ground([scene]), tmp_path / "index", open_embedder("plain"), SMALL)
    before = (tmp_path / "index" / "index.json").read_bytes()
    monkeypatch.undo()
    assert len(ranked(open_index(tmp_path / "index"), Answers.of({3: True, 4: False}), 5)) == 5
    with pytest.raises(SearchError, match=r"earlier geoslave.*--overwrite; answers are kept"):
        build_index(scenes_ground([scene]), tmp_path / "index", open_embedder("plain"), SMALL)
    assert (tmp_path / "index" / "index.json").read_bytes() == before
    build_index(scenes_ground([scene]), tmp_path / "index", open_embedder("plain"), SMALL, overwrite=True)
    assert (tmp_path / "index" / "index.json").read_bytes() != before


def test_threads_change_no_byte(tmp_path: Path, scene: Path) -> None:
    settings = Settings(chip_px=8, core_px=4)  # several parts
    for threads in (1, 3):
        build_index(scenes_ground([scene]), tmp_path / str(threads), open_embedder("plain", threads), settings)
    assert _files(tmp_path / "1") == _files(tmp_path / "3")


def test_an_index_by_the_network_that_is_taken_by_itself(tmp_path: Path, scene: Path) -> None:
    """Chips in the corners and on the edges have their vectors too."""
    build_index(scenes_ground([scene]), tmp_path / "index", open_embedder(DEFAULT, threads=1))
    index = open_index(tmp_path / "index")
    assert len(index) == 4 * 4
    assert np.allclose(np.linalg.norm(index.vectors.astype(np.float32), axis=1), 1, atol=1e-2)


def test_a_graph_of_neighbours_finds_what_looking_at_all_finds(
    tmp_path: Path, scene: Path, embedder: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("usearch")
    build_index(scenes_ground([scene]), tmp_path / "plain", embedder, SMALL)
    monkeypatch.setattr("geoslave.search.index._GRAPH_FROM", 10)
    build_index(scenes_ground([scene]), tmp_path / "graph", embedder, SMALL)
    plain, graph = open_index(tmp_path / "plain"), open_index(tmp_path / "graph")
    assert (graph.folder / "near.usearch").is_file()
    for row in (0, 20, 40):
        exact, found = plain.nearest(plain.vectors[row], 10)[0], graph.nearest(plain.vectors[row], 10)[0]
        assert len(set(exact) & set(found)) >= 8
    answers = Answers.of({3: True, 4: False})
    monkeypatch.setattr("geoslave.search.index.ChipIndex.__len__", lambda _: 10_000)  # as if there were many
    by_graph = ranked(graph, answers, 5)["chip_id"].tolist()
    monkeypatch.undo()
    by_all = ranked(plain, answers, 5)["chip_id"].tolist()
    assert len(set(by_graph) & set(by_all)) >= 4
    content = (graph.folder / "near.usearch").read_bytes()
    for damaged in (b"", b"words", content[: len(content) // 2]):
        (graph.folder / "near.usearch").write_bytes(damaged)
        rows, _ = open_index(graph.folder).nearest(plain.vectors[20], 10)
        assert rows.tolist() == plain.nearest(plain.vectors[20], 10)[0].tolist()
