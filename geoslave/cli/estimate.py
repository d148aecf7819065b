"""`geoslave estimate ...`: designs, counts, accuracy, comparisons, change, registers, a report."""

from __future__ import annotations

import click

from geoslave.cli.common import example
from geoslave.cli.estimate_accuracy import accuracy_command
from geoslave.cli.estimate_change import command as change_command
from geoslave.cli.estimate_compare import compare_command
from geoslave.cli.estimate_count import chapman_command, count_command
from geoslave.cli.estimate_design import design_command
from geoslave.cli.estimate_frame import frame_command
from geoslave.cli.estimate_registry import command as registry_command
from geoslave.cli.estimate_report import command as report_command


@click.group(
    "estimate",
    epilog=example(
        "geoslave estimate frame regions/bihar --out frame.csv",
        "geoslave estimate design frame.csv --reviews 1500 --out sample.csv",
        "geoslave estimate count frame.csv reviews.csv --rates --out count.json",
        "geoslave estimate report count.json --detections kilns.gpkg --out report.html",
    ),
)
def command() -> None:
    """How many sites there are, and how sure that is.

    A frame is a table with one row a tile: tile_id, n_flagged (detections in it), and if you have them
    stratum, score, predicted, status, areas. Reviews are the sample's rows with n_sites filled in.
    """


for _command in (
    frame_command,
    design_command,
    count_command,
    chapman_command,
    accuracy_command,
    compare_command,
    change_command,
    registry_command,
    report_command,
):
    command.add_command(_command)
