"""`geoslave estimate design`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, SHARE, answer, example, json_option, overwrite_option
from geoslave.cli.estimate_files import GAPS, LEVEL, SEED, made_from, read_frame

if TYPE_CHECKING:
    from geoslave.estimate.sample import Design

DESIGNS = ("best", "stratified", "census+audit", "random")


@click.command(
    "design",
    epilog=example(
        "geoslave estimate design frame.csv --reviews 1500 --out sample.csv",
        "geoslave estimate design frame.csv --half-width 0.1 --recall 0.6",
    ),
)
@click.argument("frame", type=PATH)
@click.option("--reviews", type=click.IntRange(2), help="How many tiles can be reviewed.")
@click.option("--half-width", type=float, help="The interval you want, half of it, as a share of the count: 0.1.")
@click.option(
    "--design", "kind", type=click.Choice(DESIGNS), default="best", show_default=True, help="How tiles are drawn."
)
@click.option("--recall", type=SHARE, default=0.75, show_default=True, help="What you suppose the detector finds.")
@click.option("--precision", type=SHARE, default=0.75, show_default=True, help="The share of true detections.")
@click.option("--clustering", type=float, default=2.5, show_default=True, help="Variance over mean of missed sites.")
@LEVEL
@GAPS
@SEED
@click.option("--out", type=PATH, help="Draw the sample and write it here (.csv), with the design beside it.")
@overwrite_option
@json_option
def design_command(
    frame: Path,
    reviews: int | None,
    half_width: float | None,
    kind: str,
    recall: float,
    precision: float,
    clustering: float,
    level: float,
    gaps: str,
    seed: int,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Propose which tiles of FRAME to review, say what interval to expect, and draw them.

    Strata are the frame's, or made of the number of detections in a tile. Wrong suppositions about the
    detector cost width, not honesty: the interval comes from what reviewers find.
    """
    from geoslave.estimate.record import write_record
    from geoslave.estimate.sample import Assumptions, draw, propose
    from geoslave.estimate.tables import checked_frame
    from geoslave.files import atomic_file, refuse_existing

    if (reviews is None) == (half_width is None):
        raise click.UsageError("give either --reviews (a budget) or --half-width (a wish)")
    beside = None if out is None else out.with_suffix(".design.json")
    for path in (out, beside):
        if path is not None:
            refuse_existing(path, overwrite)
    table = checked_frame(read_frame(frame), gaps)
    supposed = Assumptions(recall, precision, clustering)
    designs = propose(table, reviews, half_width, None if kind == "best" else kind, supposed, level)
    facts = {
        "kind": "design",
        "designs": [_design_facts(design) for design in designs],
        "assumptions": supposed.words(),
        "seed": seed,
        "out": None if out is None else str(out),
        "provenance": made_from([("frame", frame)], method=designs[0].kind, level=level, seed=seed),
    }
    if out is not None and beside is not None:
        drawn = draw(table, designs[0], seed).assign(n_sites="", n_hits="")
        with atomic_file(out, overwrite=overwrite) as draft:
            drawn.to_csv(draft, index=False)
        write_record(beside, {**facts, "out": out.name}, overwrite=overwrite)
    answer(as_json, facts, _design_lines(designs, out, seed))


def _design_facts(design: Design) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "design": design.kind,
        "n_reviews": design.n_reviews,
        "expected": round(design.expected, 1),
        "expected_low": round(design.expected_low, 1),
        "expected_high": round(design.expected_high, 1),
        "half_width": round(design.half_width, 4) if design.expected > 0 else None,
        "strata": [asdict(stratum) for stratum in design.strata],
    }


def _design_lines(designs: list[Design], out: Path | None, seed: int) -> list[str]:
    best = designs[0]
    lines = [f"{best.kind}: {best.n_reviews:,} tiles to review"]
    lines += [f"  {stratum.name:<16} {stratum.reviews:>6,} of {stratum.tiles:>8,}" for stratum in best.strata]
    lines.append(f"  {best.assumptions.words()}")
    lines.append("  then expect:")
    lines += [
        f"  {design.kind:<16} {design.n_reviews:>6,} reviews   {design.expected:,.0f} sites "
        f"[{design.expected_low:,.0f}, {design.expected_high:,.0f}], half-width {design.half_width:.0%}"
        for design in designs
    ]
    if out is not None:
        lines.append(f"  sample drawn with seed {seed}; fill in n_sites (and n_hits)  ->  {out}")
    return lines
