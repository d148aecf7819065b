"""How many sites there are, from a frame and the reviews of a sample of its tiles.

    frame = checked_frame(read_table("frame.csv"))
    count_sites(frame, read_table("reviews.csv"))    ->  Estimate(value, low, high, ...)

The default method, `gamma`, is the stratified total with the compound Fay-Feuer gamma interval
(`geoslave.estimate.intervals`); a stratum reviewed whole is certain, so census + audit is the same
method. The others stand in METHODS with what they assume; they warn where they are known to fail.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geoslave.errors import EstimateError
from geoslave.estimate import estimators, intervals
from geoslave.estimate.intervals import Floats, Moments
from geoslave.estimate.result import METHODS, Estimate
from geoslave.estimate.reviewed import Sample, take_sample
from geoslave.estimate.tables import checked_frame, checked_reviews

FEW_HITS = 10
"""A large stratum with fewer tiles with sites than this makes normal intervals too short."""
LARGE = 0.1
"""A stratum this share of the frame is large."""
N_IMPUTATIONS = 200


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
    frame: pd.DataFrame,
    reviews: pd.DataFrame,
    method: str = "gamma",
    level: float = 0.95,
    gaps: str = "refuse",
    erring: bool = False,
) -> dict[str, Estimate]:
    """Sites of each kind: the reviews have columns `n_<class>` beside n_sites, or one row a tile and `class_name`.

    Args:
        erring: the total is counted from votes; counts by class are not, and warn of it.

    Raises:
        EstimateError: as count_sites; without such columns.
    """
    names = [name for name in reviews.columns if str(name).startswith("n_") and name not in ("n_sites", "n_hits")]
    names = [name for name in names if name not in ("n_flagged", "n_votes", "n_reviewers")]
    if not names:
        raise EstimateError("the reviews have no counts by class: add columns n_<class>, e.g. n_zigzag and n_fcbk")
    # presence was voted on, not the class: a probability says nothing of how many of each there are
    plain = reviews.drop(columns=["n_hits", "probability"], errors="ignore")
    told = ("reviewers' errors are not carried through by class",) if erring or "probability" in reviews else ()
    counts = {name: count_sites(frame, plain.assign(n_sites=reviews[name]), method, level, gaps) for name in names}
    return {str(name)[2:]: replace(part, warnings=(*part.warnings, *told)) for name, part in counts.items()}


def count_chapman(n1: int, n2: int, both: int, level: float = 0.95) -> Estimate:
    """Sites from two reviewers (or a register and the detections) that worked independently."""
    value, _, low, high = estimators.chapman(n1, n2, both, level)
    warnings = ["assumes two independent lists, no false entries, every site as easy to find as any other"]
    if both < FEW_HITS:
        warnings.append(f"only {both} sites are on both lists: the figure may be far off")
    return Estimate(value, low, high, level, "Chapman, Sadinle's interval", n1 + n2 - both, tuple(warnings))


def errors_carried(reviews: pd.DataFrame, votes: pd.DataFrame | None, method: str) -> str | None:
    """What a count carries reviewers' errors through with: votes or probability; None: it takes them at their word."""
    if method != "gamma":
        return None
    return "votes" if votes is not None else "probability" if "probability" in reviews else None


def imputed_counts(
    sample: Sample, votes: pd.DataFrame | None = None, gold: pd.DataFrame | None = None, seed: int = 0
) -> Floats:
    """Sites of each reviewed tile, [n]; [m, n] where reviewers may err: m draws of what the truth may be.

    With votes, truths are drawn from what all votes say of tiles and reviewers together
    (`geoslave.estimate.reviewers`); with a column `probability`, tile by tile with that probability. A tile
    that holds sites has n_sites of them, or one where n_sites is 0. What a coordinator settled (`status` settled,
    `answer` yes or no) is held fast, whatever the votes say.
    """
    counts = sample.table["n_sites"].to_numpy(float)
    if votes is None and "probability" not in sample.table:
        return counts
    if votes is not None:
        from geoslave.estimate.reviewers import draw_truths, tally

        told = tally(votes, gold, sample.table["tile_id"], _settled(sample.table))
        yes = draw_truths(told, sample.stratum, N_IMPUTATIONS, seed)
    else:
        probability = sample.table["probability"].to_numpy(float)
        probability = np.where(np.isnan(probability), (counts > 0).astype(float), probability)
        yes = np.random.default_rng(seed).random((N_IMPUTATIONS, len(counts))) < probability
    return yes * np.maximum(counts, 1.0)


def _settled(table: pd.DataFrame) -> Floats | None:
    """[n], 1 or 0 where a coordinator said yes or no; else NaN."""
    if not {"status", "answer"} <= set(table):
        return None
    said = table["answer"].map({"yes": 1.0, "no": 0.0}).to_numpy(float)
    return np.where((table["status"] == "settled").to_numpy(bool), said, np.nan)


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
