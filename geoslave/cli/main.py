"""`geoslave`: the commands, and how they fail."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from types import FrameType
from typing import Any

import click

from geoslave import __version__
from geoslave.cli.common import example
from geoslave.cli.lazy import LazyGroup
from geoslave.errors import GeoslaveError

COMMANDS = {
    "demo": "Show the whole path on a rendered scene, with nothing to download.",
    "chip": "Cut a scene into georeferenced chips with an index.",
    "labels": "Bring labels of any format into one table.",
    "train": "Train a model from a configuration file.",
    "detect": "Find sites in scenes and write them as a layer.",
    "evaluate": "Measure a model against labelled sites.",
    "crossvalidate": "Train without each region in turn, and measure there.",
    "detections": "Enrich a layer: distances, siting rules, clusters.",
    "estimate": "Count sites with intervals: designs, totals, accuracy, comparisons.",
    "calibrate": "Make a model's confidence a probability.",
    "region": "Find sites in a whole region: many scenes, resumed where it stopped.",
    "review": "Let people look at detections, and bring back what they say.",
    "export": "Convert a layer of detections, filtered by confidence.",
    "release": "Publish counts that give no place away; check a folder before it leaves.",
    "provenance": "Lead a detection, a count or a release back to its origin.",
    "search": "A new kind of site from a few examples: more like these, a model, and when to stop.",
    "targets": "Kinds of sites: list them, show one with its sources, check your own.",
    "models": "List the models, show their cards, take in others', check them.",
}


@click.group(
    cls=LazyGroup,
    found_in={name: (f"geoslave.cli.{name}", "command", told) for name, told in COMMANDS.items()},
    epilog=example("geoslave demo", "geoslave detect scene.tif --model kiln-s2 --out kilns.gpkg"),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__)
def cli() -> None:
    """Find and map sites linked to modern slavery in satellite imagery.

    A detection is an indicator of a kind of site, never evidence of a crime.
    """


def main() -> None:
    """Entry point: one line for every error, status 0, 1 (failed) or 2 (bad usage)."""
    _keep_libraries_quiet()
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit status."""
    try:
        answer = cli.main(arguments, prog_name="geoslave", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail("stopped: what was in the making has been removed, finished files are whole")
    except GeoslaveError as error:
        return _fail(str(error))
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except MemoryError:
        return _fail("out of memory: close other programs or use fewer --threads")
    except Exception as error:
        if os.environ.get("GEOSLAVE_DEBUG"):
            raise
        return _fail(
            f"this should not happen ({type(error).__name__}: {' '.join(str(error).split())}): "
            "please report it, with what GEOSLAVE_DEBUG=1 prints"
        )
    return answer if isinstance(answer, int) else 0


def _fail(message: str) -> int:
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {message}", err=True)
    return 1


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _keep_libraries_quiet() -> None:
    """What libraries log or warn about is either an error, which we raise, or nothing a user can act on."""
    for name in ("rasterio", "pyogrio", "fiona", "onnxruntime", "torch", "shapely"):
        logger: Any = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    if not os.environ.get("GEOSLAVE_DEBUG"):
        warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()
