"""The frozen half of a training step: what the teacher hears of a batch, kept on disk if it can be.

B batch, S samples, A audio frames (50 Hz), C0 and C the widths of the encoder's convolutions and
of the teacher.
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
from files.cache import Cache, NoCache, model_key
from speech.pretrained import load_pretrained
from speech.timing import frame_lengths
from training.networks import Networks
from training.processes import Group

Sounds = Sequence[tuple[str, NDArray[np.float32]]]  # (key, normalised audio (S,)) of whole clips


class Heard(NamedTuple):
    """What does not change of a batch's audio, for it goes through frozen layers only."""

    conv: Tensor | None  # (B, A, C0) the encoder's convolutional features; None: not shared
    features: Tensor  # (B, A, C) of the teacher
    texts: list[Tensor]  # (n,) int64 characters a clip, as the teacher reads them


class Hearing:
    """The teacher at work, in an autocast of its own, its results on disk where clips are whole.

    folder: of the cache, None for none; dtype: what autocast computes in, float32 for none.
    `batch["keys"]` names whole, unchanged clips: each is heard by itself, with the cache or without
    it, so that both give the same values. Crops and augmented clips are heard as a batch, every
    time anew. The teacher and the encoder share their frozen convolutions while these are equal.
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
            self.cache = Cache(folder, {
                "what": "teacher's features and text; frozen convolutions if shared",
                "precision": str(dtype), "device": self.device.type, "torch": torch.__version__,
                "transformers": version("transformers"),
                "model": self.weights, "settings": self.teacher.model.config.to_json_string(),
            })  # fmt: skip
        self._round()

    def fill(self, sounds: Sounds, group: Group) -> None:
        """Hear every clip once, the ranks a share each, and let the teacher's weights go.

        They stay where the cache cannot hold everything. With a folder that all ranks see, each
        clip is heard by one of them; else each finds out what its folder lacks.
        """
        if isinstance(self.cache, NoCache):
            return
        shares = [range((group.rank + i) % group.world, len(sounds), group.world)
                  for i in range(group.world)]  # fmt: skip
        kept = self._keep(sounds, shares[0], group)
        group.gather(None)  # whoever comes first waits here, for then little is left to hear
        kept += self._keep(sounds, [index for share in shares[1:] for index in share], group)
        if all(kept):
            self.teacher.release_model()

    def _keep(self, sounds: Sounds, indices: Sequence[int], group: Group) -> list[bool]:
        """Have clips in the cache; which of them then are."""
        shown = group.is_first and len(indices) > 0
        kept = []
        for index in tqdm(indices, "teacher", leave=False, mininterval=5, disable=not shown):
            key, audio = sounds[index]
            if not self._is_kept(key):
                self._hear_clip(key, torch.from_numpy(audio)[None].to(self.device))
            kept.append(self._is_kept(key))
        return kept

    def _is_kept(self, key: str) -> bool:
        return all(f"{key} {kind}" in self.cache for kind in self.kinds)

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> Heard:
        """Hear a batch of `data_loader.collate` on the teacher's device."""
        audio, samples = batch["audio"], batch["audio_samples"]
        if "keys" not in batch:
            return self._hear(audio, None if int(samples.min()) == audio.shape[1] else samples)
        clips = [
            self._hear_clip(key, audio[i : i + 1, :n])
            for i, (key, n) in enumerate(zip(batch["keys"], samples.tolist(), strict=True))
        ]

        def joined(kind: str) -> Tensor:
            return pad_sequence([clip[kind] for clip in clips], batch_first=True).to(self.device)

        texts = [clip["text"].to(self.device) for clip in clips]
        return Heard(joined("conv") if self.shared else None, joined("features"), texts)

    @torch.no_grad()
    def _hear(self, audio: Tensor, lengths: Tensor | None) -> Heard:
        self._wake()
        teacher, lower = self.teacher, self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=lower):
            conv = teacher.convolve(audio, lengths)
            features, logits = teacher(audio, lengths, conv)
        texts = teacher.decode_text(logits, None if lengths is None else frame_lengths(lengths))
        return Heard(conv.float() if self.shared else None, features.float(), texts)

    def _hear_clip(self, key: str, audio: Tensor) -> dict[str, Tensor]:
        """Of one clip (1, S), by kind: conv (A, C0) if shared, features (A, C), both float32, text
        (n,) int64, from the cache or made."""
        made: list[Heard] = []

        def make(kind: str) -> NDArray:
            if not made:
                made.append(self._hear(audio, None))
            heard = made[0]._asdict() | {"text": made[0].texts}
            return heard[kind][0].cpu().numpy()

        found = {k: self.cache.get(f"{key} {k}", lambda k=k: make(k)) for k in self.kinds}
        return {kind: torch.from_numpy(array.copy()) for kind, array in found.items()}

    def _wake(self) -> None:
        """Load the teacher again if it was let go: the cache has lost an entry."""
        if self.teacher.model is not None:
            return
        print(f"warning: cache {self.cache.root}: lost what the teacher hears of a clip; it is "
              "loaded again", file=sys.stderr)  # fmt: skip
        with torch.random.fork_rng(devices=[]):  # training draws as if nothing had happened
            model = load_pretrained(self.source).to(self.device)
        if model_key(model) != self.weights:
            raise UserError(
                f"--wav2vec2 {self.source}: its weights changed while the run needed them (the "
                "cache has lost an entry); put them back, then --resume"
            )
        self.teacher.set_model(model)
        self._round()

    def _round(self) -> None:
        if self.dtype != torch.float32:
            self.teacher.round_weights(self.dtype)


def same_convolutions(teacher: nn.Module, encoder: nn.Module) -> bool:
    """Whether the encoder's convolutions are the teacher's: equal weights, none of them trained.

    Context layers behind them are trained; each network has its own.
    """
    theirs, ours = (net.kind.frozen_part(net.body) for net in (teacher, encoder))
    if theirs is None or ours is None or any(p.requires_grad for p in ours.parameters()):
        return False
    theirs, ours = theirs.state_dict(), ours.state_dict()
    same_names = theirs.keys() == ours.keys()
    return same_names and all(torch.equal(theirs[name], ours[name]) for name in ours)
