"""Whether indexing keeps up with reading: megapixels a second of each, of the same pixels.

    uv run scripts/bench/index_speed.py            9.4 megapixels of a real scene; minutes
    uv run scripts/bench/index_speed.py --quick    2.4 megapixels, within a minute

The inside of a Sentinel-2 scene (GEOSLAVE_DATA; without it a drawn one), mirrored until it is large, in 16 bits with
the noise of a sensor, is written as a deflated GeoTIFF and as lossless JPEG2000 in blocks of 1024, as ESA delivers
Sentinel-2. Reading is what `search index` does with it: block by block with their margins, three bands, checked for
nodata. Over a network it comes from an HTTP server on loopback that sends no more than 100 Mbit a second.
Indexing is from the first look at the scene to the finished index, with the network that is taken by itself and without
one; once by one thread and once by all. A pixel counts once, however many chips see it.

Times are on the clock: run it on a machine that does nothing else. Reading goes on beside embedding: an index takes the
longer of the two.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np
import rasterio
from affine import Affine
from common import say, write_scene
from haystacks import data_folder
from numpy.typing import NDArray

from geoslave.imagery.geotiff import gdal_environment
from geoslave.model.predict import usable_cores
from geoslave.search import index as indexing
from geoslave.search.embedder import DEFAULT, PLAIN, Embedder, open_embedder
from geoslave.search.index import Settings, build_index, scenes_ground

MBIT = 100
_REAL = "s2b_l1c_20181013_8band.tif"
_RED_GREEN_BLUE = (3, 2, 1)
_CORE = Settings().core_px * indexing.PART
_PIECE = 64 << 10


def pixels(blocks: int) -> NDArray[np.uint16]:
    """[3, y, x] of so many blocks a side."""
    path = data_folder() / "scenes" / _REAL
    if path.is_file():
        with rasterio.open(path) as file:
            inside = file.read(_RED_GREEN_BLUE)[:, 600:1600, 700:1900]
    else:
        with tempfile.TemporaryDirectory() as folder, rasterio.open(write_scene(Path(folder) / "s.tif", 1098)) as file:
            inside = np.minimum(file.read((1, 2, 3)) // 16, 254).astype(np.uint8)
    side = blocks * _CORE
    more = [(0, 0), *((0, max(0, side - n)) for n in inside.shape[1:])]
    large = np.pad(inside, more, mode="symmetric")[:, :side, :side].astype(np.uint16)
    noise = np.random.default_rng(0).integers(0, 8, large.shape, np.uint16)
    return (large + 1) * 8 + noise


def written(values: NDArray[np.uint16], folder: Path) -> dict[str, Path]:
    """The same pixels as a GeoTIFF and as JPEG2000."""
    profile = {"width": values.shape[2], "height": values.shape[1], "count": 3, "dtype": "uint16", "crs": "EPSG:32618",
               "transform": Affine(10, 0, 350_000, 0, -10, 3_850_000), "nodata": 0}  # fmt: skip
    kinds = {
        "geotiff": ("scene.tif", {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512,
                                  "compress": "deflate", "predictor": 2, "interleave": "band"}),
        "jpeg2000": ("scene.jp2", {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES",
                                   "BLOCKXSIZE": 1024, "BLOCKYSIZE": 1024}),
    }  # fmt: skip
    for name, options in kinds.values():
        with rasterio.open(folder / name, "w", **profile, **options) as file:
            file.write(values)
    return {kind: folder / name for kind, (name, _) in kinds.items()}


def read_seconds(path: str, embedder: Embedder, threads: int) -> float:
    """Of every block with its margin, as an index reads it."""
    ground = scenes_ground([path], bands={"red": 1, "green": 2, "blue": 3})
    settings = Settings()
    spec = indexing._reading_spec(embedder, settings, ground)
    job = indexing._Job(ground, Path("nowhere"), embedder, settings, spec, "")
    with gdal_environment(), rasterio.Env(GDAL_NUM_THREADS=str(threads)):
        job.records = indexing._look(job)  # the scene's scaling: looked up once, and no part of reading
        opened = indexing._Opened(job)
        try:
            began = time.perf_counter()
            for name, _, block, _ in indexing._blocks(job):
                opened.cut(name, block)
            return time.perf_counter() - began
        finally:
            opened.close()


def index_seconds(path: Path, embedder: Embedder) -> float:
    with tempfile.TemporaryDirectory() as folder:
        ground = scenes_ground([path], bands={"red": 1, "green": 2, "blue": 3})
        began = time.perf_counter()
        build_index(ground, Path(folder) / "index", embedder, Settings())
        return time.perf_counter() - began


def least(measure: Callable[[], float], times: int) -> float:
    return min(measure() for _ in range(times))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder behind a slow line; a process of its own, for GDAL holds Python's lock as it opens."""
    command = [sys.executable, __file__, "--serve", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def serve(folder: Path) -> None:
    from http.server import ThreadingHTTPServer

    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.range_server import Handler

    class Slow:
        """Writes pieces as the line takes them: one line for all who ask."""

        line, free = Lock(), 0.0

        def __init__(self, file: object) -> None:
            self._write = file.write  # type: ignore[attr-defined]
            self.flush = file.flush  # type: ignore[attr-defined]
            self.close = file.close  # type: ignore[attr-defined]
            self.closed = False

        def write(self, content: bytes) -> None:
            for start in range(0, len(content), _PIECE):
                piece = content[start : start + _PIECE]
                with Slow.line:
                    Slow.free = max(Slow.free, time.monotonic()) + len(piece) * 8 / (MBIT * 1e6)
                    time.sleep(max(0.0, Slow.free - time.monotonic()))
                self._write(piece)

    class Throttled(Handler):
        def setup(self) -> None:
            super().setup()
            self.wfile = Slow(self.wfile)

    Handler.folder = folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), Throttled)
    print(server.server_port, flush=True)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few blocks, within a minute")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    blocks, times = (2, 1) if options.quick else (4, 2)
    values, cores = pixels(blocks), usable_cores()
    mega = values[0].size / 1e6
    facts: dict[str, object] = {"megapixels": round(mega, 2), "cores": cores, "mbit": MBIT}
    eye, plain = (open_embedder(name, 1) for name in (DEFAULT, PLAIN))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = written(values, folder)
        facts["bytes_a_pixel"] = {kind: round(path.stat().st_size / values[0].size, 2) for kind, path in files.items()}
        reading = {f"{kind}_{threads}": least(lambda p=path, t=threads: read_seconds(str(p), eye, t), times)
                   for kind, path in files.items() for threads in sorted({1, cores})}  # fmt: skip
        with served(folder) as address:
            reading["network"] = read_seconds(f"{address}/{files['geotiff'].name}", eye, 1)
        made = {}
        for threads in sorted({1, cores}):
            for name, opened in ((DEFAULT, eye), (PLAIN, plain)):
                embedder = opened if threads == 1 else open_embedder(name, threads)
                made[f"{name}_{threads}"] = least(lambda e=embedder: index_seconds(files["geotiff"], e), times)
    facts["read_mpx_s"] = {kind: round(mega / seconds, 2) for kind, seconds in reading.items()}
    facts["index_mpx_s"] = {kind: round(mega / seconds, 2) for kind, seconds in made.items()}
    facts["chips_s"] = {kind: round(mega * 1e6 / Settings().core_px ** 2 / seconds) for kind, seconds in made.items()}
    facts["indexing_of_reading"] = {
        f"{name}_{threads}_of_{source}": round(reading[source if source == "network" else f"{source}_{threads}"]
                                               / made[f"{name}_{threads}"], 3)
        for name in (DEFAULT, PLAIN) for threads in sorted({1, cores}) for source in ("geotiff", "jpeg2000", "network")
    }  # fmt: skip
    for kind, speed in {**facts["read_mpx_s"], **facts["index_mpx_s"]}.items():  # type: ignore[dict-item]
        print(f"{kind:20} {speed:8} Mpx/s")
    say(facts)


if __name__ == "__main__":
    main()
