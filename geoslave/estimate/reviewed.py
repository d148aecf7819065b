"""The reviewed sample: answered reviews by stratum, checked against the frame they were drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geoslave.errors import EstimateError
from geoslave.estimate.intervals import Floats, Moments
from geoslave.estimate.tables import NOT_SEARCHED, checked_frame, checked_reviews

FEW_REVIEWS = 300

Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Sample:
    """Answered reviews, by stratum."""

    table: pd.DataFrame
    stratum: Index
    """[n], position of each review's stratum in `names`."""
    names: tuple[str, ...]
    tiles: Floats
    """[H], tiles of each stratum in the frame."""
    warnings: tuple[str, ...]
    blank: NDArray[np.bool_] | None = None
    """[H], strata known to hold no detection: nothing in them can be a false alarm. None: not known of any."""

    @property
    def reviewed(self) -> Floats:
        """[H], answered reviews of each stratum."""
        return np.bincount(self.stratum, minlength=len(self.names)).astype(float)

    def moments(self, counts: Floats) -> Moments:
        """Sums by stratum of counts [..., n] of the reviewed tiles."""
        member = (self.stratum[:, None] == np.arange(len(self.names))).astype(float)
        return Moments(self.tiles, self.reviewed, counts @ member, counts**2 @ member)

    def to_dict(self) -> dict[str, Any]:
        """How large frame and sample are, in all and by stratum."""
        with_sites = np.bincount(self.stratum, weights=self.table["n_sites"] > 0, minlength=len(self.names))
        rows = zip(self.names, self.tiles, self.reviewed, with_sites, strict=True)
        return {
            "tiles": int(self.tiles.sum()),
            "reviewed": len(self.table),
            "strata": [
                {"name": name, "tiles": int(tiles), "reviewed": int(n), "with_sites": int(hits)}
                for name, tiles, n, hits in rows
            ],
        }


def take_sample(frame: pd.DataFrame, reviews: pd.DataFrame, gaps: str = "refuse") -> tuple[pd.DataFrame, Sample]:
    """The checked frame, and the answered reviews with their strata's sizes.

    Raises:
        EstimateError: see `geoslave.estimate.tables`; if tasks were not answered, a stratum has no review, or
            the sizes or probabilities the sample was drawn with are not those of the frame.
    """
    frame = checked_frame(frame, gaps)
    joined = checked_reviews(reviews, frame)
    sizes = _sizes(joined, frame)
    drawn = joined.groupby("stratum").size()
    lost = _check_probabilities(joined, drawn, sizes, gaps)
    answered = joined["n_sites"].notna()
    warnings = [*lost, *_unanswered(answered, gaps)]
    table = joined[answered].reset_index(drop=True)
    names = tuple(sizes)
    code = pd.Index(names).get_indexer(pd.Index(table["stratum"]))
    sample = Sample(table, code, names, np.array([float(sizes[name]) for name in names]), tuple(warnings))
    _check_strata(sample)
    return frame, replace(sample, warnings=(*warnings, *_about_sample(sample)), blank=_blank(sample, frame))


def _blank(sample: Sample, frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Strata without a detection, where the frame shows it."""
    flagged = frame["n_flagged"] > 0
    if set(frame["stratum"]) == set(sample.names):
        held = flagged.groupby(frame["stratum"]).any()
        return ~held.reindex(list(sample.names)).to_numpy(bool)
    seen = np.bincount(sample.stratum, weights=sample.table["n_flagged"] > 0, minlength=len(sample.names))
    # drawn in other strata than the frame names: sure only if every flagged tile was reviewed
    return (seen == 0) & bool(seen.sum() == flagged.sum())


def _sizes(joined: pd.DataFrame, frame: pd.DataFrame) -> dict[str, int]:
    """Tiles in each stratum: as the sample was drawn where it says so, else as the frame has them."""
    joined["stratum"] = joined["stratum"].astype(str)
    if "stratum_size" not in joined:
        counted = frame["stratum"].value_counts(sort=False)
        strangers = set(joined["stratum"]) - set(counted.index)
        if strangers:
            raise EstimateError(
                f"the reviews' stratum '{min(strangers)}' is not in the frame: give the reviews a column stratum_size "
                "(geoslave estimate design writes it), or the frame the same strata"
            )
        return {str(name): int(size) for name, size in sorted(counted.items())}
    drawn = joined.groupby("stratum")["stratum_size"].agg(["min", "max"])
    if (drawn["min"] != drawn["max"]).any() or drawn["min"].isna().any():
        raise EstimateError("the reviews' stratum_size differs within a stratum: each stratum has one size")
    sizes = {str(name): int(size) for name, size in drawn["min"].items()}
    if sum(sizes.values()) != len(frame):
        raise EstimateError(
            f"the sample was drawn from {sum(sizes.values())} tiles and the frame has {len(frame)}: either it is "
            "another frame, or a stratum has no reviews"
        )
    return sizes


def _check_probabilities(joined: pd.DataFrame, drawn: pd.Series, sizes: dict[str, int], gaps: str) -> Sequence[str]:
    """Whether there are as many rows as were drawn; what is missing is told where gaps are allowed."""
    lost = 0
    for name, n in drawn.items():
        if n > sizes[str(name)]:
            raise EstimateError(f"stratum '{name}' has {n} reviews and {sizes[str(name)]} tiles: this is another frame")
        if "inclusion_probability" not in joined:
            continue
        told = joined.loc[joined["stratum"] == name, "inclusion_probability"]
        if told.max() - told.min() > 1e-6:
            raise EstimateError(
                f"stratum '{name}' was drawn with unequal probabilities ({told.min():g} to {told.max():g}): "
                "strata must be drawn evenly; for draws in proportion to a count use method discount"
            )
        expected = told.iloc[0] * sizes[str(name)]
        if abs(expected - n) <= _rounding(float(told.iloc[0]), sizes[str(name)], int(n)):
            continue
        if gaps == "stratum" and n < expected:
            lost += round(expected - n)
            continue
        raise EstimateError(
            f"stratum '{name}': {sizes[str(name)]} tiles drawn with probability {told.iloc[0]:g} make {expected:.0f} "
            f"reviews and there are {n}: the sample does not match the frame, or rows are missing"
            + (" (--gaps stratum takes them as missing at random)" if n < expected else "")
        )
    return (f"{lost} drawn tiles are missing from the reviews, taken as missing at random",) if lost else ()


def _rounding(probability: float, size: int, n: int) -> float:
    """By how much size x probability may miss the number drawn, for the digits the probability was written with."""
    decimals = len(f"{probability:.12f}".rstrip("0").partition(".")[2])
    return max(0.5, min(0.02 * n, size * 0.5 * 10.0**-decimals))


def _unanswered(answered: pd.Series, gaps: str) -> Sequence[str]:
    left = int((~answered).sum())
    if not left:
        return ()
    if gaps != "stratum":
        raise EstimateError(
            f"{left} of {len(answered)} tasks were not answered: answer them, or ask for --gaps stratum, which takes "
            "them as missing at random in their stratum"
        )
    return (f"{left} of {len(answered)} tasks were not answered, taken as missing at random in their stratum",)


def _check_strata(sample: Sample) -> None:
    bare = [name for name, n, size in zip(sample.names, sample.reviewed, sample.tiles, strict=True) if not n and size]
    if bare:
        raise EstimateError(
            f"no review in stratum {', '.join(repr(name) for name in bare)}: its sites would be guessed; review "
            "some of its tiles"
        )
    single = (sample.reviewed < 2) & (sample.reviewed < sample.tiles)
    if single.any():
        raise EstimateError(f"one review in stratum '{sample.names[int(single.argmax())]}': its scatter needs two")


def _about_sample(sample: Sample) -> list[str]:
    told = []
    n = len(sample.table)
    if n < FEW_REVIEWS and (sample.reviewed < sample.tiles).any():
        told.append(f"only {n} tiles were reviewed: below {FEW_REVIEWS} a 95 % interval may cover less than it says")
    hits = int((sample.table["n_sites"] > 0).sum())
    if len(sample.names) == 1 and hits < 100 and (sample.table["n_sites"] > 1).any():
        told.append(
            f"tiles were drawn without strata and only {hits} hold sites: where sites cluster a nominal 95 % interval "
            "then covers about 93 %; a stratified design is both narrower and safer"
        )
    if NOT_SEARCHED in sample.names:
        size = int(sample.tiles[sample.names.index(NOT_SEARCHED)])
        told.append(f"{size} tiles were not searched by the detector: counted from their reviews alone")
    return told
