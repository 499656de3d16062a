"""The formats that a clip can be written in, by the names of `--export` and `--formats`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, reason_of, writable_folder

if TYPE_CHECKING:  # the names of the formats are needed for --help, without numpy
    from export.character import Character
    from export.clip import Clip, CurveGains


def _arkit(clip: "Clip", folder: Path) -> list[Path]:
    from export.live_link import write_arkit

    return write_arkit(clip, folder)


def _visemes(clip: "Clip", folder: Path) -> list[Path]:
    from export.visemes import write_visemes

    return write_visemes(clip, folder)


def _vrm(clip: "Clip", folder: Path) -> list[Path]:
    from export.visemes import write_vrm

    return write_vrm(clip, folder)


def _glb(clip: "Clip", folder: Path) -> list[Path]:
    from export.glb import write_glb

    return write_glb(clip, folder)


def _obj(clip: "Clip", folder: Path) -> list[Path]:
    from export.sequences import write_obj

    return write_obj(clip, folder)


def _ply(clip: "Clip", folder: Path) -> list[Path]:
    from export.sequences import write_ply

    return write_ply(clip, folder)


def _usd(clip: "Clip", folder: Path) -> list[Path]:
    from export.usd import write_usd

    return write_usd(clip, folder)


def _npz(clip: "Clip", folder: Path) -> list[Path]:
    from export.sequences import write_npz

    return write_npz(clip, folder)


# Each writer writes a clip's files into a folder and returns their paths; they appear when whole.
# Of a sequence the path is its folder.
FORMATS: dict[str, Callable[["Clip", Path], list[Path]]] = {
    "arkit": _arkit,
    "visemes": _visemes,
    "vrm": _vrm,
    "glb": _glb,
    "obj": _obj,
    "ply": _ply,
    "usd": _usd,
    "npz": _npz,
}
GLB_TARGETS = ("pca", "arkit")  # what the morph targets of a .glb are
OF_CURVES = ("arkit", "visemes", "vrm")  # the formats that hold curves


def check_formats(
    formats: Sequence[str],
    glb_targets: str | None = None,
    gains: "CurveGains" = (),
    has_character: bool = False,
) -> None:
    """Raise `UserError` for a format whose package is missing, and for options of absent formats.

    `glb_targets` need the format glb, `gains` a file of curves or a character.
    """
    if glb_targets and "glb" not in formats:
        raise UserError(f"--glb_targets {glb_targets}: works with the format glb only")
    has_curves = has_character or glb_targets == "arkit" or set(OF_CURVES) & set(formats)
    if gains and not has_curves:
        raise UserError(
            f"--gain {gains[0][0]}={gains[0][1]:g}: works with curves only; add --character, the "
            f"formats {', '.join(OF_CURVES)}, or glb with --glb_targets arkit"
        )
    if "usd" in formats:
        from export.usd import import_pxr

        import_pxr()


def write_formats(
    clip: "Clip",
    formats: Sequence[str],
    folder: Path,
    glb_targets: str | None = None,
    character: "Character | None" = None,
) -> list[Path]:
    """Write a clip in several formats; returns the paths of all files.

    glb_targets: one of `GLB_TARGETS`; None is "pca". character: a user's own, which the clip drives
    (`export.character_animation`). Raises `UserError` for a format that cannot
    hold the clip and for a folder or file that cannot be written.
    """
    check_formats(formats, glb_targets, clip.curve_gains, character is not None)
    if "glb" in formats:
        from export.textured import textured

        textured(clip)  # its error comes before other files
    writers = dict(FORMATS)
    if glb_targets == "arkit":
        from export.glb import write_arkit_glb

        writers["glb"] = write_arkit_glb
    writable_folder(folder)
    try:
        paths = [path for name in dict.fromkeys(formats) for path in writers[name](clip, folder)]
        if character is not None:
            from export.character_animation import write_character

            paths += write_character(clip, character, folder)
        return paths
    except OSError as error:
        raise UserError(
            f"export {error.filename or folder}: cannot be written ({reason_of(error)})"
        ) from error
