"""Progress of a recording as one line, with the speed against real time."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

LINE = "{desc}: {percentage:3.0f}% of {total_fmt} frames, {speed} x real time, {remaining} left"


class _Line(tqdm):
    """A bar whose format may have {speed}, seconds of sound a second."""

    fps = 0.0

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values of the format."""
        values = super().format_dict
        frames_per_s = values["n"] / values["elapsed"] if values["elapsed"] else 0.0
        return values | {"speed": f"{frames_per_s / self.fps:.1f}" if self.fps else "?"}


def with_progress(
    frames: Iterable[NDArray], n_frames: int, fps: Fraction | int, what: str, quiet: bool = False
) -> Iterator[NDArray]:
    """Yield `frames`, with a line of progress on a terminal and none in a pipe or a log."""
    line = _Line(frames, what, n_frames, bar_format=LINE, disable=quiet or None)
    line.fps = float(fps)
    yield from line
