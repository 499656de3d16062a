"""Features of a frozen encoder, computed once for many models that are scored on the same clips."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data_loader import key_of
from files.cache import Cache, model_key
from speech.clip_audio import ClipAudio
from speech.timing import mesh_frames
from wav2vec import SpeechEncoder


def store_features(encoder: SpeechEncoder, folder: Path) -> None:
    """Let an encoder take what its kind's `reader` computes from a `Cache` in a folder.

    Where a clip has no entry yet, it is computed and stored, float32. One hour has 1.7 GB for
    Moonshine. An encoder without a frozen part stays as it is.
    """
    kind, frozen = encoder.kind, encoder.kind.frozen_part(encoder.body)
    if frozen is None:
        return
    made_by = {"what": "features of clips", "encoder": model_key(frozen), **kind.changed_settings()}
    cache, plain = Cache(folder, made_by), kind.reader

    def reader(body: nn.Module, audio: ClipAudio, fps: int, k: int) -> Callable[[int, int], Tensor]:
        def features() -> np.ndarray:
            return plain(body, audio, fps, k)(0, mesh_frames(len(audio), fps) * k).numpy()

        samples = audio.read(0, len(audio)).numpy()
        stored = np.array(cache.get(f"{key_of(samples)} {fps} {k}", features))  # (1, n, C0)
        return lambda start, stop: torch.from_numpy(stored[:, start:stop])

    kind.reader = reader
