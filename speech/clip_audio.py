"""Audio of a clip of any length as tensors, part by part. S samples at 16 kHz."""

import torch
from torch import Tensor

from speech.stored_speech import StoredSpeech


class ClipAudio:
    """Audio (S,) with zero mean and unit variance, read in parts; silence before and after it.

    source: a tensor (S,), or stored speech. device: of the parts of stored speech; a tensor's stay
    on its own. first: sample of the source at which the clip begins.
    """

    def __init__(
        self, source: "Tensor | StoredSpeech", device: torch.device | None = None, first: int = 0
    ) -> None:
        self.source, self.device, self.first = source, device, first

    def __len__(self) -> int:
        return len(self.source) - self.first

    def after(self, n_samples: int) -> "ClipAudio":
        """The clip without its first samples."""
        return ClipAudio(self.source, self.device, self.first + n_samples)

    def read(self, start: int, stop: int) -> Tensor:
        """Samples (stop - start,) from `start` on, which may lie outside of the clip."""
        low, high = (min(max(at, 0), len(self)) for at in (start, stop))
        if isinstance(self.source, Tensor):
            part = self.source[self.first + low : self.first + high]
        else:
            part = torch.from_numpy(self.source.read(self.first + low, self.first + high))
            part = part.to(self.device)
        before = min(max(-start, 0), stop - start)
        return torch.nn.functional.pad(part, (before, stop - start - before - len(part)))


def as_clip(audio: "Tensor | ClipAudio") -> ClipAudio:
    """A `ClipAudio` of a tensor (S,); a `ClipAudio` itself."""
    return audio if isinstance(audio, ClipAudio) else ClipAudio(audio)
