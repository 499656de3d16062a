"""Which clips make which batch, on which process, and how far a run has come in an epoch.

A `BatchPlan` lists the *global* batches of an epoch from (seed, epoch) alone; of each of them
every process (rank) takes its share, so that N processes of `batch_size` clips see, step for step,
the batches of one process of N · `batch_size`. `BucketedBatches` puts clips of similar length
together, so that little of a batch is padding. `batch_loader` loads what a plan says.

Every rank takes the same number of steps and no clip is counted twice. Where a global batch has
fewer clips than there are ranks, a rank without one loads the batch's first clip as a *filler*: it
keeps the ranks in step and `counted` is 0, the weight that its loss has to have.

A run calls, every epoch, `set_epoch`, iterates, and calls `advance` after every batch it has used.
Workers read ahead, so only the run knows what was used; `state_dict` holds just that.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from torch.utils.data import Sampler

from common.errors import UserError

CHUNK_BATCHES = 64  # batches that are sorted by length together: more pad less and mix less
REMEDIES = {  # what two halves of one run must share, and what to do where they do not
    "world": "start as many processes as before (torchrun --nproc_per_node, --nnodes)",
    "batch_size": "give the same --batch_size",
    "seed": "give the same --seed",
    "steps": "give the same --steps_per_epoch",
    "clips": "the training clips are others than then: restore them, or start a new run",
}


class BatchPlan(Sampler[list[int]]):
    """The share of one rank in every global batch of an epoch, as lists of indices.

    For DataLoader(batch_sampler=...). batch_size: clips a step on one rank; rank: this process,
    0 to world - 1. A subclass says what the global batches of `self.epoch` are, and in `__len__`
    how many an epoch has, used or not. Public state: `epoch`, and `position`, the number of its
    batches that were used.
    """

    def __init__(self, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if batch_size < 1 or not 0 <= rank < world:
            raise ValueError(f"batch_size {batch_size}, rank {rank} of {world}")
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.epoch = self.position = 0
        self._planned: list[list[int]] = []
        self._ends: list[int] = []  # clips before each of the planned batches, and in all

    def global_batches(self) -> list[list[int]]:
        """The batches of `self.epoch`, all ranks together: at most batch_size · world clips each.

        A pure function of the seed, the epoch and the data, the same on every rank.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the epoch that were not used yet."""
        batches = self._plan()[self.position :]
        return iter([share(batch, self.rank, self.world) or batch[:1] for batch in batches])

    @property
    def counted(self) -> int:
        """Clips of this rank's batch at `position` that count: 0 when it is a filler."""
        return len(share(self._plan()[self.position], self.rank, self.world))

    @property
    def clips(self) -> int:
        """Clips of the epoch at hand, all ranks together, each as often as it is drawn."""
        self._plan()
        return self._ends[-1]

    @property
    def clips_used(self) -> int:
        """Those of them that were used."""
        self._plan()
        return self._ends[self.position]

    def set_epoch(self, epoch: int) -> None:
        """Stand at the start of an epoch; the epoch at hand keeps its position.

        So a resumed run enters the epoch that it was in as any other.
        """
        if epoch != self.epoch:
            self.epoch, self.position, self._planned = epoch, 0, []

    def advance(self) -> None:
        """Count the batch at `position` as used."""
        if self.position >= len(self):
            raise ValueError(f"all {len(self)} batches of epoch {self.epoch} were used")
        self.position += 1

    def identity(self) -> dict[str, int | str]:
        """What must be equal for a saved position to mean the same; names as in REMEDIES."""
        return {"world": self.world, "batch_size": self.batch_size, "seed": self.seed}

    def state_dict(self) -> dict[str, int | str]:
        """Epoch, position and `identity`: plain numbers and strings, the same on every rank."""
        return {"epoch": self.epoch, "position": self.position, **self.identity()}

    def load_state_dict(self, state: dict[str, int | str]) -> None:
        """Stand where `state` says; raises `UserError` when it is of another kind of run."""
        for name, mine in self.identity().items():
            if (saved := state.get(name)) != mine:
                raise UserError(
                    f"--resume: the state was saved with {name} {saved}, this run has {mine}; "
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
    """Batches of clips of similar length, each clip once an epoch.

    lengths: one number a clip, > 0, in any unit (frames, samples): what the network will see, so
    cropped clips count their crop. Shuffled, clips are drawn into chunks, sorted by length inside
    a chunk and cut into batches, which come in random order. Not shuffled, all are sorted by
    length, the same every epoch.

    steps > 0: an epoch has that many batches, whatever the number of clips, which are drawn again
    and again; draw k of clip i has the index k·clips + i, so that each gets a crop of its own.

    An epoch is cut evenly: global batches differ by one clip at most, so no step has a stray clip
    or two, and a filler is only ever needed with one clip a rank.
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
            raise ValueError(f"{steps} steps an epoch are drawn; they come shuffled")
        self.steps, self.names = steps, tuple(names)
        self.lengths = np.asarray(lengths, dtype=np.float64)
        if self.lengths.ndim != 1 or not len(self.lengths) or not (self.lengths > 0).all():
            raise ValueError(f"lengths: shape {self.lengths.shape}; wanted (clips,), all > 0")
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
        # Two chunks at least: in a small data set, too, the company of a clip has to change.
        n_chunks = max(-(-n_batches // CHUNK_BATCHES), min(2, n_batches))
        firsts = [edges[i * n_batches // n_chunks] for i in range(n_chunks + 1)]
        for first, last in zip(firsts, firsts[1:], strict=False):
            chunk = order[first:last]
            lengths = self.lengths[chunk % n_clips]
            order[first:last] = chunk[np.argsort(lengths, kind="stable")]
        batches = [order[a:b].tolist() for a, b in zip(edges, edges[1:], strict=False)]
        return [batches[i] for i in rng.permutation(n_batches)]

    def padding_share(self) -> float:
        """Share of what all ranks load in this epoch that is padding (or filler), 0 to 1."""
        loaded = counted = 0.0
        for batch in self._plan():
            for rank in range(self.world):
                mine = np.array(share(batch, rank, self.world) or batch[:1]) % len(self.lengths)
                loaded += len(mine) * self.lengths[mine].max()
            counted += self.lengths[np.array(batch) % len(self.lengths)].sum()
        return 1.0 - counted / loaded

    def identity(self) -> dict[str, int | str]:
        """See `BatchPlan.identity`; the clips are told by number, lengths and names."""
        told = self.lengths.tobytes() + "\n".join(self.names).encode()
        digest = hashlib.sha256(told).hexdigest()[:12]
        identity = super().identity() | {"steps": len(self)}
        return identity | {"clips": f"{len(self.lengths)} of lengths {digest}"}


def share(batch: list[int], rank: int, world: int) -> list[int]:
    """The part of a global batch that is a rank's: neighbours, sizes differ by one at most."""
    first, last = (-(-edge * len(batch) // world) for edge in (rank, rank + 1))
    return batch[first:last]
