"""Parts of a list of recordings, for job arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError
from production.jobs import Job


@dataclass(frozen=True)
class Shard:
    """Part `number`, from 1, of `count` parts of a list of recordings."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}of{self.count}"

    def jobs(self, jobs: Sequence[Job]) -> tuple[Job, ...]:
        """Every `count`-th of the jobs, sorted by recording; shards differ by at most one job."""
        in_order = sorted(jobs, key=lambda job: str(job.recording))
        return tuple(in_order[self.number - 1 :: self.count])


def shard_of(text: str | None) -> Shard | None:
    """The shard of --shard, None without it. Raises `UserError`."""
    if text is None:
        return None
    numbers = [int(part) for part in text.split("/") if part.isdecimal()]
    if text.count("/") != 1 or len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1]:
        raise UserError(f"--shard {text}: expected N/M with N from 1 to M, such as 3/16")
    return Shard(*numbers)
