"""`geoslave estimate compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, answer, example, json_option, note, overwrite_option
from geoslave.cli.estimate_files import GAPS, LEVEL, OUT, SEED, area_options, made_from, read_frame, shown

if TYPE_CHECKING:
    from geoslave.estimate.compare import Comparison


@click.command(
    "compare",
    epilog=example("geoslave estimate compare frame.csv reviews.csv --by district --by season"),
)
@click.argument("frame", type=PATH)
@click.argument("reviews", type=PATH)
@click.option("--by", multiple=True, metavar="COLUMN", help="A column of frame or reviews; may be given again.")
@area_options
@LEVEL
@GAPS
@SEED
@OUT
@overwrite_option
@json_option
def compare_command(
    frame: Path,
    reviews: Path,
    by: tuple[str, ...],
    areas: Path | None,
    area_name: str | None,
    level: float,
    gaps: str,
    seed: int,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Is the detector unfair to a place? Recall, precision and calibration by group, with a test.

    The test shuffles groups among the reviewed tiles of each stratum: p is how often chance alone makes
    groups as different as these.
    """
    from geoslave.estimate.compare import compare_groups
    from geoslave.estimate.record import write_record
    from geoslave.estimate.tables import read_table
    from geoslave.files import refuse_existing

    if not by and areas is None:
        raise click.UsageError("give --by COLUMN or --areas POLYGONS: what should be compared?")
    if out is not None:
        refuse_existing(out, overwrite)
    tiles, found = read_frame(frame, areas, area_name), read_table(reviews)
    columns = (*by, *(("area",) if areas is not None else ()))
    compared = [one for name in columns for one in compare_groups(tiles, found, name, level, gaps, seed)]
    facts = {
        "kind": "comparison",
        "comparisons": [_comparison_facts(one) for one in compared],
        "provenance": made_from(
            [("frame", frame), ("reviews", reviews), ("areas", areas)],
            method="shuffled groups (strata: held against each other by their intervals)",
            level=level,
            seed=seed,
            gaps=gaps,
        ),
    }
    if out is not None:
        write_record(out, facts, overwrite=overwrite)
    answer(as_json, facts, [line for one in compared for line in _comparison_lines(one)])
    if not as_json:
        for warning in sorted({warning for one in compared for warning in one.warnings}):
            note(warning)


def _comparison_facts(one: Comparison) -> dict[str, Any]:
    return {
        "measure": one.measure,
        "by": one.by,
        "p_value": one.p_value,
        "differs": one.differs,
        "groups": {name: estimate.to_dict() for name, estimate in one.groups.items()},
        "hits": one.hits,
        "warnings": list(one.warnings),
    }


def _comparison_lines(one: Comparison) -> list[str]:
    verdict = "differs" if one.differs else "no difference seen"
    lines = [f"{one.measure} by {one.by}: {verdict} (p = {one.p_value:.3g})"]
    return [*lines, *(f"  {name[:24]:<24} {shown(estimate, 3)}" for name, estimate in one.groups.items())]
