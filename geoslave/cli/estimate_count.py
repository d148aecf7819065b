"""`geoslave estimate count | chapman`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geoslave.cli.common import PATH, answer, example, json_option, note, overwrite_option
from geoslave.cli.estimate_files import (
    GAPS,
    LEVEL,
    OUT,
    SEED,
    area_options,
    made_from,
    read_frame,
    shown,
    with_areas,
)

if TYPE_CHECKING:
    import pandas as pd

    from geoslave.estimate.result import Estimate

# the words of geoslave.estimate; importing them here would make --help slow
METHODS = ("gamma", "gamma-poisson", "fay-feuer", "wald", "difference", "discount", "ppi")
TAKEN_AT_THEIR_WORD = "method {method} takes reviewers at their word: the votes were not used, method gamma uses them"
NAMED = 5
"""Parts that a warning names; of the others it says how many."""
ERRING = "reviewers' errors are carried into the count, not into recall and precision"


@click.command(
    "count",
    epilog=example(
        "geoslave estimate count frame.csv reviews.csv --by district --rates",
        "geoslave estimate count frame.gpkg reviews.csv --areas districts.gpkg --area-name name",
        "geoslave estimate count frame.csv reviews.csv --votes votes.csv --gold gold.csv",
        "geoslave estimate count --review kilns-review --rates --out count.json",
    ),
)
@click.argument("frame", type=PATH, required=False)
@click.argument("reviews", type=PATH, required=False)
@click.option("--review", metavar="REVIEW", help="A review (folder, database): its tasks, chances and votes at once.")
@click.option(
    "--method", type=click.Choice(METHODS), default="gamma", show_default=True, help="The estimator and its interval."
)
@LEVEL
@GAPS
@click.option("--by", multiple=True, metavar="COLUMN", help="Also counts for each value, e.g. stratum.")
@area_options
@click.option("--by-class", is_flag=True, help="Also counts by class, from the reviews' columns n_<class>.")
@click.option("--rates", is_flag=True, help="Also recall and precision of the detector.")
@click.option("--votes", type=PATH, help="tile_id, reviewer, answer: carries reviewers' errors through.")
@click.option("--gold", type=PATH, help="tile_id, answer: known tiles that measured the reviewers.")
@SEED
@OUT
@overwrite_option
@json_option
def count_command(
    frame: Path | None,
    reviews: Path | None,
    review: str | None,
    method: str,
    level: float,
    gaps: str,
    by: tuple[str, ...],
    areas: Path | None,
    area_name: str | None,
    by_class: bool,
    rates: bool,
    votes: Path | None,
    gold: Path | None,
    seed: int,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """How many sites FRAME holds, from the REVIEWS of a sample of its tiles.

    With --review both come from a review people voted in, and their errors are carried through. gamma, the default, is
    the stratified total with a compound Fay-Feuer gamma interval: the one that held in every setting measured
    (docs/coverage.md). The others say where they are known to fail.
    """
    from geoslave.estimate.count import class_counts, count_by, count_sites, errors_carried
    from geoslave.estimate.rates import detector_rates
    from geoslave.estimate.record import count_record, write_record
    from geoslave.estimate.reviewed import take_sample
    from geoslave.files import refuse_existing

    if gold is not None and votes is None:
        raise click.UsageError("--gold needs --votes: known tiles measure the reviewers through their votes")
    _check_usage(frame, reviews, review, votes)
    if out is not None:
        refuse_existing(out, overwrite)
    given = _tables(frame, reviews, review, votes, gold, areas, area_name)
    tiles, found = given.frame, given.reviews
    options: dict[str, Any] = {"level": level, "gaps": gaps}
    erring: dict[str, Any] = {"votes": given.votes, "gold": given.gold, "seed": seed}
    total = _told(count_sites(tiles, found, method, **options, **erring), given.warnings)
    parts = {
        name: count_by(tiles, found, name, method, **options, **erring)
        for name in (*by, *(("area",) if areas is not None else ()))
    }
    if by_class:
        parts["class"] = class_counts(tiles, found, method, erring=given.votes is not None, **options)
    found_rates = detector_rates(tiles, found, **options) if rates else {}
    err = errors_carried(found, given.votes, method)
    if err is None and given.votes is not None:
        total = _told(total, (TAKEN_AT_THEIR_WORD.format(method=method),))
    if err is not None:
        found_rates = {name: _told(rate, (ERRING,)) for name, rate in found_rates.items()}
    origin = made_from(
        [("frame", frame), ("reviews", reviews), ("votes", votes), ("gold", gold), ("areas", areas)],
        method=method,
        level=level,
        seed=seed,
        gaps=gaps,
        n_reviewed=total.n_reviewed,
        n_reviewers=given.n_reviewers,
        votes_head=given.head,
        reviewers_err=err or "none",
    )
    sample = None if method == "discount" else take_sample(tiles, found, gaps)[1]
    facts = count_record(total, parts, found_rates, sample, origin)
    if out is not None:
        write_record(out, facts, overwrite=overwrite)
    answer(as_json, facts, _count_lines(total, parts, found_rates, out))
    if not as_json:
        for warning in _warnings(total, parts, found_rates):
            note(warning)


def _check_usage(frame: Path | None, reviews: Path | None, review: str | None, votes: Path | None) -> None:
    if review is None and (frame is None or reviews is None):
        raise click.UsageError("give FRAME and REVIEWS, or --review with a review people voted in")
    if review is not None and (reviews is not None or votes is not None):
        raise click.UsageError("--review brings its reviews and votes: leave REVIEWS and --votes out")


@dataclass(frozen=True, slots=True)
class _Tables:
    """What a count is made from."""

    frame: pd.DataFrame
    reviews: pd.DataFrame
    votes: pd.DataFrame | None
    gold: pd.DataFrame | None
    warnings: tuple[str, ...] = ()
    head: str | None = None

    @property
    def n_reviewers(self) -> int | None:
        """People, where the tables say who voted."""
        told = self.votes if self.votes is not None else self.reviews
        return int(told["reviewer"].nunique()) if "reviewer" in told else None


def _tables(
    frame: Path | None,
    reviews: Path | None,
    review: str | None,
    votes: Path | None,
    gold: Path | None,
    areas: Path | None,
    area_name: str | None,
) -> _Tables:
    from geoslave.estimate.tables import read_table

    if review is None:
        assert frame is not None and reviews is not None
        cast, known = (None if path is None else read_table(path) for path in (votes, gold))
        return _Tables(read_frame(frame, areas, area_name), read_table(reviews), cast, known)
    from geoslave.cli.estimate_review import read_review

    held = read_review(review, None if frame is None else read_frame(frame))
    found = held.reviews
    if areas is not None:  # the places of drawn tasks are in the review; nobody needs those of the others
        found = with_areas(found, areas, area_name, f"review {review}")
    return _Tables(held.frame, found, held.votes, held.gold, held.warnings, held.head)


def _told(total: Estimate, more: tuple[str, ...]) -> Estimate:
    from dataclasses import replace

    return replace(total, warnings=(*total.warnings, *more))


def _warnings(total: Estimate, parts: dict[str, dict[str, Estimate]], rates: dict[str, Estimate]) -> list[str]:
    """Those of total and rates, then those that only parts have, each once with the parts it is about."""
    told = list(dict.fromkeys(warning for one in (total, *rates.values()) for warning in one.warnings))
    about: dict[tuple[str, str], list[str]] = {}
    for by, groups in parts.items():
        for name, part in groups.items():
            for warning in dict.fromkeys(part.warnings):
                about.setdefault((by, warning), []).append(name)
    return told + [_of_parts(by, names, warning) for (by, warning), names in about.items() if warning not in told]


def _of_parts(by: str, names: list[str], warning: str) -> str:
    more = f" and {len(names) - NAMED:,} others" if len(names) > NAMED else ""
    return f"{by} {', '.join(names[:NAMED])}{more}: {warning}"


@click.command(
    "chapman",
    epilog=example("geoslave estimate chapman 346 184 49"),
)
@click.argument("n1", type=click.IntRange(0))
@click.argument("n2", type=click.IntRange(0))
@click.argument("both", type=click.IntRange(0))
@LEVEL
@json_option
def chapman_command(n1: int, n2: int, both: int, level: float, as_json: bool) -> None:
    """Sites there are when one list has N1 of them, an independent one N2, and BOTH are on the two."""
    from geoslave.estimate.count import count_chapman

    estimate = count_chapman(n1, n2, both, level)
    answer(as_json, estimate.to_dict(), [f"{shown(estimate)} sites", f"  {estimate.method}"])
    if not as_json:
        for warning in estimate.warnings:
            note(warning)


def _count_lines(
    total: Estimate, parts: dict[str, dict[str, Estimate]], rates: dict[str, Estimate], out: Path | None
) -> list[str]:
    lines = [f"{shown(total)} sites, {total.level:.0%} interval, from {total.n_reviewed:,} reviewed tiles"]
    lines.append(f"  {total.method}: {total.assumptions}")
    lines += [f"  {name:<10} {shown(rate, 3)}" for name, rate in rates.items()]
    for by, groups in parts.items():
        lines += ["", f"  {'by ' + by:<24} {'reviewed':>8}  sites"]
        lines += [f"  {name[:24]:<24} {part.n_reviewed:>8,}  {shown(part)}" for name, part in groups.items()]
    return lines if out is None else [*lines, f"  ->  {out}"]
