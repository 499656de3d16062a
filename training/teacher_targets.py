"""The teacher's targets for a batch: its features and text, cached on disk where clips are whole.

B batch, S samples, A audio frames (50 Hz), N frames of the encoder's frozen part, C0 their width, C
that of the teacher.
"""

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from common.errors import UserError
from data_loader import Sounds
from files.cache import Cache, NoCache, model_key
from speech.pretrained import load_pretrained
from speech.timing import frame_lengths
from training.networks import Networks
from training.processes import Group


class TeacherTargets(NamedTuple):
    """What frozen layers compute from a batch's audio."""

    conv: Tensor | None  # (B, N, C0) of the encoder's frozen part; None: not shared
    features: Tensor  # (B, A, C) of the teacher
    texts: list[Tensor]  # (n,) int64 characters of each clip, on the host


class TargetSource:
    """Computes targets in an autocast of its own, and caches those of whole, unchanged clips.

    folder: of the cache, None for none; dtype: of autocast, float32 for none. Clips that
    `batch["keys"]` names are computed one by one, with the cache or without it, so that both give
    the same values; crops and augmented clips are computed as a batch, every time. Teacher and
    encoder share their frozen convolutions while the weights are equal.
    """

    def __init__(
        self, nets: Networks, folder: str | None, dtype: torch.dtype = torch.float32
    ) -> None:
        self.teacher, self.source, self.dtype = nets.teacher, nets.source, dtype
        self.device = next(self.teacher.parameters()).device
        self.shared = same_convolutions(self.teacher, nets.model.encoder)
        self.kinds = (("conv",) if self.shared else ()) + ("features", "text")
        self.cache: Cache | NoCache = NoCache()
        if folder:
            self.weights = model_key(self.teacher.model)  # before they are rounded
            rounded = {} if self.teacher.kind.transformer_is_trained else {"states": "float16"}
            self.cache = Cache(folder, {  # another value in here is another cache
                "what": "teacher's features and text; frozen convolutions if shared",
                "precision": str(dtype), "device": self.device.type, "torch": torch.__version__,
                "transformers": version("transformers"),
                "model": self.weights, "settings": self.teacher.model.config.to_json_string(),
                **rounded,
            })  # fmt: skip
        self._round_weights()

    def precompute(self, sounds: Sounds, group: Group) -> None:
        """Cache the targets of all clips and, if the cache holds them all, free the teacher.

        Each process computes its share of the clips, waits for the others, and then computes what
        its own folder still lacks: nothing where all share one folder.
        """
        if isinstance(self.cache, NoCache):
            return
        shares = [range((group.rank + i) % group.world, len(sounds), group.world)
                  for i in range(group.world)]  # fmt: skip
        others = [index for share in shares[1:] for index in share]
        own_cached = self._cache_clips(sounds, shares[0], group)
        group.gather(None)  # a barrier
        if self._cache_clips(sounds, others, group) and own_cached:
            self.teacher.free_model()

    def _cache_clips(self, sounds: Sounds, indices: Sequence[int], group: Group) -> bool:
        """Compute what the cache lacks of some clips; whether it then holds all of them."""
        quiet = not (group.is_first and len(indices) > 0)
        complete = True
        for index in tqdm(indices, "teacher", leave=False, mininterval=5, disable=quiet):
            key, audio = sounds[index]
            if not self._is_cached(key):
                self._clip_targets(key, torch.from_numpy(audio)[None].to(self.device))
            complete &= self._is_cached(key)
        return complete

    def _is_cached(self, key: str) -> bool:
        return all(f"{key} {kind}" in self.cache for kind in self.kinds)

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> TeacherTargets:
        """Targets of a batch of `data_loader.collate`; its audio is on the teacher's device."""
        audio, samples = batch["audio"], batch["audio_samples"]
        if "keys" not in batch:
            lengths = None if int(samples.min()) == audio.shape[1] else samples
            return self._compute(audio, lengths, batch.get("conv"))
        clips = [
            self._clip_targets(key, audio[i : i + 1, :n])
            for i, (key, n) in enumerate(zip(batch["keys"], samples.tolist(), strict=True))
        ]

        def padded(kind: str) -> Tensor:
            return pad_sequence([clip[kind] for clip in clips], batch_first=True).to(self.device)

        texts = [clip["text"] for clip in clips]
        return TeacherTargets(padded("conv") if self.shared else None, padded("features"), texts)

    @torch.no_grad()
    def _compute(
        self, audio: Tensor, lengths: Tensor | None, conv: Tensor | None = None
    ) -> TeacherTargets:
        """Targets of audio (B, S); lengths: (B,) samples of each clip, None where all have S.

        conv: (B, N, C0) of `TextTeacher.convolve` where they are known. Raises `UserError` where
        they are, but the network has other frozen weights.
        """
        if conv is not None and not self.shared:
            raise UserError(
                f"--encoder {self.source}: the features of takes are cached with its frozen "
                "weights, and the network has others; give the encoder that the model of --init "
                "was trained with, or --set train.takes=0"
            )
        self._reload_teacher()
        teacher, lower = self.teacher, self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=lower):
            conv = teacher.convolve(audio, lengths) if conv is None else conv.float()
            features, logits = teacher(audio, lengths, conv)
        frames = None if lengths is None else frame_lengths(lengths)
        texts = teacher.decode_text(logits, frames)
        return TeacherTargets(conv.float() if self.shared else None, features.float(), texts)

    def _clip_targets(self, key: str, audio: Tensor) -> dict[str, Tensor]:
        """Targets of one clip (1, S), cached or computed, by kind: conv (N, C0) if shared, features
        (A, C), both float32, and text (n,) int64. All the states of a frozen transformer are
        rounded to float16, which halves the cache and changes features by less than 0.1 %."""
        computed: list[TeacherTargets] = []  # at most once for all kinds

        def compute(kind: str) -> NDArray:
            if not computed:
                computed.append(self._compute(audio, None))
            by_kind = computed[0]._asdict() | {"text": computed[0].texts}
            array = by_kind[kind][0].cpu().numpy()
            return array.astype(np.float16) if kind == "conv" and is_frozen else array

        is_frozen = not self.teacher.kind.transformer_is_trained
        arrays = {k: self.cache.get(f"{key} {k}", lambda k=k: compute(k)) for k in self.kinds}
        tensors = {kind: torch.from_numpy(array.copy()) for kind, array in arrays.items()}
        return tensors | ({"conv": tensors["conv"].float()} if self.shared else {})

    def _reload_teacher(self) -> None:
        """Load the teacher again if it was freed: the cache has lost an entry."""
        if self.teacher.model is not None:
            return
        print(f"warning: cache {self.cache.root}: targets of a clip are missing; the teacher is "
              "loaded again", file=sys.stderr)  # fmt: skip
        with torch.random.fork_rng(devices=[]):  # loading must not change what training draws
            model = load_pretrained(self.source).to(self.device)
        if model_key(model) != self.weights:
            raise UserError(
                f"--encoder {self.source}: its weights changed during the run and are needed "
                "again, since the cache has lost an entry; restore them, then --resume"
            )
        self.teacher.set_model(model)
        self._round_weights()

    def _round_weights(self) -> None:
        if self.dtype != torch.float32:
            self.teacher.round_weights(self.dtype)


def same_convolutions(teacher: nn.Module, encoder: nn.Module) -> bool:
    """Whether the encoder's convolutions are the teacher's: equal weights, none of them trained."""
    theirs, ours = (net.kind.frozen_part(net.body) for net in (teacher, encoder))
    if theirs is None or ours is None or any(p.requires_grad for p in ours.parameters()):
        return False
    theirs, ours = theirs.state_dict(), ours.state_dict()
    same_names = theirs.keys() == ours.keys()
    return same_names and all(torch.equal(theirs[name], ours[name]) for name in ours)
