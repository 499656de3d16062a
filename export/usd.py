"""A point cache in USD: a mesh whose points have a sample for each frame, and its sound.

Needs the optional package usd-core. https://openusd.org/release/api/class_usd_geom_mesh.html
Metres, y up. T frames, V vertices, F faces.
"""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, reason_of
from common.whole_file import whole_file
from export.clip import Clip
from export.frames import blocks
from rendering.srgb import srgb_to_linear


def write_usd(clip: Clip, folder: Path) -> list[Path]:
    """Write `<folder>/<name>.usd`; frame t is at the time code t of a stage of the clip's fps.

    The sound is referenced by a path relative to the folder, not copied. Raises `UserError` where
    usd-core is missing or cannot write the file, or for NaN; `OSError` of the disk.
    """
    pxr = import_pxr()
    path = folder / f"{clip.name}.usd"
    with whole_file(path) as partial:
        try:
            stage = pxr.Usd.Stage.CreateNew(str(partial))
            _describe_stage(pxr, stage, clip)
            head = stage.DefinePrim("/Head", "Xform")
            stage.SetDefaultPrim(head)
            _add_mesh(pxr, stage, clip)
            if clip.audio is not None:
                _add_sound(pxr, stage, clip.audio, folder)
            stage.GetRootLayer().Save()
        except pxr.Tf.ErrorException as error:
            raise UserError(f"usd {path}: cannot be written ({_reason(error)})") from error
    return [path]


def import_pxr() -> Any:
    """The package pxr with the modules used here; raises `UserError` if it is not installed."""
    try:
        import pxr
        from pxr import Gf, Sdf, Tf, Usd, UsdGeom, UsdMedia, Vt  # noqa: F401  makes them attributes
    except ImportError as error:
        raise UserError(
            f"usd: needs the package usd-core ({reason_of(error)}); pip install usd-core"
        ) from error
    return pxr


def _reason(error: Exception) -> str:
    """What pxr says went wrong, without the places in its sources."""
    quoted = re.search(r" : '(.+)'", str(error))
    return quoted[1] if quoted else reason_of(error)


def _describe_stage(pxr: Any, stage: Any, clip: Clip) -> None:
    pxr.UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    pxr.UsdGeom.SetStageUpAxis(stage, pxr.UsdGeom.Tokens.y)
    stage.SetTimeCodesPerSecond(float(clip.fps))
    stage.SetFramesPerSecond(float(clip.fps))
    stage.SetStartTimeCode(0)
    stage.SetEndTimeCode(len(clip.vertices) - 1)


def _add_mesh(pxr: Any, stage: Any, clip: Clip) -> None:
    """Add the mesh with a sample of points, and of their bounds, for each frame."""
    mesh = pxr.UsdGeom.Mesh.Define(stage, "/Head/Face")
    mesh.CreateSubdivisionSchemeAttr(pxr.UsdGeom.Tokens.none)
    mesh.CreateFaceVertexCountsAttr(pxr.Vt.IntArray([3] * len(clip.faces)))
    mesh.CreateFaceVertexIndicesAttr(
        pxr.Vt.IntArray.FromNumpy(np.ascontiguousarray(clip.faces.ravel(), np.int32))
    )
    if clip.colors is not None:
        linear = srgb_to_linear(np.clip(clip.colors, 0.0, 1.0)).astype(np.float32)
        color = mesh.CreateDisplayColorPrimvar(pxr.UsdGeom.Tokens.vertex)
        color.Set(pxr.Vt.Vec3fArray.FromNumpy(linear))
    points, extent, frame = mesh.CreatePointsAttr(), mesh.CreateExtentAttr(), 0
    for block in blocks(clip):
        for vertices in block:
            points.Set(pxr.Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(vertices)), frame)
            corners = np.stack([vertices.min(axis=0), vertices.max(axis=0)])
            extent.Set(pxr.Vt.Vec3fArray.FromNumpy(corners), frame)
            frame += 1


def _add_sound(pxr: Any, stage: Any, audio: Path, folder: Path) -> None:
    """Refer to the recording; it starts at the time code 0, as is the default."""
    sound = pxr.UsdMedia.SpatialAudio.Define(stage, "/Head/Speech")
    place = Path(os.path.relpath(audio.absolute(), folder.absolute())).as_posix()
    sound.CreateFilePathAttr(pxr.Sdf.AssetPath(place))
    sound.CreateAuralModeAttr(pxr.UsdMedia.Tokens.nonSpatial)
