"""Frozen features of takes, computed once and memory-mapped in training.

A frozen encoder gives the same features in every epoch. Random long recordings ("takes",
`synthetic.takes`) are made of the speech pool, and their features are kept as float16, with their
phones, loudness and noise. A training step then costs the decoder alone.

    python -m synthetic.feature_store --jobs 2     # optional: training computes what is missing
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from tqdm import tqdm

from common.errors import Parser, UserError, run_cli
from common.overrides import override, parse_settings
from config import RECIPES, SAMPLE_RATE, Recipe
from files.cache import Cache, model_key
from speech.audio import normalise
from speech.kinds import kind_of
from speech.pretrained import load_body
from synthetic.phones import PHONE_INDEX, PHONES, Segment
from synthetic.speech import SpeechPool, clips_of_pool
from synthetic.speech_pool import index_digest
from synthetic.takes import Take, draw_take

TAKE_S = 40.0
VERSION = 1  # raise it when takes change: all of them are computed again
SEED = 1  # of the takes, whatever the seed of a training
FIRST_SHARE = 0.15  # of the crops: their sound is the beginning of a recording


@dataclass(frozen=True)
class CachedTake:
    """A take of which the audio is known by its features alone."""

    states: NDArray[np.float16]  # (N, C0) at the encoder's own frames
    segments: list[Segment]
    loudness: NDArray[np.float32]  # (n,) at LOUDNESS_HZ
    noise_db: NDArray[np.float32]  # (n,) at LOUDNESS_HZ: `take_sound.noise_level`


class FeatureStore:
    """Takes 0 to n - 1 of a speech pool with an encoder's features, in a folder beside the pool.

    pool: folder of the pool; source: folder or hub name of the encoder. Raises `UserError` when
    there is no pool, or when the encoder has no frozen features.
    """

    def __init__(self, pool: Path, source: str) -> None:
        clips_of_pool(pool)  # raises before the encoder is loaded
        self.pool_folder, self.source = pool, source
        self.body = load_body(source).eval()
        self.kind = kind_of(self.body.config.model_type)(self.body.config)
        frozen = self.kind.frozen_part(self.body)
        if frozen is None:
            raise UserError(
                f"--encoder {source}: its features are not frozen, so they cannot be cached; "
                "give synthetic/encoder"
            )
        self._pool: SpeechPool | None = None
        self.cache = Cache(pool.parent / f"{pool.name}_features", {
            "what": "features of takes", "version": VERSION, "seconds": TAKE_S, "seed": SEED,
            "pool": index_digest(pool), "encoder": model_key(frozen),
            **self.kind.changed_settings(),
        })  # fmt: skip

    @property
    def pool(self) -> SpeechPool:
        """The pool, read when the first take is made."""
        if self._pool is None:
            self._pool = SpeechPool(self.pool_folder)
        return self._pool

    def draw(self, number: int) -> Take:
        """Take `number`, with its audio; a function of the pool alone."""
        return draw_take(self.pool, np.random.default_rng((SEED, number)), TAKE_S)

    def __getitem__(self, number: int) -> CachedTake:
        """Take `number` with its features, computed if they are not in the folder."""
        drawn: list[Take] = []

        def take() -> Take:
            if not drawn:
                drawn.append(self.draw(number))
            return drawn[0]

        states = self.cache.get(f"{number} states", lambda: self._states(take().audio))
        rows = self.cache.get(f"{number} segments", lambda: _rows(take().segments))
        loudness = self.cache.get(f"{number} loudness", lambda: take().loudness)
        noise_db = self.cache.get(f"{number} noise", lambda: take().noise_db)
        segments = [Segment(PHONES[int(phone)], start, end) for phone, start, end in rows]
        return CachedTake(states, segments, loudness, noise_db)

    def stretch(self, take: CachedTake, rng: Generator, n_samples: int) -> tuple[NDArray, float]:
        """States (N, C0) of a random stretch of n_samples of a take, and its start in seconds.

        `FIRST_SHARE` of the stretches begin with the take: nothing precedes the first frames of a
        recording, so their features differ from all others.
        """
        n = self.kind.native_lengths(n_samples)
        is_first = rng.random() < FIRST_SHARE
        first = 0 if is_first else int(rng.integers(len(take.states) - n + 1))
        return np.array(take.states[first : first + n]), first * self.kind.stride / SAMPLE_RATE

    def is_cached(self, number: int) -> bool:
        """Whether take `number` is in the folder: its noise is written last."""
        return f"{number} noise" in self.cache

    def check(self, numbers: Sequence[int]) -> None:
        """Verify the checksums of takes; a damaged one is computed again.

        Processes that are started afterwards do not read whole takes to verify them once more.
        """
        for number in tqdm(numbers, desc="checking takes", unit="take", leave=False):
            self[number]

    @torch.no_grad()
    def _states(self, audio: NDArray[np.float32]) -> NDArray[np.float16]:
        tensor = torch.from_numpy(normalise(audio))[None]
        return self.kind.convolve(self.body, tensor)[0].numpy().astype(np.float16)


def fill(store: FeatureStore, numbers: Sequence[int], jobs: int) -> None:
    """Compute the takes of `numbers` that `store` lacks, in at most `jobs` processes."""
    missing = [number for number in numbers if not store.is_cached(number)]
    if not missing:
        return
    jobs = min(jobs, len(missing))
    with tqdm(total=len(numbers), initial=len(numbers) - len(missing), unit="take",
              desc="features of takes") as bar:  # fmt: skip
        if jobs == 1:
            for number in missing:
                store[number]
                bar.update()
            return
        context = multiprocessing.get_context("spawn")
        arguments = (store.pool_folder, store.source)
        with ProcessPoolExecutor(jobs, context, _open_in_worker, arguments) as executor:
            for _ in executor.map(_compute_in_worker, missing):
                bar.update()


_STORE: list[FeatureStore] = []  # of a worker process


def _open_in_worker(pool: Path, source: str) -> None:
    torch.set_num_threads(1)
    _STORE.append(FeatureStore(pool, source))


def _compute_in_worker(number: int) -> None:
    _STORE[0][number]


def _rows(segments: Sequence[Segment]) -> NDArray[np.float64]:
    """(n, 3): index of the phone, start and end in seconds."""
    return np.array([(PHONE_INDEX[phone], start, end) for phone, start, end in segments])


def store_of(recipe: Recipe) -> FeatureStore:
    """The store of a recipe: its pool and its encoder."""
    spec = recipe.dataset
    return FeatureStore(spec.path(spec.speech_pool), recipe.wav2vec2)


def main(argv: Sequence[str] | None = None) -> None:
    """Fill the store of the synthetic recipe."""
    args = _parser().parse_args(argv)
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: expected at least 1")
    recipe = override(RECIPES["synthetic"], parse_settings(args.set))
    store = store_of(recipe)
    fill(store, range(recipe.train.takes), args.jobs)
    print(f"{store.cache.folder}: {recipe.train.takes} takes of {TAKE_S:g} s")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m synthetic.feature_store", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="as of main.py")
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
