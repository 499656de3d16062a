"""Processor seconds of a demo in the release's way: `python -m benchmarks.release_demo FILE.npy`.

Its prediction is `release_way.predict_clip` on the paper's large encoder, with random weights. It
draws as VOCA and those after it do: for each frame a mesh with smooth normals (trimesh), a scene
and an offscreen renderer of pyrender, 800 by 800. Start-up and encoding are not counted. The .npy
has the vertices (T, V, 3) of the bundled head at 30 fps, of which every 20th is drawn.

Needs pyrender and OpenGL without a display, such as `PYOPENGL_PLATFORM=osmesa` with libosmesa6.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_predict import network_of, processor_s
from common.errors import Parser, run_cli
from config import RECIPES, SAMPLE_RATE
from dataset.faces import faces_of
from files.arrays import load_npy
from rendering.opengl import check_installed

SIZE, EVERY = 800, 20
DISTANCE = 2.0  # of the head's height: what is drawn fills the picture


def main(argv: Sequence[str] | None = None) -> None:
    """Predict and draw; print processor seconds of the clip as JSON."""
    parser = Parser(description="Processor seconds of a demo in the release's way.")
    parser.add_argument("vertices", type=Path, help=".npy of vertices (T, V, 3) at 30 fps")
    path = parser.parse_args(argv).vertices
    check_installed("pyrender")
    vertices = load_npy(path)
    spec = RECIPES["synthetic"].dataset
    # Drawn first: beside the large network a frame takes up to twice as long.
    parts = frame_parts(vertices[::EVERY], faces_of(spec, None))
    seconds = {"predict_s": round(predict_s(len(vertices) / spec.fps), 2)}
    print(json.dumps(seconds | {name: round(value, 4) for name, value in parts.items()}))


def predict_s(seconds: float) -> float:
    """Processor seconds of the release's prediction of a clip on one thread."""
    import torch

    torch.set_num_threads(1)
    predict, _ = network_of("release")
    audio = torch.randn(round(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(1))
    template = torch.zeros(RECIPES["vocaset"].model.n_vertices, 3)
    predict(audio[: 2 * SAMPLE_RATE], template)  # fills caches
    return processor_s(lambda: predict(audio, template))


def frame_parts(vertices: NDArray, faces: NDArray) -> dict[str, float]:
    """Median processor seconds of the parts of a frame; vertices: (T, V, 3), the first not counted.

    mesh_s: a mesh with smooth normals; context_s: making and deleting a renderer, with a context of
    OpenGL; render_s: the picture, which begins with shaders and the upload of the mesh.
    """
    os.environ.setdefault("PYOPENGL_PLATFORM", "osmesa")
    from rendering.opengl import _import_pyrender

    pyrender = _import_pyrender()
    times = np.array([draw(pyrender, mesh, faces) for mesh in vertices])  # (T, 5)
    mesh, made, render, deleted = np.median(np.diff(times[1:]), axis=0).tolist()
    return {"mesh_s": mesh, "context_s": made + deleted, "render_s": render}


def draw(pyrender: Any, vertices: NDArray, faces: NDArray) -> list[float]:
    """Draw a mesh: processor time at the start, with mesh, renderer and picture, and at the end.

    vertices: (V, 3) metres; faces: (F, 3).
    """
    import trimesh

    times = [time.process_time()]
    mesh = pyrender.Mesh.from_trimesh(trimesh.Trimesh(vertices, faces), smooth=True)
    times.append(time.process_time())
    scene = pyrender.Scene(ambient_light=[0.2] * 3, bg_color=[1.0, 1.0, 1.0])
    scene.add(mesh)
    pose = np.eye(4)
    pose[:3, 3] = (vertices.min(0) + vertices.max(0)) / 2
    pose[2, 3] += DISTANCE * np.ptp(vertices[:, 1])
    scene.add(pyrender.PerspectiveCamera(yfov=np.pi / 6), pose=pose)
    scene.add(pyrender.DirectionalLight(intensity=3.0), pose=pose)
    renderer = pyrender.OffscreenRenderer(SIZE, SIZE)
    try:
        times.append(time.process_time())
        renderer.render(scene)
        times.append(time.process_time())
    finally:
        renderer.delete()
    return [*times, time.process_time()]


if __name__ == "__main__":
    sys.exit(run_cli(main))
