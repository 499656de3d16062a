"""The composition of batches, their distribution over processes, and the position in an epoch.

A `BatchPlan` lists the *global* batches of an epoch, a function of (seed, epoch) alone. Each
process (rank) takes its share of each, so N processes of `batch_size` clips take the same steps as
one process of N · `batch_size`. `BucketedBatches` groups clips of similar length to reduce padding.
`batch_loader` loads the batches of a plan.

Every rank takes the same number of steps and no clip is counted twice. If a global batch has fewer
clips than there are ranks, a rank without a clip loads the batch's first clip as a *filler*: it
keeps the ranks in step, and its loss has to be weighted with `counted`, which is 0.

In every epoch a run calls `set_epoch`, iterates, and calls `advance` after each batch it has used.
Workers read ahead, so only the run knows which batches were used. `state_dict` holds that position.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from torch.utils.data import Sampler

from common.errors import UserError

CHUNK_BATCHES = 64  # batches sorted by length together; more means less padding and less mixing
REMEDIES = {  # what a resumed run must have in common with the saved one -> the remedy
    "world": "start as many processes as before (torchrun --nproc_per_node, --nnodes)",
    "batch_size": "give the same --batch_size",
    "seed": "give the same --seed",
    "steps": "give the same --steps_per_epoch",
    "clips": "the training clips have changed: restore them, or start a new run",
}


class BatchPlan(Sampler[list[int]]):
    """One rank's share of every global batch of an epoch, as lists of indices.

    For DataLoader(batch_sampler=...). batch_size: clips per step on one rank; rank: this process,
    0 to world - 1. A subclass defines `global_batches` and `__len__`, the number of batches in an
    epoch, used or not. Public state: `epoch` and `position`, the number of batches already used.
    """

    def __init__(self, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if batch_size < 1 or not 0 <= rank < world:
            raise ValueError(
                f"batch_size {batch_size}, rank {rank} of {world}; expected batch_size >= 1 and "
                "0 <= rank < world"
            )
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.epoch = self.position = 0
        self._planned: list[list[int]] = []
        self._ends: list[int] = []  # clips before each planned batch, and the total

    def global_batches(self) -> list[list[int]]:
        """The batches of `self.epoch` for all ranks: at most batch_size · world clips each.

        A pure function of the seed, the epoch and the data, equal on every rank.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the epoch that have not been used yet."""
        batches = self._plan()[self.position :]
        return iter([share(batch, self.rank, self.world) or batch[:1] for batch in batches])

    @property
    def counted(self) -> int:
        """Number of clips in this rank's batch at `position`; 0 for a filler."""
        return len(share(self._plan()[self.position], self.rank, self.world))

    @property
    def clips(self) -> int:
        """Number of clips in the current epoch on all ranks, repeated draws included."""
        self._plan()
        return self._ends[-1]

    @property
    def clips_used(self) -> int:
        """Number of those clips that have been used."""
        self._plan()
        return self._ends[self.position]

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; the current epoch keeps its position.

        So a resumed run can call it for the epoch in which it was saved.
        """
        if epoch != self.epoch:
            self.epoch, self.position, self._planned = epoch, 0, []

    def advance(self) -> None:
        """Mark the batch at `position` as used."""
        if self.position >= len(self):
            raise ValueError(f"all {len(self)} batches of epoch {self.epoch} were used")
        self.position += 1

    def identity(self) -> dict[str, int | str]:
        """The values that must match for a saved position to be valid; keys as in REMEDIES."""
        return {"world": self.world, "batch_size": self.batch_size, "seed": self.seed}

    def state_dict(self) -> dict[str, int | str]:
        """Epoch, position and `identity`: plain numbers and strings, equal on every rank."""
        return {"epoch": self.epoch, "position": self.position, **self.identity()}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Restore epoch and position; raises `UserError` if `state` belongs to another run."""
        for name, current in self.identity().items():
            if (saved := state.get(name)) != current:
                raise UserError(
                    f"--resume: the state was saved with {name} {saved}, this run has {current}; "
                    f"{REMEDIES[name]}"
                )
        epoch, position = int(state["epoch"]), int(state["position"])
        if not 0 <= position <= len(self):
            raise ValueError(f"position {position} in an epoch of {len(self)} batches")
        self.epoch, self.position, self._planned = epoch, position, []

    def _plan(self) -> list[list[int]]:
        if not self._planned:
            self._planned = self.global_batches()
            self._ends = list(accumulate(map(len, self._planned), initial=0))
        return self._planned


class BucketedBatches(BatchPlan):
    """Batches of clips of similar length, each clip once per epoch.

    lengths: (clips,) > 0, in any unit (frames, samples), after cropping. shuffle: clips are drawn
    into chunks, sorted by length inside a chunk and cut into batches, which come in random order;
    without it all clips are sorted by length, in the same way every epoch. names: of the clips, to
    recognise a data set that has changed.

    steps > 0: an epoch has that many batches and clips are drawn repeatedly; draw k of clip i has
    the index k·clips + i, so that each draw gets its own crop.

    An epoch is cut evenly: global batches differ by at most one clip, so the last step is not
    nearly empty, and fillers occur only with one clip per rank.
    """

    def __init__(
        self,
        lengths: Sequence[float],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        steps: int = 0,
        names: Sequence[str] = (),
    ) -> None:
        super().__init__(batch_size, seed, rank, world)
        if steps and not shuffle:
            raise ValueError(f"steps {steps} without shuffle; expected shuffle=True or steps=0")
        self.steps, self.names = steps, tuple(names)
        self.lengths = np.asarray(lengths, dtype=np.float64)
        if self.lengths.ndim != 1 or not len(self.lengths) or not (self.lengths > 0).all():
            raise ValueError(f"lengths: shape {self.lengths.shape}, expected (clips,), all > 0")
        self.shuffle = shuffle

    def __len__(self) -> int:
        return self.steps or -(-len(self.lengths) // (self.batch_size * self.world))

    def global_batches(self) -> list[list[int]]:
        """See `BatchPlan.global_batches`; ascending in length inside a batch."""
        n_clips, n_batches = len(self.lengths), len(self)
        n_draws = self.steps * self.batch_size * self.world or n_clips
        edges = [i * n_draws // n_batches for i in range(n_batches + 1)]
        if not self.shuffle:
            order = np.argsort(self.lengths, kind="stable")
            return [order[a:b].tolist() for a, b in zip(edges, edges[1:], strict=False)]
        rng = np.random.default_rng((self.seed, self.epoch))
        passes = [first + rng.permutation(n_clips) for first in range(0, n_draws, n_clips)]
        order = np.concatenate(passes)[:n_draws]
        # At least two chunks, so that batches change between epochs in small data sets, too.
        n_chunks = max(-(-n_batches // CHUNK_BATCHES), min(2, n_batches))
        firsts = [edges[i * n_batches // n_chunks] for i in range(n_chunks + 1)]
        for first, last in zip(firsts, firsts[1:], strict=False):
            chunk = order[first:last]
            lengths = self.lengths[chunk % n_clips]
            order[first:last] = chunk[np.argsort(lengths, kind="stable")]
        batches = [order[a:b].tolist() for a, b in zip(edges, edges[1:], strict=False)]
        return [batches[i] for i in rng.permutation(n_batches)]

    def identity(self) -> dict[str, int | str]:
        """See `BatchPlan.identity`; clips are identified by number, lengths and names."""
        content = self.lengths.tobytes() + "\n".join(self.names).encode()
        digest = hashlib.sha256(content).hexdigest()[:12]
        identity = super().identity() | {"steps": len(self)}
        return identity | {"clips": f"{len(self.lengths)} of lengths {digest}"}


def share(batch: list[int], rank: int, world: int) -> list[int]:
    """The clips of a global batch for one rank: contiguous, sizes differ by at most one."""
    first, last = (-(-edge * len(batch) // world) for edge in (rank, rank + 1))
    return batch[first:last]
