"""Previews during training: a video of a validation clip, recording and prediction side by side.

`<run>/previews/epoch_0010.mp4` has the clip's sound; TensorBoard gets a strip of stills. Both faces
are drawn by one renderer, so that light and camera are the same.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.errors import UserError
from config import DatasetSpec
from dataset.clip_files import find_audio
from dataset.faces import faces_of
from jambatalk import JambaTalk
from rendering.face import appearance
from rendering.renderer import Renderer
from rendering.video import write_video
from training.event_file import EventFile

FOLDER = "previews"
SECONDS = 4.0  # of the clip, at most
SIZE = 400  # pixels, a side of either picture
STILLS = 6


class PreviewStopped(Exception):
    """Raised while a preview is drawn, when the run has received a stop request."""


class Previews:
    """The previews of a run, of the first validation clip.

    clips: items of `data_loader.MeshSpeechDataset`; folder: the run's. A preview that cannot be
    made is skipped with a warning: it never ends a run.
    """

    def __init__(self, spec: DatasetSpec, clips: Dataset, folder: Path) -> None:
        self.spec, self.clips, self.folder = spec, clips, folder / FOLDER
        self.renderer: Renderer | None = None  # made for the first preview
        self.possible = bool(spec.topology) and spec.path(spec.topology).exists()
        if not self.possible:
            reason = f"no such file {spec.topology}" if spec.topology else "no topology is named"
            print(f"no previews: {spec.name} has no triangles to draw: {reason}")

    def add(
        self,
        model: JambaTalk,
        epoch: int,
        events: EventFile,
        stop_requested: Callable[[], bool],
    ) -> Path | None:
        """Write the video of an epoch and add its stills to `events`.

        Returns the video's path, None where it cannot be made or once `stop_requested` is true.
        The model is left in evaluation mode.
        """
        if not self.possible or stop_requested():
            return None
        path = self.folder / f"epoch_{epoch:04d}.mp4"
        try:
            stills = self._write(model, path, stop_requested)
            events.add_picture("preview", stills, epoch)
        except PreviewStopped:
            return None
        except (UserError, OSError) as error:
            print(f"warning: epoch {epoch}: no preview: {error}")
            return None
        return path

    def _write(
        self, model: JambaTalk, path: Path, stop_requested: Callable[[], bool]
    ) -> NDArray[np.uint8]:
        """Write the video; returns its stills, see `strip`."""
        clip, spec = self.clips[0], self.spec
        truth, predicted = recorded_and_predicted(model, clip, round(SECONDS * spec.fps))
        self.renderer = self.renderer or self._make_renderer(clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = np.linspace(0, len(truth) - 1, min(STILLS, len(truth))).round().astype(int)
        stills: dict[int, NDArray] = dict.fromkeys(chosen.tolist())
        frames = copy_stills(self._pairs(truth, predicted, stop_requested), stills)
        sound = find_audio(spec.path(spec.root), clip["name"])
        write_video(path, frames, len(truth), spec.fps, sound)
        return strip(list(stills.values()))

    def _make_renderer(self, clip: dict[str, Any]) -> Renderer:
        spec, template = self.spec, clip["template"]
        return Renderer(faces_of(spec), template, SIZE, **appearance(spec, clip["subject"]))

    def _pairs(
        self, truth: NDArray, predicted: NDArray, stop_requested: Callable[[], bool]
    ) -> Iterator[NDArray[np.uint8]]:
        """Pictures (H, 2H, 3): the recorded face, the predicted one on its right."""
        for pair in zip(truth, predicted, strict=True):
            if stop_requested():
                raise PreviewStopped
            yield np.concatenate([self.renderer.frame(mesh) for mesh in pair], axis=1)


@torch.no_grad()
def recorded_and_predicted(
    model: JambaTalk, clip: dict[str, Any], n_frames: int
) -> tuple[NDArray, NDArray]:
    """The first T <= n_frames frames of a clip, (T, V, 3) each: as recorded and as predicted.

    The prediction is made from the whole clip, as in validation.
    """
    model.eval()
    device = next(model.parameters()).device
    audio, template = (torch.from_numpy(clip[name]).to(device) for name in ("audio", "template"))
    predicted = model.predict(audio, template, clip["subject"])
    predicted = predicted[: min(n_frames, clip["frames"])].cpu().numpy()
    return clip["vertices"][: len(predicted)], predicted


def copy_stills(frames: Iterator[NDArray], stills: dict[int, NDArray]) -> Iterator[NDArray]:
    """Yield all frames; those whose index is a key of `stills` are put there."""
    for index, frame in enumerate(frames):
        if index in stills:
            stills[index] = frame
        yield frame


def strip(pairs: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """n pictures (H, 2H, 3) as one (2H, n·H, 3): left halves above, right halves below."""
    rows = [np.concatenate(halves, axis=1) for halves in zip(*map(_halves, pairs), strict=True)]
    return np.concatenate(rows, axis=0)


def _halves(pair: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    middle = pair.shape[1] // 2
    return pair[:, :middle], pair[:, middle:]
