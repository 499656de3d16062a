"""Audio of a clip of any length as tensors, part by part. S samples at 16 kHz."""

import torch
from torch import Tensor

from speech.stored_speech import StoredSpeech


class ClipAudio:
    """Audio (S,) with zero mean and unit variance, read in parts; silence before and after it.

    source: a tensor (S,), or stored speech. device: of the parts of stored speech; a tensor's stay
    on its own. first: sample of the source at which the clip begins; a negative one lies in the
    silence before it.
    """

    def __init__(
        self, source: "Tensor | StoredSpeech", device: torch.device | None = None, first: int = 0
    ) -> None:
        self.source, self.device, self.first = source, device, first

    def __len__(self) -> int:
        return len(self.source) - self.first

    def after(self, n_samples: int) -> "ClipAudio":
        """The clip without its first samples; -n: with n samples of silence before it."""
        return ClipAudio(self.source, self.device, self.first + n_samples)

    def read(self, start: int, stop: int) -> Tensor:
        """Samples (stop - start,) from `start` on, which may lie outside of the clip."""
        begin = max(self.first, 0)
        low, high = (
            min(max(self.first + at, begin), len(self.source)) for at in (start, stop)
        )  # of the source
        if isinstance(self.source, Tensor):
            part = self.source[low:high]
        else:
            part = torch.from_numpy(self.source.read(low, high)).to(self.device)
        before = min(max(begin - self.first - start, 0), stop - start)
        return torch.nn.functional.pad(part, (before, stop - start - before - len(part)))


def as_clip(audio: "Tensor | ClipAudio") -> ClipAudio:
    """A `ClipAudio` of a tensor (S,); a `ClipAudio` itself."""
    return audio if isinstance(audio, ClipAudio) else ClipAudio(audio)
