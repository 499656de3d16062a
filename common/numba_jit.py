"""Functions compiled by numba: machine code kept on disk, where some folder can be written."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(signature: str = "", **options: Any) -> Callable[[Callable], Callable]:
    """Decorator: `numba.njit` that lets other threads run and divides as numpy does.

    signature: numba's, compiled at once; else at the first call. options: more of numba's.
    """
    given = (signature,) if signature else ()
    options = {"nogil": True, "error_model": "numpy"} | options

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(*given, cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function: no locator available"
            return numba.njit(*given, **options)(function)

    return decorate
