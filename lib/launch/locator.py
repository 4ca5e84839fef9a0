"""Numba's cache for kernels imported from a zip: found by their module's name, not by the path of this run's zip."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from numba.core import config as numba_config
from numba.core.caching import _CacheLocator


class Locator(_CacheLocator):
    """Locator of lib's own kernels below NUMBA_CACHE_DIR, which is named after their sources (lib.launch.kernels)."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._module = function.__module__
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> Locator | None:
        """The locator of a kernel of lib; None for any other function."""
        if not (_folder() and py_func.__module__.startswith("lib.")):
            return None
        locator = cls(py_func)
        locator.ensure_cache_path()
        return locator

    def get_cache_path(self) -> str:
        return os.path.join(_folder(), self._module)  # noqa: PTH118

    def get_source_stamp(self) -> str:
        return ""  # the folder's name is the stamp

    def get_disambiguator(self) -> str:
        return str(self._line)


def _folder() -> str:
    return str(getattr(numba_config, "CACHE_DIR", ""))  # numba sets its settings at run time
