"""Vertices as Blender's importer and its shape keys give them: run by a Python that has bpy.

python blender_morph.py FILE.glb SCENE_FPS OUT.npy TIME_S ...; OUT.npy is (N, V, 3), metres, y up,
with the vertices of several meshes one after the other in the order of their names.
Prints JSON: Blender's version and the number of keys of each curve that moves a shape.
"""

import json
import os
import sys

import bpy
import numpy as np


def vertices_of(mesh: bpy.types.Object) -> np.ndarray:
    """(V, 3) of a mesh as it is now, y up."""
    shape = mesh.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    values = np.empty(3 * len(shape.vertices), np.float32)
    shape.vertices.foreach_get("co", values)
    matrix = np.array(mesh.matrix_world)
    x, y, z = (values.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]).T
    return np.stack([x, z, -y], axis=1)  # Blender's z is up


def main() -> None:
    """Import the file into an empty scene of that rate and evaluate the mesh at the times."""
    file, fps, out, *times = sys.argv[1:]
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.fps = int(fps)
    bpy.ops.import_scene.gltf(filepath=file)
    meshes = [thing for thing in bpy.data.objects if thing.data and thing.data.id_type == "MESH"]
    meshes = sorted((m for m in meshes if m.data.shape_keys), key=lambda mesh: mesh.name)
    frames = []
    for time in times:
        frame = float(time) * int(fps)
        scene.frame_set(int(frame), subframe=frame % 1)
        frames.append(np.concatenate([vertices_of(mesh) for mesh in meshes]))
    np.save(out, frames)
    actions = [mesh.data.shape_keys.animation_data.action for mesh in meshes]  # the active ones
    keys = [len(curve.keyframe_points) for action in actions for curve in action.fcurves]
    print(json.dumps({"version": bpy.app.version_string, "keys": keys}), flush=True)
    os._exit(0)  # bpy 4.2 crashes where Python ends by itself


if __name__ == "__main__":
    main()
