"""A report that can be attached to a paper: one HTML file with figures, intervals, methods, limits, provenance.

Everything is in the file: drawings are SVG, there is no script, and a content policy forbids the browser to
load anything. Figures come from the records of `geoslave estimate` (count, change, accuracy, compare,
registry). Unless exact places are asked for, the map shows hexagons of at least five detections, and
counts by place are withheld as in a public release (`geoslave.release.suppress`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from pathlib import Path
from typing import Any

from geoslave.detections.schema import STATEMENT
from geoslave.errors import EstimateError
from geoslave.files import atomic_file
from geoslave.release import report_words as words
from geoslave.release.report_origin import provenance_of
from geoslave.release.report_parts import Numbers, bullets, certain, figure, half_width, interval, sentence
from geoslave.release.report_sections import SECTIONS, Ground, map_of_detections
from geoslave.release.report_style import STYLE, TEMPLATE
from geoslave.release.suppress import K

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cover:
    """What stands at the top."""

    title: str
    place: str = ""
    authors: tuple[str, ...] = ()
    notice: str = ""
    """Something a reader must see first, e.g. that all is synthetic."""
    written: date | None = None


def write_report(
    out: Path, records: Sequence[Record], cover: Cover, ground: Ground | None = None, *, overwrite: bool = False
) -> None:
    """Write a report as one HTML file.

    Args:
        records: see `geoslave.estimate.record`.

    Raises:
        EstimateError: if there is nothing to report, or a record is not whole.
        MissingExtra: if a map of hexagons is wanted, and h3 is not installed.
        OutputError: if `out` exists and `overwrite` is false, or it cannot be written.
    """
    try:
        text = page(records, cover, ground or Ground())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EstimateError(
            f"the figures are not whole ({type(error).__name__}: {error}): make them again with geoslave estimate"
        ) from error
    with atomic_file(out, overwrite=overwrite) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


def page(records: Sequence[Record], cover: Cover, ground: Ground) -> str:
    """The report as HTML.

    Raises:
        EstimateError, MissingExtra: as write_report.
    """
    told = [record for record in records if record.get("kind") in words.OF_KIND]
    if not told:
        raise EstimateError("there is no figure to report: give what geoslave estimate count, change or others wrote")
    number = Numbers()
    body = [_head(cover, ground), *(_headline(record) for record in _of(told, "count"))]
    body += map_of_detections(ground, number)
    for record in told:
        body += SECTIONS[record["kind"]](record, ground, number)
    body += [*_methods(told, ground), provenance_of(told, cover.written, ground.provenance or {}, ground.precise)]
    return TEMPLATE.format(title=escape(cover.title), style=STYLE, body="\n".join(part for part in body if part))


# ---------------------------------------------------------------- the top


def _head(cover: Cover, ground: Ground) -> str:
    about = " · ".join(part for part in (cover.place, ", ".join(cover.authors)) if part)
    parts = [f"<h1>{escape(cover.title)}</h1>"]
    if about:
        parts.append(f'<p class="about">{escape(about)}</p>')
    if cover.notice:
        parts.append(f'<p class="notice">{escape(cover.notice)}</p>')
    if ground.precise and not ground.synthetic:
        parts.append('<p class="notice">This report shows exact places. Do not publish it, do not pass it on.</p>')
    parts.append(f'<p class="statement"><strong>An indicator, not evidence.</strong> {escape(STATEMENT)}</p>')
    return f"<header>{''.join(parts)}</header>"


def _headline(record: Record) -> str:
    total = record["total"]
    cards = [_card("sites", figure(total), interval(total))]
    for name in ("recall", "precision"):
        if name in record:
            cards.append(_card(f"{name} of the detector", figure(record[name], 2), interval(record[name], 2)))
    said = f"An estimate of {figure(total)} sites, {interval(total)}, from {total['n_reviewed']:,} reviewed tiles"
    sample = record.get("sample")
    if sample:
        said += f" of {sample['tiles']:,}"
    half = half_width(total)
    if certain(total):
        said = f"A count of {figure(total)} sites: of {total['n_reviewed']:,} tiles none was left out"
    elif half is not None:
        said += f". Half the interval is {half:.0%} of the estimate"
    return f'<section class="cards">{"".join(cards)}</section><p class="lead">{escape(said)}.</p>'


def _card(name: str, figure: str, interval: str) -> str:
    return f"<div><b>{figure}</b><span>{escape(name)}</span><small>{escape(interval)}</small></div>"


# ---------------------------------------------------------------- the end


def _methods(records: Sequence[Record], ground: Ground) -> list[str]:
    methods: list[str] = []
    assumed: list[str] = []
    cited: list[str] = []
    for record in records:
        for known, more in zip((methods, assumed, cited), words.OF_KIND[record["kind"]](record), strict=True):
            known += [part for part in more if part not in known]
    warned = sorted({warning for record in records for warning in _warnings(record)})
    reviewers = any(words.reviewers_err(record) in ("votes", "probability") for record in _of(records, "count"))
    parts = ["<h2>Methods</h2>", *(f"<p>{escape(part)}</p>" for part in methods)]
    if not ground.precise:
        parts.append(
            f"<p>To protect people and places, no exact position is in this report. Counts by place are shown from {K} "
            "sites on, and more are withheld where subtracting from a total would give a small one away.</p>"
        )
    parts += ["<h2>Assumptions</h2>", bullets(assumed)]
    parts += ["<h2>Warnings</h2>", bullets([sentence(part) for part in warned] or ["None of the estimates warns."])]
    parts += ["<h2>What these figures cannot tell</h2>", bullets(words.limits(reviewers))]
    if cited:
        references = [words.REFERENCES[name] for name in cited]
        parts += ["<h2>References</h2>", bullets(sorted(references), "references")]
    return parts


def _warnings(told: Any) -> Iterable[str]:
    """Every warning in a record, wherever it stands."""
    if isinstance(told, Mapping):
        # what is taken for granted stands under the assumptions
        given = [str(warning) for warning in told.get("warnings") or ()]
        yield from (warning for warning in given if not warning.startswith(("assumes ", "misses are taken")))
        for key, value in told.items():
            if key != "warnings":
                yield from _warnings(value)
    elif isinstance(told, list):
        for value in told:
            yield from _warnings(value)


def _of(records: Sequence[Record], kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]
