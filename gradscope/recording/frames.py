"""From stored columns to columns of a pandas frame: names for ids, absent for not recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradscope.recording.schema import Column

RECORD_DTYPES = {
    "int": "Int64",
    "float": "float64",
    "bool": "boolean",
    "text": "object",
    "json": "object",
}
"""Pandas types of a record table's columns."""


def present(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which values of a column were recorded: neither NaN nor -1."""
    present: npt.NDArray[np.bool_] = np.ones(len(values), np.bool_)
    if values.dtype.kind == "f":
        np.isnan(values, out=present)
        np.logical_not(present, out=present)
    elif values.dtype.kind == "i":
        np.not_equal(values, -1, out=present)
    return present


def with_moments(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with ``rms`` and ``mean`` from its sums."""
    # an empty tensor has no mean: absent, not a division error
    count = frame["count"].where(frame["count"] > 0)
    with np.errstate(all="ignore"):
        frame["rms"] = root(frame["sum_sq"] / count)
        frame["mean"] = frame["sum"] / count
    return frame


def root(squares: pd.Series) -> pd.Series:
    """Square roots of sums of squares."""
    # NaN and infinite sums are data here, and no reason for a warning
    with np.errstate(all="ignore"):
        return np.sqrt(squares)


def named(ids: npt.NDArray[Any], known: Mapping[int, str]) -> pd.Categorical:
    """Names in place of ids, as a categorical column; an id without a name is missing."""
    order = sorted(known)
    labels: dict[str, None] = {}
    for identity in order:
        # categories must differ; two objects of one name can only come from a damaged table
        label = known[identity]
        labels[label if label not in labels else f"{label}#{identity}"] = None
    codes = np.searchsorted(np.asarray(order or [0]), ids)
    codes = np.where(np.isin(ids, order), codes, -1)
    return pd.Categorical.from_codes(codes, categories=pd.Index(list(labels), dtype=object))


def names_of(ids: pd.Series, known: Mapping[int, str]) -> pd.Series:
    """Names in place of ids, None where an id has none."""
    # object: where pyarrow is installed, pandas would make UTF-8 of texts, and a name may hold
    # half of a surrogate pair
    return pd.Series([known.get(identity) for identity in ids], index=ids.index, dtype=object)


def series(values: list[Any], column: Column) -> pd.Series:
    """Values of a record table's column, in the pandas type of the column."""
    if column.dtype == "float":
        values = [math.nan if value is None else float(value) for value in values]
    return pd.Series(values, dtype=RECORD_DTYPES[column.dtype])
