"""Paths in configs and run records, and the user's folder for caches."""

import os
import sys
from pathlib import Path

from config import PROJECT_ROOT

OWN_NAME = "jambatalk"  # of the folder inside that of all caches


def relative_to_project(path: Path) -> str:
    """`path` relative to the project's folder if it is inside, else absolute."""
    path = path.absolute()
    return str(path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else path)


def user_cache() -> Path:
    """The folder for what this project computes once for a user; it may not be there yet.

    `XDG_CACHE_HOME` where it is set (freedesktop.org's base directory specification), else
    `%LOCALAPPDATA%` on Windows, ~/Library/Caches on macOS, ~/.cache on all others. Raises
    `RuntimeError` for a user without a home.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(named):  # the specification says to ignore relative paths
        named = os.environ.get("LOCALAPPDATA", "") if os.name == "nt" else ""
    if named:
        return Path(named) / OWN_NAME
    parts = ("Library", "Caches") if sys.platform == "darwin" else (".cache",)
    return Path.home().joinpath(*parts, OWN_NAME)
