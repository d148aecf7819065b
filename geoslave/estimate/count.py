"""How many sites there are, from a frame and the reviews of a sample of its tiles.

    frame = checked_frame(read_table("frame.csv"))
    count_sites(frame, read_table("reviews.csv"))    ->  Estimate(value, low, high, ...)

The default method, `gamma`, is the stratified total with the compound Fay-Feuer gamma interval
(`geoslave.estimate.intervals`); a stratum reviewed whole is certain, so census + audit is the same
method. The others stand in METHODS with what they assume; they warn where they are known to fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geoslave.errors import EstimateError
from geoslave.estimate import estimators, intervals
from geoslave.estimate.intervals import Floats, Moments
from geoslave.estimate.tables import NOT_SEARCHED, checked_frame, checked_reviews

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
FEW_HITS = 10
"""A large stratum with fewer tiles with sites than this makes normal intervals too short."""
LARGE = 0.1
"""A stratum this share of the frame is large."""
FEW_REVIEWS = 300
N_IMPUTATIONS = 200

Index = NDArray[np.intp]


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

    @property
    def reviewed(self) -> Floats:
        """[H], answered reviews of each stratum."""
        return np.bincount(self.stratum, minlength=len(self.names)).astype(float)

    def moments(self, counts: Floats) -> Moments:
        """Sums by stratum of counts [..., n] of the reviewed tiles."""
        member = (self.stratum[:, None] == np.arange(len(self.names))).astype(float)
        return Moments(self.tiles, self.reviewed, counts @ member, counts**2 @ member)


def count_sites(
    frame: pd.DataFrame,
    reviews: pd.DataFrame,
    method: str = "gamma",
    level: float = 0.95,
    gaps: str = "refuse",
    votes: pd.DataFrame | None = None,
    gold: pd.DataFrame | None = None,
    seed: int = 0,
) -> Estimate:
    """The total number of sites in the frame.

    Args:
        frame, reviews: see `geoslave.estimate.tables`.
        gaps: "refuse" ground that was not searched and tasks that were not answered; "stratum" takes the
            first as a stratum of its own (it needs reviews) and the second as missing at random in theirs.
        votes: `tile_id, reviewer, answer` (yes or no): reviewers' errors are estimated and carried through.
        gold: `tile_id, answer`: tiles whose answer is known, shown to reviewers to measure them.

    Raises:
        EstimateError: see `geoslave.estimate.tables`; if a stratum has no review.
    """
    if method not in METHODS:
        raise EstimateError(f"'{method}' is no method: use one of {', '.join(METHODS)}")
    intervals.checked_level(level)
    if method == "discount":
        return _discount(checked_frame(frame, gaps), reviews, level)
    frame, sample = take_sample(frame, reviews, gaps)
    if method == "ppi":
        return _ppi(frame, sample, level)
    if method == "difference":
        return _difference(frame, sample, level)
    return _count(sample, imputed_counts(sample, votes, gold, seed), method, level)


def count_by(
    frame: pd.DataFrame,
    reviews: pd.DataFrame,
    by: str,
    method: str = "gamma",
    level: float = 0.95,
    gaps: str = "refuse",
    votes: pd.DataFrame | None = None,
    gold: pd.DataFrame | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Sites in each part of the frame: `by` is stratum, or a column of the frame or of the reviews.

    Parts add up to the total. A part that was not chosen beforehand as a stratum may hold few reviews: its
    interval says so.

    Raises:
        EstimateError: as count_sites; if no table has the column, or the method cannot take counts apart.
    """
    if method not in ("gamma", "gamma-poisson", "fay-feuer", "wald"):
        raise EstimateError(f"method '{method}' gives a total only: take parts with the default method")
    checked, sample = take_sample(frame, reviews, gaps)
    if by not in sample.table:
        raise EstimateError(f"neither frame nor reviews have a column '{by}' to take the count apart by")
    counts = imputed_counts(sample, votes, gold, seed)
    of_review = np.asarray(sample.table[by].fillna("(none)").astype(str))
    touched = _touched(checked, sample, by)
    anywhere = np.ones(len(sample.names), bool)
    parts = {}
    for name in sorted(set(touched) | set(of_review)):
        where = touched.get(name, anywhere)
        inside = of_review == name
        estimate = _count(sample, counts * inside, method, level, where)
        parts[name] = replace(estimate, n_reviewed=int(inside.sum()))
    return parts


def _touched(frame: pd.DataFrame, sample: Sample, by: str) -> dict[str, NDArray[np.bool_]]:
    """For each part the strata, [H], in which it has tiles: where it has none, nothing of it can be missed."""
    if by == "stratum":
        return dict(zip(sample.names, np.eye(len(sample.names), dtype=bool), strict=True))
    if by not in frame:
        return {}
    parts = frame[by].fillna("(none)").astype(str)
    if set(frame["stratum"]) != set(sample.names):  # drawn in other strata than the frame names
        return {name: np.ones(len(sample.names), bool) for name in set(parts)}
    return {str(name): np.isin(sample.names, strata.unique()) for name, strata in frame["stratum"].groupby(parts)}


def class_counts(
    frame: pd.DataFrame, reviews: pd.DataFrame, method: str = "gamma", level: float = 0.95, gaps: str = "refuse"
) -> dict[str, Estimate]:
    """Sites of each kind: the reviews have columns `n_<class>` beside n_sites, or one row a tile and `class_name`.

    Raises:
        EstimateError: as count_sites; without such columns.
    """
    names = [name for name in reviews.columns if str(name).startswith("n_") and name not in ("n_sites", "n_hits")]
    names = [name for name in names if name not in ("n_flagged", "n_votes", "n_reviewers")]
    if not names:
        raise EstimateError("the reviews have no counts by class: add columns n_<class>, e.g. n_zigzag and n_fcbk")
    return {
        str(name)[2:]: count_sites(frame, reviews.assign(n_sites=reviews[name]).drop(columns="n_hits", errors="ignore"),
                                   method, level, gaps)
        for name in names
    }  # fmt: skip


def detector_rates(
    frame: pd.DataFrame, reviews: pd.DataFrame, level: float = 0.95, gaps: str = "refuse"
) -> dict[str, Estimate]:
    """Recall and precision of the detector over the whole frame, with intervals.

    From n_hits (detections confirmed); where it is missing, the smaller of n_flagged and n_sites stands for
    it, which takes a false alarm beside a missed site for a hit, and the estimate says so.
    """
    _, sample = take_sample(frame, reviews, gaps)
    return rates_of(sample, level)


def rates_of(sample: Sample, level: float, inside: NDArray[np.bool_] | None = None) -> dict[str, Estimate]:
    """Recall and precision of a sample, or of the part of it that is `inside`."""
    if inside is not None:  # strata the part was never seen in add nothing to its doubt
        there = np.bincount(sample.stratum, weights=inside, minlength=len(sample.names)) > 0
        sample = replace(sample, tiles=np.where(there, sample.tiles, sample.reviewed))
    table = sample.table
    keep = np.ones(len(table)) if inside is None else inside.astype(float)
    hits, warnings = confirmed(table)
    sites, flagged = table["n_sites"].to_numpy(float), table["n_flagged"].to_numpy(float)
    warnings = (*sample.warnings, *warnings)
    n = int(keep.sum())
    return {
        "recall": _ratio(sample, hits * keep, (sites - hits) * keep, level, "recall, gamma interval", n, warnings),
        "precision": _ratio(
            sample, hits * keep, (flagged - hits) * keep, level, "precision, gamma interval", n, warnings
        ),
    }


def confirmed(table: pd.DataFrame) -> tuple[Floats, tuple[str, ...]]:
    """Detections confirmed in each reviewed tile, and a warning where that is a guess."""
    guess = np.minimum(table["n_flagged"].to_numpy(float), table["n_sites"].to_numpy(float))
    if "n_hits" not in table:
        return guess, ("no column n_hits: a false alarm in a tile with a missed site was taken for a hit",)
    given = table["n_hits"].to_numpy(float)
    empty = int((np.isnan(given) & (table["n_flagged"].to_numpy() > 0)).sum())
    told = f"n_hits is empty in {empty} tiles with detections: there the smaller of n_flagged and n_sites was taken"
    return np.where(np.isnan(given), guess, given), (told,) if empty else ()


def count_chapman(n1: int, n2: int, both: int, level: float = 0.95) -> Estimate:
    """Sites from two reviewers (or a register and the detections) that worked independently."""
    value, _, low, high = estimators.chapman(n1, n2, both, level)
    warnings = ["assumes two independent lists, no false entries, every site as easy to find as any other"]
    if both < FEW_HITS:
        warnings.append(f"only {both} sites are on both lists: the figure may be far off")
    return Estimate(value, low, high, level, "Chapman, Sadinle's interval", n1 + n2 - both, tuple(warnings))


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
    _check_probabilities(joined, drawn, sizes)
    answered = joined["n_sites"].notna()
    warnings = list(_unanswered(answered, gaps))
    table = joined[answered].reset_index(drop=True)
    names = tuple(sizes)
    code = pd.Index(names).get_indexer(pd.Index(table["stratum"]))
    sample = Sample(table, code, names, np.array([float(sizes[name]) for name in names]), tuple(warnings))
    _check_strata(sample)
    return frame, replace(sample, warnings=(*warnings, *_about_sample(sample)))


def imputed_counts(
    sample: Sample, votes: pd.DataFrame | None = None, gold: pd.DataFrame | None = None, seed: int = 0
) -> Floats:
    """Sites of each reviewed tile, [n]; [m, n] where reviewers may err: m draws of what the truth may be.

    With votes, truths are drawn from what all votes say of tiles and reviewers together
    (`geoslave.estimate.reviewers`); with a column `probability`, tile by tile with that probability. A tile
    that holds sites has n_sites of them, or one where n_sites is 0.
    """
    counts = sample.table["n_sites"].to_numpy(float)
    if votes is None and "probability" not in sample.table:
        return counts
    if votes is not None:
        from geoslave.estimate.reviewers import draw_truths, tally

        yes = draw_truths(tally(votes, gold, sample.table["tile_id"]), sample.stratum, N_IMPUTATIONS, seed)
    else:
        probability = sample.table["probability"].to_numpy(float)
        probability = np.where(np.isnan(probability), (counts > 0).astype(float), probability)
        yes = np.random.default_rng(seed).random((N_IMPUTATIONS, len(counts))) < probability
    return yes * np.maximum(counts, 1.0)


# ---------------------------------------------------------------- one method each


def _count(
    sample: Sample, counts: Floats, method: str, level: float, where: NDArray[np.bool_] | None = None
) -> Estimate:
    """A stratified total; counts [n], or [m, n] where they were imputed; only strata `where` it can lie."""
    moments = sample.moments(counts)
    if where is not None:
        moments = replace(moments, tiles=np.where(where, moments.tiles, moments.reviewed))
    warnings = [*sample.warnings, *_about(sample, counts, method)]
    if counts.ndim == 2:
        if method != "gamma":
            raise EstimateError(f"method '{method}' cannot carry reviewers' errors through: use the default method")
        value, low, high = _pooled(moments, level)
    elif method == "gamma":
        value, low, high = (float(part) for part in intervals.compound(moments, level))
    elif method == "wald":
        value, low, high = estimators.stratified_wald(moments, level)
    else:
        value, low, high = _by_the_book(moments, method, level)
    return Estimate(value, low, high, level, method, len(sample.table), tuple(warnings))


def _pooled(moments: Moments, level: float) -> tuple[float, float, float]:
    certain = moments.certain
    low, high = intervals.mixture(
        moments.total - certain, moments.variance, intervals.compound_extra(moments), certain, level
    )
    return float(moments.total.mean()), float(low), float(high)


def _by_the_book(moments: Moments, method: str, level: float) -> tuple[float, float, float]:
    """The published forms: v = sum w^2 x, or sum w^2 x^2, no finite population correction; a census is certain."""
    sums = moments.sum1 if method == "fay-feuer" else moments.sum2
    weight = np.where(moments.sampled, moments.weight, 0)
    low, high = intervals.fay_feuer(moments.total - moments.certain, (weight**2 * sums).sum(), weight.max(), level)
    return float(moments.total), float(moments.certain + low), float(moments.certain + high)


def _difference(frame: pd.DataFrame, sample: Sample, level: float) -> Estimate:
    table = sample.table
    d = (table["n_sites"] - table["predicted"]).to_numpy(float)
    value, low, high = estimators.stratified_difference(float(frame["predicted"].sum()), sample.moments(d), level)
    warnings = (*sample.warnings, *_about(sample, table["n_sites"].to_numpy(float), "difference"))
    return Estimate(value, low, high, level, "difference", len(table), warnings)


def _ppi(frame: pd.DataFrame, sample: Sample, level: float) -> Estimate:
    if len(sample.names) > 1 and len(set(np.round(sample.reviewed / sample.tiles, 3))) > 1:
        raise EstimateError(
            "PPI++ needs tiles drawn at random from the whole frame, and these were drawn in strata: "
            "use the default method"
        )
    table = sample.table
    rest = frame.loc[~frame["tile_id"].isin(table["tile_id"]), "predicted"]
    mean = estimators.ppi_mean(table["n_sites"], table["predicted"], rest, level=level)
    warnings = (*sample.warnings, *_about(sample, table["n_sites"].to_numpy(float), "ppi"))
    value, low, high = (float(len(frame) * part) for part in mean)
    return Estimate(value, low, high, level, "ppi", len(table), warnings)


def _discount(frame: pd.DataFrame, reviews: pd.DataFrame, level: float) -> Estimate:
    table = checked_reviews(reviews, frame, repeats=True)
    if table["n_sites"].isna().any():
        raise EstimateError(f"{table['n_sites'].isna().sum()} drawn tiles were not answered: answer them first")
    g = frame["g"] if "g" in frame else frame["predicted"]
    position = pd.Index(frame["tile_id"]).get_indexer(pd.Index(table["tile_id"]))
    counts = table["n_sites"].to_numpy(float)
    value, low, high = estimators.discount(g, position, counts, level)
    warnings = []
    if (g <= 0).any():
        warnings.append(f"{int((g <= 0).sum())} tiles have g = 0 and can never be drawn: sites there are not counted")
    small = g.to_numpy(float)[position] <= float(g.median())
    if small.size and (counts[small] > 0).sum() < FEW_HITS:
        warnings.append(
            f"only {int((counts[small] > 0).sum())} drawn tiles of little g hold sites: with fewer than {FEW_HITS} "
            "the interval is too short (measured coverage of a nominal 95 %: 59 %); use a stratified design and gamma"
        )
    return Estimate(value, low, high, level, "discount", len(table), tuple(warnings))


def _ratio(
    sample: Sample, good: Floats, bad: Floats, level: float, method: str, n: int, warnings: Sequence[str]
) -> Estimate:
    """good / (good + bad) as 1 / (1 + r), r = bad / good, with the gamma interval of r times good.

    The variance is that of bad - r good (linearised), so that doubt about both is in it.
    """
    total_good, total_bad = float(sample.moments(good).total), float(sample.moments(bad).total)
    if total_good + total_bad <= 0:
        return Estimate(0.0, 0.0, 1.0, level, method, n, (*warnings, "neither site nor detection there"))
    if total_good <= 0:
        return Estimate(0.0, 0.0, 1.0, level, method, n, (*warnings, "not one hit: the interval says nothing"))
    r = total_bad / total_good
    moments = sample.moments(bad)
    low, high = intervals.fay_feuer(
        total_bad, float(sample.moments(bad - r * good).variance), float(intervals.compound_extra(moments)), level
    )
    value, worst, best = (1 / (1 + part / total_good) for part in (total_bad, float(high), float(low)))
    return Estimate(value, worst, best, level, method, n, tuple(warnings))


# ---------------------------------------------------------------- checks and warnings


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


def _check_probabilities(joined: pd.DataFrame, drawn: pd.Series, sizes: dict[str, int]) -> None:
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
        if abs(told.iloc[0] * sizes[str(name)] - n) > max(1.0, 0.02 * n):
            raise EstimateError(
                f"stratum '{name}': {sizes[str(name)]} tiles drawn with probability {told.iloc[0]:g} make "
                f"{told.iloc[0] * sizes[str(name)]:.0f} reviews and there are {n}: the sample does not match the "
                "frame, or rows are missing"
            )


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


def _about(sample: Sample, counts: Floats, method: str) -> list[str]:
    """Where the method is known to fail."""
    counts = counts if counts.ndim == 1 else counts[0]
    hits = np.bincount(sample.stratum, weights=counts > 0, minlength=len(sample.names))
    large = (sample.tiles >= LARGE * sample.tiles.sum()) & (sample.reviewed < sample.tiles)
    thin = [sample.names[k] for k in np.flatnonzero(large & (hits < FEW_HITS))]
    told = []
    if method == "fay-feuer" and (counts > 1).any():
        told.append("tiles hold several sites: the textbook form covers only 68 to 89 % there; use method gamma")
    if thin and method in ("wald", "difference", "ppi"):
        told.append(
            f"fewer than {FEW_HITS} reviewed tiles with sites in the large stratum {', '.join(map(repr, thin))}: this "
            "interval is too short (measured coverage of a nominal 95 %: down to 58 %); use method gamma"
        )
    if not (counts > 0).any():
        told.append("no reviewed tile holds a site: only the upper end means something")
    return told
