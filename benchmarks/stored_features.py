"""Features of a frozen encoder, computed once for many models that are scored on the same clips."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.whole_file import whole_file
from files.cache import model_key
from speech.clip_audio import ClipAudio
from speech.timing import mesh_frames
from wav2vec import SpeechEncoder


def store_features(encoder: SpeechEncoder, folder: Path) -> None:
    """Let an encoder take what its kind's `reader` computes from files in a folder.

    Where a clip has no file yet, it is computed and stored, float32. One hour has 1.7 GB for
    Moonshine. The file's name depends on the samples, the frozen weights, the settings and the
    rate. An encoder without a frozen part stays as it is.
    """
    kind, frozen = encoder.kind, encoder.kind.frozen_part(encoder.body)
    if frozen is None:
        return
    plain, weights = kind.reader, f"{model_key(frozen)} {kind.changed_settings()}"

    def reader(body: nn.Module, audio: ClipAudio, fps: int, k: int) -> Callable[[int, int], Tensor]:
        samples = audio.read(0, len(audio))
        digest = hashlib.sha256(samples.numpy().tobytes())
        digest.update(f"{weights} {fps} {k}".encode())
        file = folder / f"{digest.hexdigest()[:32]}.npy"
        if not file.exists():
            features = plain(body, audio, fps, k)(0, mesh_frames(len(audio), fps) * k)
            with whole_file(file) as partial, partial.open("wb") as stream:
                np.save(stream, features.numpy())
        stored = torch.from_numpy(np.load(file))  # (1, n, C0)
        return lambda start, stop: stored[:, start:stop]

    folder.mkdir(parents=True, exist_ok=True)
    kind.reader = reader
