"""Paths in configs and run records."""

from pathlib import Path

from config import PROJECT_ROOT


def relative_to_project(path: Path) -> str:
    """`path` relative to the project's folder if it is inside, else absolute."""
    path = path.absolute()
    return str(path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else path)
