"""Scenes in an object store (a local S3-compatible server): found as on disk, and noticed when they are replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import rasterio
import s3fs
from moto.server import ThreadedMotoServer

from geoslave.errors import SceneError
from geoslave.region.layout import RegionFolder
from geoslave.region.publish import export_region
from geoslave.region.run import Choice, run_region
from tests.region.conftest import MakeRegion, change, country

BUCKET = "scenes"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an empty store, to which the environment leads GDAL and fsspec too."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_S3_ENDPOINT": f"{host}:{port}",
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
    }
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    client = boto3.client("s3", endpoint_url=settings["AWS_ENDPOINT_URL"])
    client.create_bucket(Bucket=BUCKET)
    s3fs.S3FileSystem.clear_instance_cache()  # of the store of another test
    yield client
    server.stop()


@pytest.fixture
def stored_region(make_region: MakeRegion, scenes: list[Path], store: Any) -> RegionFolder:
    """The region of the two scenes, which lie in the store."""
    region = make_region("stored")
    for path in scenes:
        store.upload_file(str(path), BUCKET, path.name)
    change(region, scenes=[f"s3://{BUCKET}/{path.name}" for path in scenes])
    return region


@pytest.mark.parametrize("workers", [0, 2])
def test_scenes_in_a_store_give_what_they_give_on_disk(
    stored_region: RegionFolder, make_region: MakeRegion, workers: int
) -> None:
    local = make_region("local")
    run_region(local, Choice(workers=0))
    summary = run_region(stored_region, Choice(workers=workers))
    assert not summary.failures and summary.done_now == summary.blocks > 0
    found, expected = (features(region) for region in (stored_region, local))
    assert found == expected and len(found) > 10
    again = run_region(stored_region, Choice(workers=0))
    assert again.run == summary.run and again.done_now == 0


def test_a_scene_that_is_replaced_in_the_store_begins_a_new_run(
    stored_region: RegionFolder, make_region: MakeRegion, scenes: list[Path], store: Any
) -> None:
    first = run_region(stored_region, Choice(workers=0))
    before = features(stored_region)
    with rasterio.open(scenes[1], "r+") as file:
        file.write(country((file.height, file.width), seed=9))
    store.upload_file(str(scenes[1]), BUCKET, scenes[1].name)
    again = run_region(stored_region, Choice(workers=0))
    assert again.run != first.run and again.done_now == again.blocks and not again.failures
    local = make_region("local")
    run_region(local, Choice(workers=0))
    assert before != features(stored_region) == features(local)


def test_a_scene_that_is_not_in_the_store_is_told(stored_region: RegionFolder, store: Any) -> None:
    store.delete_object(Bucket=BUCKET, Key="left_20200105.tif")
    with pytest.raises(SceneError, match=r"s3://scenes/left_20200105\.tif cannot be found"):
        run_region(stored_region, Choice(workers=0))


def test_a_store_that_cannot_be_asked_is_told_in_a_line(
    stored_region: RegionFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(
        SceneError, match=r"left_20200105\.tif cannot be found .*endpoint.*: check the address"
    ) as error:
        run_region(stored_region, Choice(workers=0))
    assert "\n" not in str(error.value)


def features(region: RegionFolder) -> list[str]:
    """The lines of the GeoJSON layer that are detections."""
    path = next(path for path in export_region(region).layers if path.suffix == ".geojson")
    return [line.rstrip(",") for line in path.read_text(encoding="utf-8").splitlines() if '"id"' in line]
