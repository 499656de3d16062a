"""Vertices as Blender's importer and its shape keys give them: run by a Python that has bpy.

python blender_morph.py FILE.glb SCENE_FPS OUT.npy TIME_S ...; OUT.npy is (N, V, 3), metres, y up.
Prints JSON: Blender's version and the number of keys of each curve.
"""

import json
import os
import sys

import bpy
import numpy as np


def main() -> None:
    """Import the file into an empty scene of that rate and evaluate the mesh at the times."""
    file, fps, out, *times = sys.argv[1:]
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.fps = int(fps)
    bpy.ops.import_scene.gltf(filepath=file)
    (head,) = [thing for thing in bpy.data.objects if thing.type == "MESH"]
    frames = []
    for time in times:
        frame = float(time) * int(fps)
        scene.frame_set(int(frame), subframe=frame % 1)
        shape = head.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
        values = np.empty(3 * len(shape.vertices), np.float32)
        shape.vertices.foreach_get("co", values)
        matrix = np.array(head.matrix_world)
        x, y, z = (values.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]).T
        frames.append(np.stack([x, z, -y], axis=1))  # Blender's z is up
    np.save(out, frames)
    curves = [curve for action in bpy.data.actions for curve in action.fcurves]
    keys = [len(curve.keyframe_points) for curve in curves]
    print(json.dumps({"version": bpy.app.version_string, "keys": keys}), flush=True)
    os._exit(0)  # bpy 4.2 crashes where Python ends by itself


if __name__ == "__main__":
    main()
