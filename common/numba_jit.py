"""Functions compiled by numba; the machine code is cached on disk where a folder is writable."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(signature: str = "", **options: Any) -> Callable[[Callable], Callable]:
    """Decorator: `numba.njit` that releases the GIL and divides by zero as numpy does.

    signature: numba's; with one the function is compiled at once, else at its first call.
    options: further options of `numba.njit`.
    """
    signatures = (signature,) if signature else ()
    options = {"nogil": True, "error_model": "numpy"} | options

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(*signatures, cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function: no locator available"
            return numba.njit(*signatures, **options)(function)

    return decorate
