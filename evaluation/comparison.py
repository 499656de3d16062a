"""Videos of truth beside prediction, with the sound of the clip; the error as a third panel.

A panel has its name above it. Panels are drawn by `rendering.renderer`, names and colour bar by
matplotlib, once. T frames, V vertices; pictures (H, W, 3) uint8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.pictures import ROWS, colour_bar
from evaluation.predictions import Pair
from evaluation.source import Source
from rendering.heat_map import draw_values
from rendering.video import write_video

HEIGHT = 720  # pixels of a video
TITLE_SHARE = 1 / 15  # of the height, above the panels
PANEL_SHARE = 0.8  # width of a panel / its height
BAR_SHARE = 0.2  # width of the space for the colour bar / height of a panel
FONT_SHARE = 0.55  # of the height of the titles
POINTS_PER_INCH = 72
DRAFT = 100  # dots per inch of the canvas; any number does


@dataclass(frozen=True)
class Layout:
    """Pixels of a video: its height, that of the titles, width and height of a panel."""

    height: int
    with_error: bool = False

    @property
    def title(self) -> int:
        """Height of the titles."""
        return round(self.height * TITLE_SHARE)

    @property
    def panel(self) -> tuple[int, int]:
        """Width and height of a panel, even."""
        height = (self.height - self.title) // 2 * 2
        return round(height * PANEL_SHARE) // 2 * 2, height

    @property
    def names(self) -> Sequence[str]:
        """The names of the panels."""
        return ROWS if self.with_error else ROWS[:2]

    @property
    def width(self) -> int:
        """Width of the video, even."""
        bar = round(self.panel[1] * BAR_SHARE) // 2 * 2 if self.with_error else 0
        return len(self.names) * self.panel[0] + bar


class Comparison:
    """The pictures of a pair in a layout. Raises `UserError` where the clip has no recording.

    limit: mm at which the error's colours end.
    """

    def __init__(self, source: Source, pair: Pair, layout: Layout, limit: float) -> None:
        self.source, self.layout, self.limit = source, layout, limit
        self.clip, self.sound = source.clip(pair), source.audio(pair)
        self.renderer = source.renderer(pair, size=layout.panel)
        self.canvas = draw_canvas(layout, limit)

    def frame(self, t: int) -> NDArray[np.uint8]:
        """The picture of frame t."""
        meshes = self.clip.truth[t], self.clip.prediction[t]
        panels = [self.renderer.frame(mesh) for mesh in meshes]
        if self.layout.with_error:
            errors = self.source.frame_errors_mm(self.clip, t)
            panels.append(draw_values(self.renderer, meshes[0], errors, self.limit))
        return paste(self.canvas, panels, self.layout)

    def write(self, path: Path, n_frames: int | None = None) -> None:
        """Write the video, or its first `n_frames`. Raises `UserError` where that fails."""
        n_frames = min(n_frames or len(self.clip.truth), len(self.clip.truth))
        frames = map(self.frame, range(n_frames))
        write_video(path, frames, n_frames, self.source.spec.fps, self.sound)


def paste(
    canvas: NDArray[np.uint8], panels: Sequence[NDArray[np.uint8]], layout: Layout
) -> NDArray[np.uint8]:
    """The canvas with panels (h, w, 3) side by side below the titles."""
    picture = canvas.copy()
    row = np.concatenate(panels, axis=1)
    top = layout.height - layout.panel[1]
    picture[top:, : row.shape[1]] = row
    return picture


def draw_canvas(layout: Layout, limit: float) -> NDArray[np.uint8]:
    """What does not move: the panels' names, and the colour bar from 0 to `limit` mm."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = layout.width, layout.height
    figure = Figure(figsize=(width / DRAFT, height / DRAFT), dpi=DRAFT)
    points = FONT_SHARE * layout.title * POINTS_PER_INCH / DRAFT
    for column, name in enumerate(layout.names):
        x = (column + 0.5) * layout.panel[0] / width
        figure.text(x, 1 - layout.title / 2 / height, name, ha="center", va="center",
                    fontsize=points)  # fmt: skip
    if layout.with_error:
        left = len(layout.names) * layout.panel[0] / width
        unit = layout.panel[1] * BAR_SHARE / width
        box = left + 0.1 * unit, 0.1, 0.15 * unit, 0.75
        colour_bar(figure, box, limit, "error (mm)", 0.9 * points, ends=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
