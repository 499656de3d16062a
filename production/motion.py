"""Motion between prediction and files: other frame rates, smoothing, a head that turns slowly.

T frames, V vertices.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dataset.motion import resample_in_time, resampled_frames

RESAMPLED = 64  # frames at once
REACH = 3.0  # standard deviations at which the smoothing kernel ends
SWING_S = 8.0  # seconds in which a turning head swings to both sides and back


class Arriving:
    """The meshes (V, 3) of an iterator, read as an array (T, V, 3) whose slices move forwards.

    In memory are the first mesh, and those from the start of the last slice on.
    """

    def __init__(self, meshes: Iterable[NDArray], shape: tuple[int, int, int]) -> None:
        self.meshes, self.shape = iter(meshes), shape
        self.kept: deque[NDArray] = deque()
        self.begin = 0  # index of the first mesh of `kept`
        self.first: NDArray | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: int | slice) -> NDArray[np.float32]:
        """The mesh of an index, or the meshes of a slice; they must not lie before the last ones.

        The first mesh can be read at any time.
        """
        if part == 0 and self.first is not None:
            return self.first
        frames = range(len(self))[part if isinstance(part, slice) else slice(part, part + 1)]
        while self.begin + len(self.kept) <= frames[-1]:
            self.kept.append(next(self.meshes))
            self.first = self.kept[0] if self.first is None else self.first
        while self.begin < frames[0]:
            self.kept.popleft()
            self.begin += 1
        result = np.stack([self.kept[index - self.begin] for index in frames])
        return result if isinstance(part, slice) else result[0]


def resampled(
    vertices: NDArray | Arriving, source: Fraction | int, target: Fraction | int, n_frames: int
) -> Iterator[NDArray[np.float32]]:
    """Yield `n_frames` meshes (V, 3) at `target` frames a second of vertices (T, V, 3) at `source`.

    Band-limited, see `dataset.motion`; the last pose is held after the last frame.
    """
    inside = min(resampled_frames(len(vertices), Fraction(source), target), n_frames)
    for first in range(0, inside, RESAMPLED):
        end = min(first + RESAMPLED, inside)
        yield from resample_in_time(vertices, Fraction(source), target, first, end)
    for _ in range(n_frames - inside):
        yield np.array(vertices[len(vertices) - 1])


def smoothed(
    meshes: Iterable[NDArray], fps: Fraction | int, sigma_s: float
) -> Iterator[NDArray[np.float32]]:
    """Yield the meshes (V, 3), each the mean of its neighbours in time with Gaussian weights.

    sigma_s: standard deviation in seconds. At the ends the weights are those of the frames that
    are there. Constant motion keeps its values to the rounding of float32.
    """
    reach = math.ceil(REACH * sigma_s * fps)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / float(sigma_s * fps)) ** 2)
    kernel = kernel.astype(np.float32)
    window: deque[NDArray] = deque()  # frames centre - reach to centre + reach, where they are
    before = 0  # frames of the window before its centre
    source = iter(meshes)
    for mesh in source:
        window.append(mesh)
        if len(window) == reach + 1:
            break
    while before < len(window):
        weights = kernel[reach - before : reach - before + len(window)]
        yield np.tensordot(weights / weights.sum(), np.stack(window), 1)
        mesh = next(source, None)
        if mesh is not None:
            window.append(mesh)
        if before < reach:
            before += 1
        else:
            window.popleft()


def swinging(
    meshes: Iterable[NDArray], fps: Fraction | int, degrees: float, centre: NDArray
) -> Iterator[NDArray]:
    """Yield the meshes (V, 3), turned about the vertical axis through `centre` (3,).

    The angle goes from 0 to `degrees`, to -`degrees` and back to 0 once in `SWING_S` seconds.
    """
    from rendering.renderer import rotation

    for t, mesh in enumerate(meshes):
        angle = degrees * math.sin(2 * math.pi * float(t / fps) / SWING_S)
        yield (mesh - centre) @ rotation(angle).T + centre
