"""A finished animation, and motion at other frame rates. T frames, V vertices, F faces."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, reason_of, writable_folder
from common.frame_rates import FPS_LIMITS
from common.whole_file import whole_file
from config import DatasetSpec
from dataset.faces import missing_faces
from files.arrays import stream_npy

if TYPE_CHECKING:
    from speech.recording import Recording

RENDER_THREADS = 4  # at most; each holds a z-buffer of its own


@dataclass(frozen=True, eq=False)
class Animation:
    """A face that speaks a recording. Frame t is the instant t / fps; frames cover the recording.

    vertices: (T, V, 3) float32 in the data set's unit, `dataset.metres_per_unit` metres.
    faces: (F, 3) int32 triangles, or None where the data set's topology file is missing.
    subject, template: name of the face, and its neutral vertices (V, 3) float32.
    """

    vertices: NDArray[np.float32]
    fps: int
    faces: NDArray[np.int32] | None
    subject: str
    template: NDArray[np.float32]
    dataset: DatasetSpec
    recording: "Recording"

    def save(self, path: str | Path) -> Path:
        """Write `path`: vertices as .npy, or a video with sound as .mp4; returns the path.

        The software renderer draws the video. The file appears when it is whole. Raises
        `UserError` for another suffix, missing faces, and a file that cannot be written.
        """
        path = Path(path)
        if path.suffix not in (".npy", ".mp4"):
            raise UserError(f"output {path}: expected a name that ends in .npy or .mp4")
        writable_folder(path.parent)
        try:
            if path.suffix == ".mp4":
                self._save_video(path)
            else:
                with whole_file(path) as partial:
                    stream_npy(partial, self.vertices.shape, [self.vertices])
        except OSError as error:
            raise UserError(f"output {path}: cannot be written ({reason_of(error)})") from error
        return path

    def _save_video(self, path: Path) -> None:
        from rendering.face import appearance
        from rendering.renderer import Renderer
        from rendering.video import write_video

        if self.faces is None:
            raise UserError(f"{missing_faces(self.dataset)}, or save an .npy")
        colours = appearance(self.dataset, self.subject)
        renderer = Renderer(self.faces, self.template, **colours)
        pictures = renderer.frames(self.vertices, min(RENDER_THREADS, os.cpu_count() or 1))
        with self.recording.file() as sound:
            if path.exists() and path.samefile(sound):
                raise UserError(f"output {path}: would replace the recording; choose another name")
            write_video(path, pictures, len(self.vertices), self.fps, sound)


def check_fps(fps: int) -> int:
    """`fps` if it is a whole number from 1 to 240; else `ValueError`."""
    low, high = FPS_LIMITS
    if not (isinstance(fps, Real) and low <= fps <= high and fps % 1 == 0):
        raise ValueError(f"fps {fps}: expected a whole number from {low} to {high}")
    return int(fps)


def resample_motion(
    predicted: Iterator[NDArray], model_fps: int, fps: int, n_frames: int
) -> Iterator[NDArray]:
    """Yield `n_frames` meshes (V, 3) at `fps` from `predicted` meshes (V, 3) at `model_fps`.

    Vertices are interpolated linearly between the predicted frames. After the last of them its
    pose is held. One mesh is read ahead, so memory does not grow with the clip.
    """
    current = next(predicted)
    following, index = next(predicted, current), 0
    for frame in range(n_frames):
        whole, rest = divmod(frame * model_fps, fps)
        while index < whole:
            current, following, index = following, next(predicted, following), index + 1
        yield current if rest == 0 else current + np.float32(rest / fps) * (following - current)
