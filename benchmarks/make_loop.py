"""The looping picture of the README: `python -m benchmarks.make_loop --out demo/speaking.webp`.

Predicts and draws a bundled recording as `demo.py` does, moves the last frames back to the first
pose, so that the loop has no jump, and writes an animated WebP. The same code, model and packages
give the same file.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import demo
from common.errors import Parser, run_cli
from common.whole_file import whole_file
from config import PROJECT_ROOT, RECIPES
from dataset.faces import choose_face, faces_of
from rendering.face import appearance
from rendering.renderer import Renderer

RECORDING = PROJECT_ROOT / "demo/wav/sense_and_sensibility_0930.flac"  # starts and ends at rest
BACKGROUND = "studio"  # readable on light and dark pages
QUALITY = 90  # of WebP, 0 to 100
WIDTH = 0.75  # of the square picture, in the middle: a head is taller than wide


# fmt: off
def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description="Make a looping picture of the head speaking.")
    add = parser.add_argument
    add("--wav_path", type=Path, default=RECORDING, metavar="FILE",
        help="default: demo/wav/sense_and_sensibility_0930.flac")
    add("--out", type=Path, default=Path("out/speaking.webp"), metavar="FILE",
        help="default: out/speaking.webp")
    add("--size", type=int, default=480, metavar="PIXELS",
        help="height of the picture; default: 480")
    add("--blend_s", type=float, default=0.3, metavar="SECONDS",
        help="time in which the last pose moves back to the first; default: 0.3")
    return parser.parse_args(argv)
# fmt: on


def close_loop(vertices: NDArray, n_blend: int) -> NDArray:
    """(T, V, 3) motion whose last `n_blend` frames move to the first one; V and T stay.

    The weight is a half cosine from 0 to 1 and reaches 1 one frame after the last, where the loop
    starts again.
    """
    n_blend = min(n_blend, len(vertices) - 1)
    time = np.arange(1, n_blend + 1) / (n_blend + 1)
    weight = (0.5 - 0.5 * np.cos(np.pi * time))[:, None, None]
    closed = vertices.copy()
    closed[len(vertices) - n_blend :] += weight * (
        vertices[0] - vertices[len(vertices) - n_blend :]
    )
    return closed


def predict(wav_path: Path) -> NDArray[np.float32]:
    """Vertices (T, V, 3) of the default model's default face, with blinks, as demo.py writes."""
    with tempfile.TemporaryDirectory() as folder:
        demo.main(["--wav_path", str(wav_path), "--out", folder, "--no_video", "--blink"])
        return np.load(Path(folder) / f"{wav_path.stem}.npy")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the loop and print its path, last."""
    from PIL import Image  # installed with matplotlib

    args = parse(argv)
    vertices = predict(args.wav_path)
    spec = RECIPES["synthetic"].dataset
    name, template = choose_face(spec, None, None)
    vertices = close_loop(vertices, round(args.blend_s * spec.fps))
    renderer = Renderer(faces_of(spec), template, args.size, BACKGROUND, **appearance(spec, name))
    edge = round(args.size * (1 - WIDTH) / 2)
    pictures = [
        Image.fromarray(picture[:, edge : args.size - edge])
        for picture in renderer.frames(vertices, workers=2)
    ]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(args.out) as partial:
        pictures[0].save(
            partial,
            format="WEBP",
            save_all=True,
            append_images=pictures[1:],
            duration=frame_durations(len(pictures), spec.fps),
            loop=0,
            quality=QUALITY,
            method=6,
        )
    print(args.out)


def frame_durations(n_frames: int, fps: int) -> list[int]:
    """Whole milliseconds of each frame; their sum is that of `n_frames` at `fps`."""
    ends = [round(1000 * (frame + 1) / fps) for frame in range(n_frames)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


if __name__ == "__main__":
    sys.exit(run_cli(main))
