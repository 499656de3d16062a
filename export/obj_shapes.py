"""Characters as folders of .obj files: a neutral face, and one file for each shape.

All have the vertices of the neutral face in its order. V vertices.
"""

from pathlib import Path

import numpy as np

from common.errors import UserError
from export.glb import morphing_glb
from export.gltf_file import GltfFile
from export.shape_names import is_known, words_of
from files.listing import list_files
from files.meshes import load_mesh

NEUTRAL = {"neutral", "base", "basis", "rest", "default"}  # words of the neutral face's name
MAX_FILES = 500


def load_obj_shapes(folder: Path) -> GltfFile:
    """A .glb in memory, whose morph targets are the files of a folder that have known names.

    Raises `UserError` where there is no neutral face or no shape, and for meshes whose number of
    vertices or whose faces differ.
    """
    files = list_files(folder, (".obj",))
    neutral = [file for file in files if NEUTRAL & set(words_of(file.stem))]
    if len(neutral) != 1:
        raise UserError(
            f"character {folder}: {len(neutral)} of its {len(files)} .obj files are neutral faces, "
            "expected one; call it neutral.obj"
        )
    shapes = [file for file in files if file not in neutral and is_known(file.stem)]
    if not 0 < len(shapes) <= MAX_FILES:
        raise UserError(
            f"character {folder}: {len(shapes)} of its {len(files)} .obj files have known names, "
            f"expected 1 to {MAX_FILES}, such as jawOpen.obj or viseme_aa.obj"
        )
    template, faces = load_mesh(neutral[0])
    if not len(faces):
        raise UserError(f"mesh {neutral[0]}: no faces; export it with its polygons")
    deltas = np.empty((len(shapes), *template.shape), np.float32)
    for delta, file in zip(deltas, shapes, strict=True):
        vertices, own_faces = load_mesh(file)
        if len(vertices) != len(template):
            raise UserError(
                f"mesh {file}: {len(vertices)} vertices, expected {len(template)} as in "
                f"{neutral[0].name}; export both from one mesh"
            )
        if len(own_faces) and not np.array_equal(own_faces, faces):
            raise UserError(
                f"mesh {file}: other faces than {neutral[0].name}, so the order of its vertices is "
                "another; export both from one mesh, with the order kept"
            )
        delta[:] = vertices - template
    names = [file.stem for file in shapes]
    return GltfFile(folder, *morphing_glb(folder.name or "head", template, faces, names, deltas))
