"""The network and training of one recipe, applied to another data set (`--base`)."""

import dataclasses

from config import DatasetSpec, Recipe
from speech.timing import AUDIO_FPS


def with_base(spec: DatasetSpec, base: Recipe) -> Recipe:
    """A recipe for the data set `spec` with the network, encoder and training of `base`.

    Where the frame rates differ, k frames are folded into one so that the encoder runs at 50 Hz or
    a little below (fps·k <= 50), as in the paper's BIWI recipe. Where `base` trains on crops of
    takes and the data set has no pool for these, clips are used whole, so that the frozen features
    of each are computed once and cached.
    """
    model, train = base.model, base.train
    if train.takes and not spec.speech_pool:
        train = dataclasses.replace(train, takes=0, max_clip_s=0.0, noisy_gain=0.0)
    fold = model.fold if spec.fps == model.fps else max(1, AUDIO_FPS // spec.fps)
    model = dataclasses.replace(
        model,
        n_vertices=spec.n_vertices,
        fps=spec.fps,
        fold=fold,
        vertex_rank=min(model.vertex_rank, 3 * spec.n_vertices),
        units_per_metre=1.0 / spec.metres_per_unit,
    )
    if not spec.inner_lips:
        train = dataclasses.replace(train, closure_gain=0.0, noisy_gain=0.0, w_open=0.0)
    return Recipe(dataset=spec, model=model, train=train, wav2vec2=base.wav2vec2)
