"""Characters of users, driven: `python -m benchmarks.bench_characters`.

Predicts ten seconds of speech, drives one character of each kind (`benchmarks.characters`, and the
head that `--glb_targets arkit` writes), and lets other programs read the results, where they are
given: Khronos' validator, three.js and three-vrm (npm) and Blender (bpy). Their vertices at ten
times are compared with those of curves or poses, computed without a file. A figure whose program
is absent is null, and a line says so. The last line is JSON.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_export import (
    N_TIMES,
    READERS,
    SCENE_FPS,
    SUBJECT,
    by_node,
    draw_page,
    parse,
    predicted_clip,
    printed,
)
from benchmarks.characters import make_characters, part_indices
from benchmarks.read_glb import Glb
from common.errors import UserError, run_cli
from config import SYNTHETIC as SPEC
from export.character import load_character
from export.character_animation import write_character
from export.clip import Clip
from export.curves import curves_of, unit_basis
from export.glb import write_arkit_glb
from export.live_link import ARKIT_UNITS
from export.visemes import OCULUS, VRM, clip_weights, pose_matrix, write_vrm

OWN = "own"  # the head that --glb_targets arkit writes
PICTURED = "oculus"
ADDED_TO = ("accessors", "animations", "bufferViews", "buffers")  # lists of the file that grow


def expected_vertices(clip: Clip, kind: str, frames: Sequence[int]) -> NDArray[np.float64]:
    """(N, V, 3) metres: the neutral face and the shapes of a kind, in the order of the file."""
    names, basis_mm = unit_basis()
    if kind == OWN:
        return clip.vertices[frames]
    if kind in ("oculus", "vrm0", "vrm1"):
        phones_of = OCULUS if kind == "oculus" else VRM
        values = clip_weights(clip, phones_of)[:, 1:] @ pose_matrix(phones_of, names)
    else:
        values = curves_of(clip).values * [name in ARKIT_UNITS for name in names]
    vertices = clip.template + np.tensordot(values[frames], 1e-3 * basis_mm, 1)
    return vertices if kind == "obj" else vertices[:, np.concatenate(part_indices())]


def largest_mm(vertices: NDArray, expected: NDArray) -> float:
    """The largest distance between (N, V, 3) in metres, as mm."""
    return round(1e3 * float(np.linalg.norm(vertices - expected, axis=2).max()), 4)


def check_kept(before: Path, after: Path) -> None:
    """Raise `UserError` where a .glb has lost or changed what it had."""
    old, new = Glb(before), Glb(after)
    same = new.bytes.startswith(old.bytes)
    for key in old.json:
        if key == "animations":  # ours stands before them, and replaces one of its name
            kept = [one for one in old.json[key] if one["name"] != "speech"]
            same &= new.json[key][1:] == kept
        elif key in ADDED_TO:
            same &= key == "buffers" or new.json[key][: len(old.json[key])] == old.json[key]
        else:
            same &= new.json[key] == old.json[key]
    if not same:
        raise UserError(f"{after}: differs from {before} in more than the animation")


def measure_kind(args: Any, clip: Clip, kind: str, path: Path, folder: Path) -> dict[str, Any]:
    """Drive a character; errors of the validator, largest distances that other programs read."""
    frames = np.linspace(0, len(clip.vertices) - 1, N_TIMES).astype(int).tolist()
    times = [frame / SPEC.fps for frame in frames]
    expected, modules = expected_vertices(clip, kind, frames), args.node_modules.absolute()
    (folder / kind).mkdir()
    (result,) = write_character(clip, load_character(path), folder / kind)
    if path.is_file():
        check_kept(path, result)
    figures: dict[str, Any] = {"errors": None, "three_mm": None, "blender_mm": None}
    report = by_node(modules, "gltf_validator.mjs", result)
    if report is not None:
        figures["errors"] = report["numErrors"]
    read = by_node(modules, "three_morph.mjs", result, *times)
    if read is not None:
        figures["three_mm"] = largest_mm(np.array(read["frames"]), expected)
    if args.blender is not None:
        out = folder / kind / "blender.npy"
        script = READERS / "blender_morph.py"
        report = printed(args.blender, script, result, SCENE_FPS, out, *times)
        if set(report["keys"]) != {len(clip.vertices)}:
            raise UserError(f"Blender: keys {set(report['keys'])}, expected {len(clip.vertices)}")
        figures["blender_mm"] = largest_mm(np.load(out), expected)
    if kind.startswith("vrm") and (modules / "@pixiv/three-vrm").is_dir():
        (vowels,) = write_vrm(clip, folder / kind)
        report = by_node(modules, "three_vrm.mjs", result, vowels, *times)
        figures["three_vrm_weights"] = None if report is None else report["difference"]
    if args.picture is not None and kind == PICTURED:
        draw_page(modules, result, args.picture)
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = parse(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = predicted_clip(folder)
        (folder / "characters").mkdir()
        paths = {OWN: write_arkit_glb(clip, folder)[0]}
        paths |= make_characters(folder / "characters", SUBJECT)
        curves = curves_of(clip)
        figures = {
            kind: measure_kind(args, clip, kind, path, folder) for kind, path in paths.items()
        }
        print(json.dumps({"fit_worst_mm": round(curves.worst_mm, 4), **figures}))


if __name__ == "__main__":
    sys.exit(run_cli(main))
