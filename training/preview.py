"""What a network says so far, to look at: a validation clip, the recording beside the prediction.

`<run>/previews/epoch_0010.mp4` with the clip's sound, and a strip of stills for TensorBoard. Both
faces are drawn by one renderer, so light and camera are the same.
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

FOLDER = "previews"
SECONDS = 4.0  # of the clip, at most
SIZE = 400  # pixels, a side of either picture
STILLS = 6


class Unwanted(Exception):
    """The run is to stop: what there is of a film is not worth its time."""


class Previews:
    """The films of a run, of the first validation clip.

    clips: items as `data_loader.MeshSpeechDataset` gives them; folder: the run's; say: prints a
    line; size: pixels a side of either picture. A run never ends for want of a film: what stands in
    the way is said, and the film left out. A missing topology is said once, here.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        clips: Dataset,
        folder: Path,
        say: Callable[[str], Any] = print,
        size: int = SIZE,
    ) -> None:
        self.spec, self.clips, self.folder, self.say = spec, clips, folder / FOLDER, say
        self.size, self.renderer = size, None
        self.possible = bool(spec.topology) and spec.path(spec.topology).exists()
        if not self.possible:
            lack = f"no such file {spec.topology}" if spec.topology else "it names no topology"
            say(f"no previews: {spec.name} has no triangles to draw: {lack}")

    def add(
        self,
        model: JambaTalk,
        epoch: int,
        events: Any,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> Path | None:
        """Write the film of an epoch and show its stills in `events`, a SummaryWriter; the film.

        None where it cannot be made, or once `unwanted` says so. The model is left in evaluation
        mode.
        """
        self.unwanted = unwanted
        if not self.possible or unwanted():
            return None
        path = self.folder / f"epoch_{epoch:04d}.mp4"
        try:
            stills = self._film(model, path)
        except Unwanted:
            return None
        except (UserError, OSError) as error:
            self.say(f"warning: epoch {epoch}: no preview: {error}")
            return None
        events.add_image("preview", stills, epoch, dataformats="HWC")
        return path

    def _film(self, model: JambaTalk, path: Path) -> NDArray[np.uint8]:
        """Write the film; returns the stills, see `strip`."""
        clip, spec = self.clips[0], self.spec
        truth, predicted = both(model, clip, round(SECONDS * spec.fps))
        self.renderer = self.renderer or self._make_renderer(clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen = np.linspace(0, len(truth) - 1, min(STILLS, len(truth))).round().astype(int)
        kept: dict[int, NDArray] = {}
        frames = keep(self._pairs(truth, predicted), set(chosen.tolist()), kept)
        sound = find_audio(spec.path(spec.root), clip["name"])
        write_video(path, frames, len(truth), spec.fps, sound)
        return strip([kept[index] for index in chosen])

    def _make_renderer(self, clip: dict[str, Any]) -> Renderer:
        spec, template = self.spec, clip["template"]
        faces = faces_of(spec)
        if faces.max() >= len(template):
            raise UserError(
                f"topology {spec.topology}: triangles of vertex {faces.max()}, the data have "
                f"{len(template)} vertices; it is another mesh's"
            )
        return Renderer(faces, template, self.size, **appearance(spec, clip["subject"]))

    def _pairs(self, truth: NDArray, predicted: NDArray) -> Iterator[NDArray[np.uint8]]:
        """Pictures (H, 2H, 3): the recorded face, the predicted one on its right."""
        for pair in zip(truth, predicted, strict=True):
            if self.unwanted():
                raise Unwanted
            yield np.concatenate([self.renderer.frame(mesh) for mesh in pair], axis=1)


@torch.no_grad()
def both(model: JambaTalk, clip: dict[str, Any], n_frames: int) -> tuple[NDArray, NDArray]:
    """The first frames of a clip, (T, V, 3) each: as recorded, and as the model says them.

    T: at most `n_frames`. The model hears the whole clip, as in validation.
    """
    model.eval()
    device = next(model.parameters()).device
    audio, template = (torch.from_numpy(clip[name]).to(device) for name in ("audio", "template"))
    predicted = model.predict(audio, template)[: min(n_frames, clip["frames"])].cpu().numpy()
    return clip["vertices"][: len(predicted)], predicted


def keep(frames: Iterator[NDArray], wanted: set[int], kept: dict[int, NDArray]) -> Iterator:
    """`frames` as they come; those with an index in `wanted` are put into `kept` on their way."""
    for index, frame in enumerate(frames):
        if index in wanted:
            kept[index] = frame
        yield frame


def strip(pairs: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures (H, 2H, 3) as (2H, n·H, 3): the left halves above, the right halves below."""
    rows = [np.concatenate(halves, axis=1) for halves in zip(*map(_halves, pairs), strict=True)]
    return np.concatenate(rows, axis=0)


def _halves(pair: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    middle = pair.shape[1] // 2
    return pair[:, :middle], pair[:, middle:]
