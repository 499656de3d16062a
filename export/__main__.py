"""Predictions to files for other programs: `python -m export out/speech.npy --formats arkit`.

FILE.npy holds vertices (T, V, 3) as demo.py writes them, or (T, V * 3).
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
from config import RECIPES, DatasetSpec
from dataset.faces import find_faces
from export.clip import SYNTHETIC, Clip
from export.formats import FORMATS, check_formats, write_formats
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
    add("file", type=Path, metavar="FILE.npy", help="vertices (T, V, 3), as demo.py writes them")
    add("--formats", nargs="+", choices=list(FORMATS), default=["arkit"], metavar="FORMAT",
        help=f"{', '.join(FORMATS)}; default: arkit")
    add("--subject", metavar="NAME",
        help="whose face it is; default: the one of the synthetic head that fits the first frame")
    add("--template", type=Path, metavar="FILE",
        help="the neutral face: .ply, .obj, or the first face of a .pkl or .npz")
    add("--faces", type=Path, metavar="FILE",
        help="triangles: .ply, .obj or .npz; default: those of the data set with as many vertices")
    add("--fps", metavar="N", help="frames a second of FILE.npy, such as 30 or 30000/1001; "
                                   "default: those of the data set, else 30")
    add("--out", type=Path, metavar="FOLDER", help="default: the folder of FILE.npy")
    return parser.parse_args(argv)
# fmt: on


def load_clip(args: argparse.Namespace) -> Clip:
    """The clip that the flags name; raises `UserError` for files that do not belong together."""
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
    rate = args.fps or (spec.fps if spec else 30)
    return Clip(
        vertices=vertices,
        template=template,
        faces=triangles(args, spec, vertices.shape[1]),
        fps=parse_rate(rate, "--fps"),
        metres_per_unit=spec.metres_per_unit if spec else 1.0,
        name=args.file.stem,
        colors=appearance(spec, subject)["colors"] if bundled else None,
        topology=SYNTHETIC if bundled else str(args.faces or (spec and spec.topology)),
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


def main(argv: Sequence[str] | None = None) -> None:
    """Write the formats; prints the path of every file, one a line, last."""
    args = parse(argv)
    clip = load_clip(args)
    check_formats(args.formats, clip.topology)
    for path in write_formats(clip, args.formats, args.out or args.file.parent):
        print(path)


if __name__ == "__main__":
    sys.exit(run_cli(main))
