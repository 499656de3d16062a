"""ARKit curves as the Live Link Face app of Epic Games records them (CSV), and as JSON.

The CSV has `Timecode,BlendshapeCount` and 61 columns: ARKit's 52 units in the app's own order, in
PascalCase, and the rotations of head and eyes. Unreal's importer, Faceit for Blender and the
importers for Maya and MotionBuilder read it. The JSON has ARKit's own names in camelCase.
"""

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.whole_file import write_together
from export.clip import Clip
from export.curves import Curves, curves_of

# fmt: off
ARKIT_UNITS = (  # in the order of the app
    "eyeBlinkLeft", "eyeLookDownLeft", "eyeLookInLeft", "eyeLookOutLeft", "eyeLookUpLeft",
    "eyeSquintLeft", "eyeWideLeft", "eyeBlinkRight", "eyeLookDownRight", "eyeLookInRight",
    "eyeLookOutRight", "eyeLookUpRight", "eyeSquintRight", "eyeWideRight", "jawForward", "jawRight",
    "jawLeft", "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthRight", "mouthLeft",
    "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight", "mouthDimpleLeft",
    "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight", "mouthRollLower",
    "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthPressLeft", "mouthPressRight",
    "mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight",
    "tongueOut",
)
ROTATIONS = (  # radians, of `Clip.rotations`
    "HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll",
    "RightEyeYaw", "RightEyePitch", "RightEyeRoll",
)
# fmt: on
COLUMNS = tuple(name[0].upper() + name[1:] for name in ARKIT_UNITS) + ROTATIONS


def write_arkit(clip: Clip, folder: Path) -> list[Path]:
    """Write `<name>.csv` and `<name>.json`; returns their paths and prints the error of the fit."""
    curves = curves_of(clip)
    files = {
        folder / f"{clip.name}.csv": live_link_csv(curves, clip.fps, clip.rotations),
        folder / f"{clip.name}.json": curves_json(
            clip.fps, curves.names, curves.values, curves.rms_mm, curves.worst_mm, clip.rotations
        ),
    }
    write_together(files)
    print(f"ARKit curves: {curves.rms_mm:.3f} mm rms and {curves.worst_mm:.2f} mm at worst from "
          f"the vertices, which move by {curves.motion_mm:.2f} mm rms")  # fmt: skip
    return list(files)


def live_link_csv(
    curves: Curves, fps: Fraction, rotations: Mapping[str, NDArray] | None = None
) -> str:
    """The text of the CSV. Curves that are not ARKit's are left out; absent ones are 0.

    rotations: (T,) radians by name of `ROTATIONS`.
    """
    table = np.zeros((len(curves.values), len(COLUMNS)))
    for column, name in enumerate(ARKIT_UNITS):
        if name in curves.names:
            table[:, column] = curves.values[:, curves.names.index(name)]
    for name, radians in (rotations or {}).items():
        table[:, len(ARKIT_UNITS) + ROTATIONS.index(name)] = radians
    lines = [",".join(("Timecode", "BlendshapeCount", *COLUMNS))]
    for frame, row in enumerate(table):
        numbers = ",".join(f"{value:.10f}" for value in row)
        lines.append(f"{timecode(frame, fps)},{len(COLUMNS)},{numbers}")
    return "\n".join(lines) + "\n"


def timecode(frame: int, fps: Fraction) -> str:
    """HH:MM:SS:FF.mmm of a frame, as the app writes it; mmm are thousandths of a frame, here 0.

    Fractional rates count frames by the next whole rate, without drop frames: 30 a second for
    29.97.
    """
    seconds, frames = divmod(frame, -(-fps.numerator // fps.denominator))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}:{frames:02d}.000"


def curves_json(
    fps: Fraction,
    names: tuple[str, ...],
    values: NDArray,
    rms_mm: float,
    worst_mm: float,
    rotations: Mapping[str, NDArray] | None = None,
) -> str:
    """JSON of curves: fps, names, one row of values for each frame, the error of the fit in mm.

    rotations: (T,) radians by name of `ROTATIONS`, if there are any.
    """
    content: dict[str, Any] = {
        "fps": int(fps) if fps.denominator == 1 else float(fps),
        "error_mm": {"rms": round(rms_mm, 4), "worst": round(worst_mm, 4)},
        "names": list(names),
        "frames": [[round(float(value), 6) for value in row] for row in values],
    }
    if rotations:
        content["rotations_rad"] = {
            name: [round(float(angle), 6) for angle in angles] for name, angles in rotations.items()
        }
    return json.dumps(content, separators=(",", ":")) + "\n"
