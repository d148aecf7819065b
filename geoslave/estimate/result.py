"""An estimate: a figure, its interval, and what a reader must know before quoting it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

METHODS = {
    "gamma": "stratified total, compound Fay-Feuer gamma interval (tiles drawn at random within strata)",
    "gamma-poisson": "stratified total, Fay-Feuer gamma interval with v = sum w^2 x^2 (every tile a compound Poisson)",
    "fay-feuer": "stratified total, textbook Fay-Feuer gamma interval with v = sum w^2 x (sites fall singly)",
    "wald": "stratified total, normal interval (many hits in every stratum)",
    "difference": "difference estimator, normal interval (the detector's errors are many and near normal)",
    "discount": "DISCount, normal interval (tiles drawn with replacement in proportion to the detector's count)",
    "ppi": "PPI++, normal interval (tiles drawn at random from the whole frame)",
}
"""Every method with what it assumes."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval, and what it rests on."""

    value: float
    low: float
    high: float
    level: float
    """Nominal coverage of low to high, e.g. 0.95."""
    method: str
    """A key of METHODS, or the formula's name."""
    n_reviewed: int
    warnings: tuple[str, ...] = ()
    """What a reader must know before quoting the figure, in plain words."""

    @property
    def half_width(self) -> float:
        """Half the interval as a share of the value."""
        return (self.high - self.low) / 2 / self.value if self.value else float("inf")

    @property
    def assumptions(self) -> str:
        """The method in words."""
        return METHODS.get(self.method, self.method)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; what is not finite is None."""
        told = {**asdict(self), "warnings": list(self.warnings), "assumptions": self.assumptions}
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in told.items()
        }
