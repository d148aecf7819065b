"""`geoslave estimate accuracy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from geoslave.cli.common import PATH, answer, example, json_option, overwrite_option
from geoslave.cli.estimate_files import LEVEL, OUT, made_from, shown

if TYPE_CHECKING:
    from geoslave.estimate.accuracy import Accuracy


@click.command(
    "accuracy",
    epilog=example(
        "geoslave estimate accuracy units.csv --mapped areas.csv",
        "geoslave estimate accuracy matrix.csv --mapped areas.csv --json",
    ),
)
@click.argument("table", type=PATH)
@click.option("--mapped", type=PATH, required=True, help="class_name, area: how much the map gives to each class.")
@LEVEL
@OUT
@overwrite_option
@json_option
def accuracy_command(table: Path, mapped: Path, level: float, out: Path | None, overwrite: bool, as_json: bool) -> None:
    """Accuracy and area of a map after Olofsson et al. 2014.

    TABLE has one row a sample unit with columns map and reference, or it is the error matrix itself: first
    column the map's class, then one column for each reference class.
    """
    from geoslave.estimate.record import write_record
    from geoslave.files import refuse_existing

    if out is not None:
        refuse_existing(out, overwrite)
    found = _accuracy(table, mapped, level)
    rows = zip(found.classes, found.users, found.producers, found.areas, strict=True)
    facts = {
        "kind": "accuracy",
        "overall": found.overall.to_dict(),
        "classes": {
            name: {"users": user.to_dict(), "producers": producer.to_dict(), "area": area.to_dict()}
            for name, user, producer, area in rows
        },
        "provenance": made_from(
            [("sample units", table), ("mapped areas", mapped)], method=found.overall.method, level=level
        ),
    }
    if out is not None:
        write_record(out, facts, overwrite=overwrite)
    answer(as_json, facts, _accuracy_lines(found, out))


def _accuracy(table: Path, mapped: Path, level: float) -> Accuracy:
    from geoslave.errors import EstimateError
    from geoslave.estimate.accuracy import assess_accuracy, error_matrix
    from geoslave.estimate.tables import read_table

    given, share = read_table(table), read_table(mapped)
    for column in ("class_name", "area"):
        if column not in share:
            raise EstimateError(f"{mapped} has no column '{column}': it needs class_name and area")
    classes = tuple(share["class_name"].astype(str))
    if {"map", "reference"} <= set(given):
        matrix, classes = error_matrix(given, classes)
    else:
        square = given.set_index(given.columns[0])
        square.index, square.columns = square.index.astype(str), square.columns.astype(str)
        if set(square.index) != set(classes) or set(square.columns) != set(classes):
            raise EstimateError(f"{table}: rows and columns must be the classes of {mapped.name}: {', '.join(classes)}")
        matrix = square.loc[list(classes), list(classes)].to_numpy(float)
    return assess_accuracy(matrix, share["area"], classes, level)


def _accuracy_lines(found: Accuracy, out: Path | None) -> list[str]:
    lines = [f"overall accuracy {shown(found.overall, 3)}, from {found.overall.n_reviewed:,} sample units"]
    lines.append(f"  {'class':<16} {'users':<22} {'producers':<22} area")
    rows = zip(found.classes, found.users, found.producers, found.areas, strict=True)
    for name, user, producer, area in rows:
        lines.append(f"  {name[:16]:<16} {shown(user, 3):<22} {shown(producer, 3):<22} {shown(area, 1)}")
    lines.append(f"  {found.overall.level:.0%} intervals after Olofsson et al. 2014")
    return lines if out is None else [*lines, f"  ->  {out}"]
