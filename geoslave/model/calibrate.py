"""Scores to probabilities that hold: of detections with a confidence of 0.8, 8 of 10 are sites.

What is calibrated is the **detection**, not the pixel: its score, and where that helps its size and
shape, against what people (or labels of regions not trained on) say about it.

Two methods, and the held-out log loss chooses:

* *logistic* (Platt 1999), the default, on the logit of the present confidence; with size and shape
  if that is better by more than its standard error. A ridge pulls every coefficient toward the
  model's present confidence (slope 1, all else 0), so that without verdicts nothing changes, a
  handful moves it a little, and hundreds decide. It is the mode of a posterior with normal priors;
  the interval comes from its curvature (Laplace).
* *isotonic* (Zadrozny and Elkan 2002), from `ISOTONIC_FEWEST` verdicts on: any rising curve of the
  confidence. Each step is shrunk by one detection toward the present confidence.

Slopes on scores are never negative: a higher score never means a lower confidence.

Figures (ECE, Brier, log loss) are taken on groups (regions, scenes) that neither the fit nor the
choice of the method has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field

from geoslave.detections.reliability import Reliability, reliability, wilson

FEATURES = ("confidence", "score_mean", "area", "elongation")
"""Logit of the present confidence, logit of the mean score, log of area / the preset's, log of length / width."""
SHAPE_FEWEST_OF_EACH = 15
"""Verdicts of either kind below which size and shape are left out: three numbers more are not learned from fewer."""
ISOTONIC_FEWEST = 200
"""Fewer verdicts make steps that no other region repeats."""
ISOTONIC_FEWEST_OF_EACH = 30
FEWEST_TO_CLAIM = 20
"""With fewer verdicts the confidence moves, but is not called calibrated."""
MAX_FOLDS = 10
EDGE = 1e-3
"""Confidences are taken no nearer to 0 and 1: a stored score has 254 steps."""
_Z = 1.959963984540054

# How far the data may pull from the present confidence: standard deviations of normal priors, in logits
# (intercept) or per logit / per e-fold. An uncalibrated network is often wrong by one or two logits.
_PRIOR_SD = (1.5, 0.75, 0.5, 0.5, 0.5)
# A calibration that is there is trusted as far as its own data carry, but regions differ by about so much.
_DRIFT = (0.75, 0.25, 0.2, 0.2, 0.2)
_FIXED = 1e-3
_SCORE_ONLY = (True, True, False, False, False)
_IDENTITY = (0.0, 1.0, 0.0, 0.0, 0.0)

Floats = NDArray[np.float64]
Index = NDArray[np.intp]
Method = Literal["logistic", "logistic with shape", "isotonic"]


class Figures(BaseModel):
    """How reliable a confidence is, on held-out groups."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ece: float | None
    ece_low: float | None
    ece_high: float | None
    ece_debiased: float | None
    brier: float | None
    log_loss: float | None


class Calibration(BaseModel):
    """A curve from a detection's present confidence, size and shape to a probability; kept in model.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "logistic"
    coefficients: tuple[float, ...] = _IDENTITY
    """Logistic: intercept, then one for each of FEATURES."""
    covariance: tuple[tuple[float, ...], ...] = ()
    """Of the coefficients, for intervals; empty where nothing was fitted."""
    reference_area_m2: float = Field(default=1.0, gt=0)
    """Area of a typical site of the preset."""
    reference_elongation: float = Field(default=1.0, ge=1)
    knots: tuple[float, ...] = ()
    """Isotonic: present confidences, rising, with their probabilities and 95 % limits; straight lines between."""
    values: tuple[float, ...] = ()
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()
    shift: float = 0.0
    """Added to the logit: the share of true detections differs where the model is used."""
    share: float | None = Field(default=None, ge=0, le=1)
    """Share of the verdicts that said yes (or the share given for the region)."""
    data: str = "nothing"
    """Name of the verdicts or labels."""
    builds_on: str = ""
    """Origin of the calibration it started from, if there was one."""
    n: int = Field(default=0, ge=0)
    n_groups: int = Field(default=0, ge=0)
    made: date | None = None
    held_out_before: Figures | None = None
    held_out_after: Figures | None = None

    @property
    def origin(self) -> str:
        """Where it comes from, in words, for provenance and the card."""
        groups = f" in {self.n_groups} groups" if self.n_groups > 1 else ""
        moved = "" if self.shift == 0 else f", moved to a share of {self.share:.0%} true detections"
        before = f", building on: {self.builds_on}" if self.builds_on else ""
        return f"{self.method}, fitted on {self.n} detections of {self.data}{groups}, {self.made}{moved}{before}"

    def apply(
        self,
        confidence: ArrayLike,
        score_mean: ArrayLike | None = None,
        area_m2: ArrayLike | None = None,
        elongation: ArrayLike | None = None,
    ) -> Floats:
        """Probabilities [n] for present confidences [n]; what is not given is taken as typical."""
        if self.method == "isotonic":
            return _expit(_logit(np.interp(_floats(confidence), self.knots, self.values)) + self.shift)
        x = self._design(confidence, score_mean, area_m2, elongation)
        return _expit(x @ np.array(self.coefficients) + self.shift)

    def interval(
        self,
        confidence: ArrayLike,
        score_mean: ArrayLike | None = None,
        area_m2: ArrayLike | None = None,
        elongation: ArrayLike | None = None,
    ) -> tuple[Floats, Floats]:
        """95 % limits (low, high) of the probabilities: how far few verdicts leave them open."""
        if self.method == "isotonic":
            low, high = (np.interp(_floats(confidence), self.knots, limit) for limit in (self.lows, self.highs))
            return _expit(_logit(low) + self.shift), _expit(_logit(high) + self.shift)
        x = self._design(confidence, score_mean, area_m2, elongation)
        covariance = np.array(self.covariance) if self.covariance else np.diag(np.square(_PRIOR_SD))
        half = _Z * np.sqrt(np.einsum("ni,ij,nj->n", x, covariance, x))
        middle = x @ np.array(self.coefficients) + self.shift
        return _expit(middle - half), _expit(middle + half)

    def _design(
        self,
        confidence: ArrayLike,
        score_mean: ArrayLike | None,
        area_m2: ArrayLike | None,
        elongation: ArrayLike | None,
    ) -> Floats:
        """[n, 5]: one, then FEATURES."""
        confidence = _floats(confidence)
        like = np.ones_like(confidence)
        mean = confidence if score_mean is None else _floats(score_mean)
        area = like * self.reference_area_m2 if area_m2 is None else _floats(area_m2)
        stretch = like * self.reference_elongation if elongation is None else _floats(elongation)
        return np.column_stack(
            [
                like,
                _logit(confidence),
                _logit(mean),
                np.log(np.maximum(area, 1e-3) / self.reference_area_m2),
                np.log(np.maximum(stretch, 1) / self.reference_elongation),
            ]
        )


@dataclass(frozen=True, slots=True)
class Samples:
    """Detections that somebody judged: arrays of one length."""

    confidence: Floats
    """Before any calibration."""
    score_mean: Floats
    area_m2: Floats
    elongation: Floats
    """Length / width, at least 1."""
    hit: Floats
    """1 a site, 0 none, between: the probability that a consensus gives."""
    group: NDArray[np.generic]
    """Region, district or scene; whole groups are held out."""

    def __len__(self) -> int:
        return len(self.confidence)

    def __getitem__(self, rows: NDArray[np.bool_] | Index) -> Samples:
        return Samples(*(getattr(self, name)[rows] for name in self.__slots__))

    def through(self, calibration: Calibration) -> Floats:
        """Their probabilities by a calibration."""
        return calibration.apply(self.confidence, self.score_mean, self.area_m2, self.elongation)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A calibration, and what held-out groups say about the confidence before and after it."""

    calibration: Calibration
    before: Reliability
    after: Reliability


def calibrate(samples: Samples, present: Calibration, data: str, today: date) -> Outcome:
    """Fit a calibration and measure it on groups it has not seen.

    Args:
        samples: with `group`; with one group only, rows are held out instead, which flatters.
        present: the model's calibration so far, or `Calibration(reference_area_m2=..., ...)` for none;
            few verdicts keep close to it.
        data: the name under which the verdicts are remembered.

    Raises:
        ValueError: if a confidence or hit lies outside [0, 1].
    """
    n_groups = len(np.unique(samples.group))
    before = samples.through(present)
    after = _held_out(samples, present)
    fitted = _fit(_choose(samples, present), samples, present)
    groups = samples.group if n_groups > 1 else None
    told = [reliability(confidence, samples.hit, groups=groups) for confidence in (before, after)]
    figures = [_figures(r, c, samples.hit) for r, c in zip(told, (before, after), strict=True)]
    calibration = fitted.model_copy(
        update={
            "data": data,
            "builds_on": present.model_copy(update={"builds_on": ""}).origin if present.n else "",
            "n": len(samples),
            "n_groups": n_groups,
            "share": float(samples.hit.mean()) if len(samples) else None,
            "made": today,
            "held_out_before": figures[0],
            "held_out_after": figures[1],
        }
    )
    return Outcome(calibration, *told)


def with_share(calibration: Calibration, share: float) -> Calibration:
    """The same calibration where another share of detections is true.

    Only the prior moves (Saerens et al. 2002): logit' = logit + logit(share) - logit(share of the
    verdicts). It holds where sites look alike in both places and only the number of look-alikes differs.

    Raises:
        ValueError: if the calibration knows no share, or `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError("the share of true detections must lie between 0 and 1")
    if calibration.share is None:
        raise ValueError("a calibration without verdicts knows no share of true detections")
    shift = calibration.shift + float(_logit(_floats(share))[0] - _logit(_floats(calibration.share))[0])
    return calibration.model_copy(update={"shift": shift, "share": share})


def move_operating(operating: float, present: Calibration, new: Calibration, samples: Samples | None = None) -> float:
    """The operating confidence after calibration: the map keeps the detections it had.

    Where only the confidence counts, it is the point on the new curve. With size and shape the order of
    detections changes: then as many of the samples lie at or above it as before.
    """
    if samples is None or not len(samples) or new.method != "logistic with shape":
        # the present confidence whose probability is the old operating point, then along the new curve
        grid = np.linspace(0, 1, 10_001)
        at = int(np.searchsorted(present.apply(grid), operating - 1e-9, side="left"))
        return float(np.floor(new.apply(grid[min(at, 10_000)])[0] * 1e4) / 1e4)
    n = int((samples.through(present) >= operating).sum())
    after = np.concatenate([[1.0], np.sort(samples.through(new))[::-1], [0.0]])
    return round(float((after[n] + after[n + 1]) / 2), 4)


def _fit(method: Method, samples: Samples, present: Calibration) -> Calibration:
    plain = Calibration(reference_area_m2=present.reference_area_m2, reference_elongation=present.reference_elongation)
    if method == "isotonic":
        return _fit_isotonic(samples, present, plain)
    prior = np.array(_IDENTITY if present.method == "isotonic" else present.coefficients)
    prior[0] += present.shift if present.method != "isotonic" else 0.0
    x = plain._design(samples.confidence, samples.score_mean, samples.area_m2, samples.elongation)
    sd = _prior_sd(present)
    if method == "logistic":
        sd = np.where(_SCORE_ONLY, sd, _FIXED)
    coefficients, covariance = _ridge_logistic(x, samples.hit, prior, sd)
    return plain.model_copy(
        update={
            "method": method,
            "coefficients": tuple(np.round(coefficients, 6).tolist()),
            "covariance": tuple(tuple(row) for row in np.round(covariance, 8).tolist()),
        }
    )


def _prior_sd(present: Calibration) -> Floats:
    """How far the data may pull each coefficient from the present confidence."""
    if not present.covariance:
        return np.array(_PRIOR_SD)
    known = np.sqrt(np.diag(np.array(present.covariance)) + np.square(_DRIFT))
    return np.asarray(np.minimum(_PRIOR_SD, known))


def _ridge_logistic(x: Floats, hit: Floats, prior: Floats, sd: Floats) -> tuple[Floats, Floats]:
    """Mode and covariance of the coefficients under independent normal priors; slopes on scores not below 0."""
    from scipy.optimize import minimize  # detect does not fit: it starts sooner without

    def loss(step: Floats) -> tuple[float, Floats]:
        z = x @ (prior + step * sd)
        value = np.logaddexp(0, z).sum() - hit @ z + 0.5 * (step**2).sum()
        return float(value), (x.T @ (_expit(z) - hit)) * sd + step

    # steps are taken in units of the priors: the fixed coefficients would otherwise spoil the search
    lowest = (np.array([-np.inf, 0, 0, -np.inf, -np.inf]) - prior) / sd
    found = minimize(
        loss, np.zeros_like(prior), jac=True, method="L-BFGS-B", bounds=[(low, None) for low in lowest.tolist()]
    )
    beta = prior + found.x * sd
    p = _expit(x @ beta)
    curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(1 / sd**2)
    return beta, np.asarray(np.linalg.inv(curvature), np.float64)


def _fit_isotonic(samples: Samples, present: Calibration, plain: Calibration) -> Calibration:
    """Rising steps through the hits, each shrunk by one detection toward the present confidence."""
    order = np.argsort(samples.confidence, kind="stable")
    confidence, hit = samples.confidence[order], samples.hit[order]
    expected = samples.through(present)[order]
    blocks = _pool(confidence, hit)
    knots, values, lows, highs = [], [], [], []
    for start, stop in blocks:
        n = stop - start
        low, high = wilson(float(hit[start:stop].sum()), n)
        knots.append(float(confidence[start:stop].mean()))
        values.append(float((hit[start:stop].sum() + expected[start:stop].mean()) / (n + 1)))
        lows.append(low)
        highs.append(high)
    rising = np.maximum.accumulate(values)
    return plain.model_copy(
        update={
            "method": "isotonic",
            "knots": tuple(knots),
            "values": tuple(rising.tolist()),
            "lows": tuple(np.minimum(np.maximum.accumulate(lows), rising).tolist()),
            "highs": tuple(np.maximum(np.maximum.accumulate(highs), rising).tolist()),
        }
    )


def _pool(confidence: Floats, hit: Floats) -> list[tuple[int, int]]:
    """Pool adjacent violators: ranges [start, stop) of rising share of hits; equal confidences stay together."""
    starts = np.flatnonzero(np.r_[True, confidence[1:] != confidence[:-1]])
    pools: list[tuple[float, int, int]] = []
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(confidence)], strict=True):
        total = float(hit[start:stop].sum())
        while pools and pools[-1][0] / (pools[-1][2] - pools[-1][1]) >= total / (stop - start):
            before, start, _ = pools.pop()
            total += before
        pools.append((total, start, stop))
    return [(start, stop) for _, start, stop in pools]


def _choose(samples: Samples, present: Calibration) -> Method:
    """The method that does best on held-out folds; a richer one must be better by more than its standard error."""
    best: Method = "logistic"
    folds = _folds(samples.group)
    if len(folds) < 2:
        return best
    loss = _fold_losses(best, samples, present, folds)
    for method in _candidates(samples)[1:]:
        other = _fold_losses(method, samples, present, folds)
        better = loss - other
        if better.sum() > np.sqrt(len(better)) * better.std(ddof=1):
            best, loss = method, other
    return best


def _candidates(samples: Samples) -> list[Method]:
    yes = float(samples.hit.sum())
    fewer = min(yes, len(samples) - yes)
    candidates: list[Method] = ["logistic"]
    if fewer >= SHAPE_FEWEST_OF_EACH:
        candidates.append("logistic with shape")
    if len(samples) >= ISOTONIC_FEWEST and fewer >= ISOTONIC_FEWEST_OF_EACH:
        candidates.append("isotonic")
    return candidates


def _fold_losses(method: Method, samples: Samples, present: Calibration, folds: Sequence[Index]) -> Floats:
    """Log loss of each fold, summed over its detections, by a fit on the others."""
    losses = []
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(samples)), fold)
        held = samples[fold]
        losses.append(_log_loss(held.through(_fit(method, samples[rest], present)), held.hit) * len(held))
    return np.array(losses)


def _held_out(samples: Samples, present: Calibration) -> Floats:
    """Probabilities [n], each by a method chosen and fitted without the detection's own fold."""
    probability = samples.through(present)
    folds = _folds(samples.group)
    if len(folds) < 2:
        return probability
    for fold in folds:
        rest = samples[np.setdiff1d(np.arange(len(samples)), fold)]
        probability[fold] = samples[fold].through(_fit(_choose(rest, present), rest, present))
    return probability


def _folds(group: NDArray[np.generic]) -> list[Index]:
    """Rows of at most MAX_FOLDS folds; whole groups, or with one group only every tenth row."""
    names, number, size = np.unique(group, return_inverse=True, return_counts=True)
    if len(names) < 2:
        n = min(MAX_FOLDS, len(group))
        return [np.arange(k, len(group), n) for k in range(n)]
    load = np.zeros(min(MAX_FOLDS, len(names)), int)
    fold_of = np.zeros(len(names), int)
    for name in np.argsort(-size, kind="stable"):
        fold_of[name] = int(load.argmin())
        load[fold_of[name]] += size[name]
    return [np.flatnonzero(fold_of[number.ravel()] == k) for k in range(len(load))]


def _figures(told: Reliability, probability: Floats, hit: Floats) -> Figures:
    def short(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return Figures(
        ece=short(told.ece),
        ece_low=short(told.ece_low),
        ece_high=short(told.ece_high),
        ece_debiased=short(told.ece_debiased),
        brier=short(told.brier),
        log_loss=short(_log_loss(probability, hit)) if len(hit) else None,
    )


def _log_loss(probability: Floats, hit: Floats) -> float:
    p = np.clip(probability, EDGE, 1 - EDGE)
    return float(-(hit * np.log(p) + (1 - hit) * np.log(1 - p)).mean())


def _floats(values: ArrayLike) -> Floats:
    return np.atleast_1d(np.asarray(values, np.float64))


def _logit(share: Floats) -> Floats:
    inside = np.clip(share, EDGE, 1 - EDGE)
    return np.asarray(np.log(inside / (1 - inside)))


def _expit(z: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))  # does not overflow
