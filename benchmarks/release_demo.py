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
    frame = frame_s(vertices[::EVERY], faces_of(spec, None))
    seconds = predict_s(len(vertices) / spec.fps)
    print(json.dumps({"predict_s": round(seconds, 2), "frame_s": round(frame, 4)}))


def predict_s(seconds: float) -> float:
    """Processor seconds of the release's prediction of a clip on one thread."""
    import torch

    torch.set_num_threads(1)
    predict, _ = network_of("release")
    audio = torch.randn(round(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(1))
    template = torch.zeros(RECIPES["vocaset"].model.n_vertices, 3)
    predict(audio[: 2 * SAMPLE_RATE], template)  # fills caches
    return processor_s(lambda: predict(audio, template))


def frame_s(vertices: NDArray, faces: NDArray) -> float:
    """Median processor seconds to draw a mesh of vertices (T, V, 3), the first not counted."""
    os.environ.setdefault("PYOPENGL_PLATFORM", "osmesa")
    from rendering.opengl import _import_pyrender

    pyrender, seconds = _import_pyrender(), []
    for mesh in vertices:
        start = time.process_time()
        draw(pyrender, mesh, faces)
        seconds.append(time.process_time() - start)
    return float(np.median(seconds[1:]))


def draw(pyrender: Any, vertices: NDArray, faces: NDArray) -> NDArray[np.uint8]:
    """The picture (H, W, 3) of a mesh; vertices: (V, 3) metres, faces: (F, 3)."""
    import trimesh

    mesh = pyrender.Mesh.from_trimesh(trimesh.Trimesh(vertices, faces), smooth=True)
    scene = pyrender.Scene(ambient_light=[0.2] * 3, bg_color=[1.0, 1.0, 1.0])
    scene.add(mesh)
    pose = np.eye(4)
    pose[:3, 3] = (vertices.min(0) + vertices.max(0)) / 2
    pose[2, 3] += DISTANCE * np.ptp(vertices[:, 1])
    scene.add(pyrender.PerspectiveCamera(yfov=np.pi / 6), pose=pose)
    scene.add(pyrender.DirectionalLight(intensity=3.0), pose=pose)
    renderer = pyrender.OffscreenRenderer(SIZE, SIZE)
    try:
        return renderer.render(scene)[0]
    finally:
        renderer.delete()


if __name__ == "__main__":
    sys.exit(run_cli(main))
