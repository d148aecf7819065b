"""What people said about detections: `detection_id` with an `answer` or a `probability`.

Any table: CSV, GeoPackage, GeoJSON, FlatGeobuf, Shapefile, Parquet. An answer is yes, no or unsure;
unsure, and nothing, is left out. A probability (of a consensus) lies between 0 and 1. Several
verdicts on one detection count as their mean.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from geoslave.errors import LabelError

_YES = {"yes", "y", "true", "1", "1.0"}
_NO = {"no", "n", "false", "0", "0.0"}
_LEFT_OUT = {"unsure", "maybe", "unknown", "", "nan", "none", "<na>", "nat"}


def read_verdicts(path: str | Path) -> pd.DataFrame:
    """Read verdicts: one row a detection, `detection_id` (text), `probability` (0 to 1), and the file's other columns.

    Raises:
        LabelError: if the file is missing, cannot be read, lacks a column, or holds an answer nobody understands.
    """
    path = Path(path)
    table = _read(path)
    if "detection_id" not in table:
        raise LabelError(f"{path} has no column 'detection_id': verdicts name the detection they are about")
    if "probability" in table:
        given = pd.to_numeric(table["probability"], errors="coerce")
        if (given.isna() & table["probability"].notna()).any() or not given.dropna().between(0, 1).all():
            raise LabelError(f"{path}: a 'probability' is no number between 0 and 1: mend it")
    elif "answer" in table:
        given = _answers(table["answer"], path)
    else:
        raise LabelError(f"{path} has neither 'answer' (yes, no, unsure) nor 'probability' (0 to 1): add one of them")
    kept = table.assign(detection_id=table["detection_id"].astype(str), probability=given)[given.notna()]
    mean = kept.groupby("detection_id", sort=True)["probability"].mean()
    others = kept.drop_duplicates("detection_id").drop(columns="probability").set_index("detection_id")
    return others.assign(probability=mean).reset_index()


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise LabelError(f"{path} is not there: check the name")
    try:
        if path.suffix.lower() == ".csv":
            return pd.read_csv(path, dtype=str)
        if path.suffix.lower() in (".parquet", ".geoparquet"):
            return pd.read_parquet(path)
        import pyogrio

        return pd.DataFrame(pyogrio.read_dataframe(path, read_geometry=False))
    except Exception as error:  # every reader has its own errors
        raise LabelError(f"{path} cannot be read as a table of verdicts: {' '.join(str(error).split())}") from error


def _answers(answers: pd.Series, path: Path) -> pd.Series:
    """1 for yes, 0 for no, NaN for unsure."""
    text = answers.astype(object).where(answers.notna(), "").astype(str).str.strip().str.lower()
    odd = text[~text.isin(_YES | _NO | _LEFT_OUT)]
    if len(odd):
        raise LabelError(f"{path}: answer '{odd.iloc[0]}' is not understood: write yes, no or unsure")
    return pd.Series(np.where(text.isin(_YES), 1.0, np.where(text.isin(_NO), 0.0, np.nan)), index=answers.index)
