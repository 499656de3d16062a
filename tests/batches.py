"""What tests of batches share: a data set that counts what is loaded, and a walk over a plan."""

from torch.utils.data import Dataset

from dataset.batch_plan import BatchPlan


class Items(Dataset):
    """Items that return their epoch and index, and record which were loaded."""

    def __init__(self, n: int) -> None:
        self.n, self.epoch, self.loaded = n, 0, []

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self.n:
            raise IndexError(index)
        self.loaded.append(index)
        return self.epoch, index


def run_through(plan: BatchPlan) -> list[list[int]]:
    """The batches of the epoch without fillers: what is trained on."""
    batches = []
    for batch in plan:
        assert plan.counted in (0, len(batch))
        batches.append(batch if plan.counted else [])
        plan.advance()
    return batches
