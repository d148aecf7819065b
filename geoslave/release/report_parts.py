"""The pieces a report is built from: numbered drawings and tables, and figures in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from geoslave.release.report_svg import Row

ALL_REVIEWED = "all were reviewed"
"""In place of an interval where nothing was left to a sample."""

_KNOW_A_CENSUS = ("gamma", "gamma-poisson", "fay-feuer", "recall, gamma interval", "precision, gamma interval")
"""Methods whose interval is a point only where every tile was reviewed; a normal one is where no site was seen, too."""


class Numbers:
    """Figures and tables are numbered as they come."""

    def __init__(self) -> None:
        self._last = {"Figure": 0, "Table": 0}

    def next(self, what: str) -> str:
        self._last[what] += 1
        return f"{what} {self._last[what]}"


def row_of(name: str, part: Mapping[str, Any], shown: bool, digits: int = 0) -> Row:
    """A part of a count, or a group's rate, as a row of an interval plot; what is not shown is told to be withheld."""
    if not shown:
        return Row(name)
    return Row(name, part["value"], part["low"], part["high"], short_interval(part, digits))


def figure(told: Mapping[str, Any], digits: int = 0) -> str:
    """The value alone."""
    return "not known" if told.get("value") is None else f"{told['value']:,.{digits}f}"


def interval(told: Mapping[str, Any], digits: int = 0) -> str:
    """As "95% interval 542 to 627", or that all were reviewed."""
    if certain(told):
        return ALL_REVIEWED
    return f"{told['level']:.0%} interval {ends(told, digits)}"


def certain(told: Mapping[str, Any]) -> bool:
    """Whether nothing was left to a sample."""
    exact = told.get("low") is not None and told["low"] == told.get("value") == told.get("high")
    return exact and bool(told.get("n_reviewed")) and told.get("method") in _KNOW_A_CENSUS


def ends(told: Mapping[str, Any], digits: int) -> str:
    """The two ends, or that there is none."""
    if certain(told):
        return ALL_REVIEWED
    low, high = told.get("low"), told.get("high")
    if low is None or high is None:
        return "without an end" if low is None else f"from {low:,.{digits}f} without an upper end"
    return f"{low:,.{digits}f} to {high:,.{digits}f}"


def short_interval(told: Mapping[str, Any], digits: int = 0) -> str:
    """As "571 (542 to 627)"."""
    return f"{figure(told, digits)} ({ends(told, digits)})"


def half_width(total: Mapping[str, Any]) -> float | None:
    """Half the interval as a share of the value; None where it has no end."""
    if not total.get("value") or total.get("high") is None:
        return None
    return float(total["high"] - total["low"]) / 2 / float(total["value"])


def sentence(text: str) -> str:
    """With a capital at the beginning."""
    return text[:1].upper() + text[1:]


def bullets(items: Sequence[str], kind: str = "") -> str:
    """A list; `kind` is its class in the style."""
    return f'<ul class="{kind}">' + "".join(f"<li>{escape(sentence(item))}</li>" for item in items) + "</ul>"


def drawing_of(svg: str, number: Numbers, caption: str) -> str:
    """A drawing with its number and caption."""
    told = f"<b>{number.next('Figure')}.</b> {escape(caption)}"
    return f"<figure>{svg}<figcaption>{told}</figcaption></figure>"


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]], number: Numbers, caption: str) -> str:
    """A table with its number and caption."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    told = f"<b>{number.next('Table')}.</b> {escape(caption)}"
    return f"<table><caption>{told}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
