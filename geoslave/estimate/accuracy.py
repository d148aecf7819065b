"""Accuracy and area of a map from an error matrix, after Olofsson et al. 2014 (Remote Sensing of Environment 148).

Rows are what the map says, columns what the reference says; the sample was drawn at random within
map classes. n_ij sample units, W_i the share of the map in class i:

    p_ij      = W_i n_ij / n_i.                                               (eq. 4)
    overall   = sum p_ii,   user's U_i = p_ii / p_i.,   producer's P_j = p_jj / p_.j   (eq. 1 to 3)
    V(O)      = sum W_i^2 U_i (1 - U_i) / (n_i. - 1)                          (eq. 5)
    V(U_i)    = U_i (1 - U_i) / (n_i. - 1)                                    (eq. 6)
    V(P_j)    = eq. 7
    V(area_j) = sum W_i^2 q_ij (1 - q_ij) / (n_i. - 1),  q_ij = n_ij / n_i.   (eq. 10)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from geoslave.errors import EstimateError
from geoslave.estimate.intervals import normal_quantile
from geoslave.estimate.result import Estimate

Floats = NDArray[np.float64]
FEW_UNITS = 30
"""A map class with fewer sample units has a rough interval."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What an error matrix says of a map. Standard errors are the intervals' half-width / z."""

    classes: tuple[str, ...]
    users: tuple[Estimate, ...]
    """Share of what the map calls a class that is it."""
    producers: tuple[Estimate, ...]
    """Share of a class that the map calls so."""
    overall: Estimate
    areas: tuple[Estimate, ...]
    """Of each reference class, in the unit of the mapped areas given."""

    def to_table(self) -> pd.DataFrame:
        """One row a class: each figure with its low and high."""
        rows = []
        for name, user, producer, area in zip(self.classes, self.users, self.producers, self.areas, strict=True):
            row: dict[str, object] = {"class_name": name}
            for title, figure in (("users", user), ("producers", producer), ("area", area)):
                row |= {title: figure.value, f"{title}_low": figure.low, f"{title}_high": figure.high}
            rows.append(row)
        return pd.DataFrame(rows)


def assess_accuracy(
    matrix: ArrayLike, mapped_area: ArrayLike, classes: tuple[str, ...] = (), level: float = 0.95
) -> Accuracy:
    """User's, producer's and overall accuracy, and areas, with intervals.

    Args:
        matrix: [q, q] counts of sample units, rows the map, columns the reference.
        mapped_area: [q], area (or pixels) of each map class; areas come out in the same unit.

    Raises:
        EstimateError: if the matrix is not square, holds what is no count, or a map class has area and
            fewer than two sample units.
    """
    n, area = _checked(matrix, mapped_area)
    classes = classes or tuple(f"class {k + 1}" for k in range(len(n)))
    if len(classes) != len(n):
        raise EstimateError(f"{len(classes)} class names for a matrix of {len(n)} classes: name each one")
    rows = n.sum(1)
    weight = area / area.sum()
    q = np.divide(n, rows[:, None], out=np.zeros_like(n), where=rows[:, None] > 0)
    free = np.maximum(rows - 1, 1)
    p = weight[:, None] * q
    users = np.diag(q)
    columns = p.sum(0)
    producers = np.divide(np.diag(p), columns, out=np.zeros(len(n)), where=columns > 0)
    v_users = users * (1 - users) / free
    v_area = (weight[:, None] ** 2 * q * (1 - q) / free[:, None]).sum(0)
    total = int(n.sum())

    def estimates(values: Floats, variances: Floats, title: str, top: float) -> tuple[Estimate, ...]:
        return tuple(
            _estimate(value, variance, level, title, total, top, _thin(rows, k))
            for k, (value, variance) in enumerate(zip(values, variances, strict=True))
        )

    v_producers = _producers_variance(n, area, producers)
    whole = float(area.sum())
    v_overall = float((weight**2 * v_users).sum())
    return Accuracy(
        classes,
        estimates(users, v_users, "user's accuracy (Olofsson et al. 2014)", 1.0),
        estimates(producers, v_producers, "producer's accuracy (Olofsson et al. 2014)", 1.0),
        _estimate(float(np.diag(p).sum()), v_overall, level, "overall accuracy (Olofsson et al. 2014)", total, 1.0, ()),
        estimates(whole * columns, whole**2 * v_area, "area (Olofsson et al. 2014)", whole),
    )


def error_matrix(units: pd.DataFrame, classes: tuple[str, ...] = ()) -> tuple[Floats, tuple[str, ...]]:
    """The matrix from sample units with columns `map` and `reference`; classes in the order given, else sorted."""
    for column in ("map", "reference"):
        if column not in units:
            raise EstimateError(f"the sample units have no column '{column}': they need map and reference")
        if units[column].isna().any():
            raise EstimateError(f"{units[column].isna().sum()} sample units have no '{column}': fill or remove them")
    mapped, reference = (units[column].astype(str) for column in ("map", "reference"))
    classes = classes or tuple(sorted(set(mapped) | set(reference)))
    strangers = (set(mapped) | set(reference)) - set(classes)
    if strangers:
        raise EstimateError(f"sample units of class '{min(strangers)}', which has no mapped area: give its area")
    table = pd.crosstab(mapped, reference).reindex(index=classes, columns=classes, fill_value=0)
    return table.to_numpy(float), classes


def _checked(matrix: ArrayLike, mapped_area: ArrayLike) -> tuple[Floats, Floats]:
    n, area = np.asarray(matrix, float), np.asarray(mapped_area, float)
    if n.ndim != 2 or n.shape[0] != n.shape[1] or not n.size:
        raise EstimateError(f"the error matrix is {' x '.join(map(str, n.shape))}: it must be square, classes alike")
    if area.shape != (len(n),):
        raise EstimateError(f"{area.size} mapped areas for {len(n)} classes: give one for each row of the matrix")
    if not np.isfinite(n).all() or (n < 0).any() or (n != np.floor(n)).any():
        raise EstimateError("the error matrix must hold counts: whole numbers, 0 or more")
    if not np.isfinite(area).all() or (area < 0).any() or area.sum() <= 0:
        raise EstimateError("mapped areas must be 0 or more, and not all 0")
    bare = np.flatnonzero((n.sum(1) < 2) & (area > 0))
    if len(bare):
        raise EstimateError(f"map class {bare[0] + 1} has area and fewer than two sample units: review some of it")
    return n, area


def _producers_variance(n: Floats, area: Floats, producers: Floats) -> Floats:
    """Equation 7, with N_i. the mapped areas."""
    rows = n.sum(1)
    q = np.divide(n, rows[:, None], out=np.zeros_like(n), where=rows[:, None] > 0)
    free = np.maximum(rows - 1, 1)
    reference = (area[:, None] * q).sum(0)
    scatter = area[:, None] ** 2 * q * (1 - q) / free[:, None]
    own = area**2 * (1 - producers) ** 2 * np.diag(q) * (1 - np.diag(q)) / free
    others = producers**2 * (scatter.sum(0) - np.diag(scatter))
    return np.divide(own + others, reference**2, out=np.zeros(len(n)), where=reference > 0)


def _estimate(
    value: float, variance: float, level: float, title: str, n: int, top: float, warnings: tuple[str, ...]
) -> Estimate:
    half = normal_quantile(level) * float(np.sqrt(variance))
    value = float(value)
    return Estimate(value, max(0.0, value - half), min(top, value + half), level, title, n, warnings)


def _thin(rows: Floats, k: int) -> tuple[str, ...]:
    if rows[k] >= FEW_UNITS:
        return ()
    return (f"only {int(rows[k])} sample units of this map class: the normal interval is rough",)
