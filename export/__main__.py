"""Predictions to files for other programs: `python -m export out/speech.npy --formats arkit`.

FILE.npy holds vertices (T, V, 3) as demo.py writes them, or (T, V * 3). Without it, --template
names a subject whose neutral face is written, to sculpt on. `python -m export onnx` writes the
step of the live engine as an ONNX graph.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray

from common.errors import Parser, UserError, run_cli
from common.frame_rates import parse_rate
from config import BUNDLED_MODEL, RECIPES, DatasetSpec
from dataset.faces import find_faces, misfit
from export.clip import SYNTHETIC, Clip
from export.formats import FORMATS, GLB_TARGETS, write_formats
from files.arrays import load_npy
from files.meshes import MESH_SUFFIXES, load_faces, load_mesh, load_templates
from rendering.face import appearance
from synthetic.head import HEAD_FILE, load_head

NEAR_M = 1e-3  # metres; another face of the head differs by several millimetres


# fmt: off
def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags as given. Raises `UserError` for unknown flags and values of a wrong type."""
    parser = Parser(prog="python -m export", description="Write a prediction for other programs.")
    add = parser.add_argument
    add("file", type=Path, nargs="?", metavar="FILE.npy",
        help="vertices (T, V, 3), as demo.py writes them")
    add("--formats", nargs="+", choices=list(FORMATS), metavar="FORMAT",
        help=f"{', '.join(FORMATS)}; default: arkit, none with --character")
    add("--glb_targets", choices=GLB_TARGETS, metavar="TARGETS",
        help="morph targets of a .glb: pca, the fewest within 0.1 mm, or arkit, ARKit's units by "
             "name; default: pca")
    add("--character", type=Path, metavar="FILE",
        help="your own character, .glb, .vrm, .gltf or a folder of .obj: also write it with the "
             "animation")
    add("--gain", nargs="+", action="extend", default=[], metavar="NAME=FACTOR",
        help="factors of single curves, such as jawOpen=1.2 mouthClose=0.9")
    add("--subject", metavar="NAME",
        help="whose face it is; default: the one of the synthetic head that fits the first frame")
    add("--template", type=Path, metavar="FILE",
        help="the neutral face: .ply, .obj, or the first face of a .pkl or .npz; without FILE.npy "
             "the name of a subject, or all, whose neutral face is written")
    add("--format", choices=("obj", "glb"), help="of a neutral face; default: obj")
    add("--scale", type=float, metavar="X",
        help="of a neutral face, whose unit is the metre: 100 for centimetres; default: 1")
    add("--faces", type=Path, metavar="FILE",
        help="triangles: .ply, .obj or .npz; default: those of the data set with as many vertices")
    add("--fps", metavar="N", help="frames a second of FILE.npy, such as 30 or 30000/1001; "
                                   "default: those of the data set, else 30")
    add("--out", type=Path, metavar="FOLDER",
        help="default: the folder of FILE.npy; of a neutral face: out")
    return parser.parse_args(argv)
# fmt: on


def load_clip(args: argparse.Namespace) -> Clip:
    """The clip that the flags name; raises `UserError` for files that do not belong together."""
    from export.gains import parse_gains  # imports scipy

    vertices = load_npy(args.file, "prediction", mapped=True)
    if vertices.ndim == 2 and vertices.shape[1] % 3 == 0:
        vertices = vertices.reshape(len(vertices), -1, 3)
    if vertices.ndim != 3 or vertices.shape[2] != 3:
        raise UserError(
            f"prediction {args.file}: shape {vertices.shape}, expected (frames, vertices, 3)"
        )
    spec = spec_of(vertices.shape[1])
    bundled = spec is not None and spec.path(spec.topology) == HEAD_FILE and args.faces is None
    subject, template = neutral_face(args, vertices, bundled)
    if len(template) != vertices.shape[1]:
        raise UserError(
            f"prediction {args.file}: {vertices.shape[1]} vertices, expected {len(template)} as in "
            f"{args.template or args.faces or subject}"
        )
    problem = misfit(vertices[0], template) if np.isfinite(vertices[0]).all() else ""
    if problem:
        raise UserError(f"prediction {args.file}: its first frame {problem}")
    rate = args.fps or (spec.fps if spec else 30)
    return Clip(
        vertices=vertices,
        template=template,
        faces=triangles(args, spec, vertices.shape[1]),
        fps=parse_rate(rate, "--fps"),
        metres_per_unit=spec.metres_per_unit if spec else 1.0,
        name=args.file.stem,
        colors=appearance(spec, subject)["colors"] if bundled else None,
        mesh=args.template or args.faces,
        topology=SYNTHETIC if bundled else str(args.faces or args.template or spec.topology),
        curve_gains=parse_gains(args.gain),
    )


def spec_of(n_vertices: int) -> DatasetSpec | None:
    """The data set whose meshes have so many vertices, or None."""
    specs = (recipe.dataset for recipe in RECIPES.values())
    return next((spec for spec in specs if spec.n_vertices == n_vertices), None)


def neutral_face(
    args: argparse.Namespace, vertices: NDArray, bundled: bool
) -> tuple[str, NDArray[np.float32]]:
    """(name, template (V, 3)) of --template, --subject or --faces, or the head's nearest."""
    if args.template is not None and args.subject is not None:
        raise UserError("--subject and --template: both name the face; give one of them")
    if args.template is not None:
        return next(iter(load_templates(args.template).items()))
    if bundled:
        return subject_of_head(args.subject, vertices)
    if args.faces is not None and args.faces.suffix.lower() in MESH_SUFFIXES:
        return args.faces.stem, load_mesh(args.faces)[0]
    raise UserError(
        f"prediction {args.file}: {vertices.shape[1]} vertices, not those of the synthetic head; "
        "give its neutral face with --template FILE.ply"
    )


def subject_of_head(name: str | None, vertices: NDArray) -> tuple[str, NDArray[np.float32]]:
    """(name, template) of a subject of the synthetic head; None: the one nearest to frame 0."""
    templates = load_head().templates
    if name is None:
        apart = {  # the median: most of the head does not move
            subject: float(np.median(np.linalg.norm(vertices[0] - template, axis=1)))
            for subject, template in templates.items()
        }
        name = min(apart, key=apart.__getitem__)
        if not apart[name] <= NEAR_M:
            raise UserError(
                "no subject of the synthetic head has this face; give it with --template FILE"
            )
    if name not in templates:
        raise UserError(f"subject {name}: not in the model's templates: {', '.join(templates)}")
    return name, templates[name]


def triangles(
    args: argparse.Namespace, spec: DatasetSpec | None, n_vertices: int
) -> NDArray[np.int32]:
    """(F, 3) of --faces, of the data set, or of the mesh --template."""
    if args.faces is not None:
        return load_faces(args.faces)
    faces = find_faces(spec, args.template) if spec else None
    if faces is None and args.template and args.template.suffix.lower() in MESH_SUFFIXES:
        faces = load_mesh(args.template)[1]
    if faces is None or not len(faces):
        raise UserError(f"no triangles for {n_vertices} vertices; give them with --faces FILE.ply")
    return faces


def neutral_paths(args: argparse.Namespace) -> list[Path]:
    """Write the neutral face that --template names; the paths of its files."""
    from export.neutral import write_neutral

    given = ("formats", "glb_targets", "character", "gain", "subject", "faces", "fps")
    if args.template is None:
        raise UserError("no FILE.npy; give one, or --template NAME for a neutral face")
    for flag in given:
        if getattr(args, flag):
            raise UserError(f"--{flag}: needs a FILE.npy")
    folder, scale = args.out or Path("out"), 1.0 if args.scale is None else args.scale
    return write_neutral(str(args.template), args.format or "obj", scale, folder)


def clip_paths(args: argparse.Namespace) -> list[Path]:
    """Write FILE.npy in the formats; the paths of all files."""
    from export.character import load_character  # imports scipy

    for flag in ("format", "scale"):
        if getattr(args, flag) is not None:
            raise UserError(f"--{flag}: of a neutral face only; leave out FILE.npy")
    character = None if args.character is None else load_character(args.character)
    formats = args.formats or ([] if character else ["arkit"])
    clip, folder = load_clip(args), args.out or args.file.parent
    return write_formats(clip, formats, folder, args.glb_targets, character)


def onnx_paths(argv: Sequence[str]) -> list[Path]:
    """Write the live step as an ONNX graph; the paths of its files."""
    parser = Parser(prog="python -m export onnx", description="Write the live step as ONNX.")
    add = parser.add_argument
    add("--checkpoint", type=Path, default=BUNDLED_MODEL, metavar="FILE", help="default: bundled")
    add("--look_ahead", type=float, default=0.25, metavar="S", help="default: %(default)s s")
    add("--out", type=Path, default=Path("out"), metavar="FOLDER", help="default: %(default)s")
    args = parser.parse_args(argv)
    from jambatalk import load_checkpoint
    from streaming.onnx_step import write_live_step

    try:
        return write_live_step(load_checkpoint(args.checkpoint), args.out, args.look_ahead)
    except ValueError as error:
        raise UserError(f"export onnx: {error}") from error


def main(argv: Sequence[str] | None = None) -> None:
    """Write the formats; prints the path of every file, one a line, last."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["onnx"]:
        paths = onnx_paths(argv[1:])
    else:
        args = parse(argv)
        paths = neutral_paths(args) if args.file is None else clip_paths(args)
    for path in paths:
        print(path)


if __name__ == "__main__":
    sys.exit(run_cli(main))
