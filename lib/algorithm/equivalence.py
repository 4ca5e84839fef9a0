"""Whether two partials are the same, bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def identical(a: Any, b: Any) -> bool:
    """Equality of dataclasses, mappings, sequences, arrays and scalars: -0.0 is not 0.0, NaN equals NaN."""
    if isinstance(a, (float, complex)) and type(a) is type(b):
        return identical(np.asarray(a), np.asarray(b))
    if type(a) is not type(b):
        return False
    if dataclasses.is_dataclass(a):
        return all(identical(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)
    return bool(a == b)


def _bytes(array: NDArray[Any]) -> bytes:
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag])
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.nan, array)  # one NaN for all
    return array.tobytes()
