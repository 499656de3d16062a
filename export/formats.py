"""The formats that a clip can be written in, by the names of `--export` and `--formats`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from common.errors import UserError, reason_of, writable_folder
from export.clip import Clip


def _arkit(clip: Clip, folder: Path) -> list[Path]:
    from export.live_link import write_arkit

    return write_arkit(clip, folder)


def _visemes(clip: Clip, folder: Path) -> list[Path]:
    from export.visemes import write_visemes

    return write_visemes(clip, folder)


def _vrm(clip: Clip, folder: Path) -> list[Path]:
    from export.visemes import write_vrm

    return write_vrm(clip, folder)


# Each writer writes a clip's files into a folder and returns their paths; they appear when whole.
FORMATS: dict[str, Callable[[Clip, Path], list[Path]]] = {
    "arkit": _arkit,
    "visemes": _visemes,
    "vrm": _vrm,
}
OF_UNITS = ("arkit", "visemes", "vrm")  # formats that need a topology with known units


def check_formats(formats: Sequence[str], topology: str) -> None:
    """Raise `UserError` if a format cannot hold faces of this topology (`Clip.topology`)."""
    from export.curves import check_topology

    if set(formats) & set(OF_UNITS):
        check_topology(topology)


def write_formats(clip: Clip, formats: Sequence[str], folder: Path) -> list[Path]:
    """Write a clip in several formats; returns the paths of all files.

    Raises `UserError` for a format that cannot hold the clip and for a folder or file that cannot
    be written.
    """
    check_formats(formats, clip.topology)
    writable_folder(folder)
    try:
        return [path for name in dict.fromkeys(formats) for path in FORMATS[name](clip, folder)]
    except OSError as error:
        raise UserError(
            f"export {error.filename or folder}: cannot be written ({reason_of(error)})"
        ) from error
