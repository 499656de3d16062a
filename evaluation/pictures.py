"""Pictures of predictions for papers and reports, drawn with matplotlib.

`error_map`: the mean error of every vertex on the face. `motion_map`: how much every vertex moves,
in truth and prediction. `strip`: stills of a clip, truth above prediction above error. Errors are
distances in millimetres and have a colour bar. V vertices.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rendering.heat_map import COLOUR_MAP, draw_values
from rendering.renderer import Renderer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 300
FONT_POINTS = 8
WIDTH_IN, COLUMN_IN = 7.0, 3.4  # inches: a page's text, and a column of it
VIEW_IN = 1.5  # inches: width of a view of `error_map`
LABEL_IN, TITLE_IN, BAR_IN = 0.25, 0.25, 0.55  # left of the rows, above the columns, right of them
SIZE = 640  # pixels a side of a face, before its margins are cut off
YAWS = (0.0, 40.0)  # degrees, the views of `error_map`
MARGIN = 8  # pixels around a head
BAR_SHARE = 0.9  # of the height of a row, where bars stand one above the other
SHARE_BELOW = 0.99  # of the values that the colours distinguish, at least
ROUND = (1, 1.5, 2, 3, 4, 6, 8, 10)  # ends of colour scales, times a power of ten
ROWS = ("truth", "prediction", "error")
MOTION_ROWS = ("mean motion", "std of motion")


def upper_limit(values: NDArray) -> float:
    """The end of a colour scale: a round number that nearly all values do not exceed."""
    top = max(float(np.quantile(values, SHARE_BELOW)), 1e-6)
    power = 10.0 ** math.floor(math.log10(top))
    return next(step * power for step in ROUND if step * power >= top * (1 - 1e-9))


def error_map(views: Sequence[Renderer], errors: NDArray, limit: float) -> "Figure":
    """The neutral face in several views, coloured by errors (V,) in mm from 0 to `limit`."""
    pictures = [draw_values(view, view.template, errors, limit) for view in views]
    rows, _ = _bounds(np.stack(pictures))
    cut = [picture[rows, _bounds(picture[None])[1]] for picture in pictures]
    grid = np.concatenate(cut, axis=1)
    width = VIEW_IN * len(views)
    figure, left, bottom, height = _figure(grid, width, 0.0, 0.0)
    _colour_bar(figure, left + width, bottom, height, errors, limit, "mean vertex error (mm)")
    return figure


def motion_map(renderer: Renderer, motion: NDArray, fps: int) -> "Figure":
    """Faces coloured by `motion` (2, 2, V), mm a frame: rows mean and std, columns as `ROWS`.

    Each row has one scale, which ends at a round number for the truth. So it is the same for all
    methods that are compared.
    """
    limits = [upper_limit(truth) for truth, _ in motion]
    pictures = [
        [draw_values(renderer, renderer.template, values, limit) for values in row]
        for row, limit in zip(motion, limits, strict=True)
    ]
    width = COLUMN_IN - LABEL_IN - BAR_IN
    figure, left, bottom, height = _grid_figure(pictures, width, ROWS[:2], MOTION_ROWS)
    for row, limit in enumerate(limits):
        cell, low = height / len(limits), bottom + height * (len(limits) - 1 - row) / len(limits)
        _colour_bar(
            figure, left + width, low, cell * BAR_SHARE, motion[row], limit,
            f"mm per frame ({fps} fps)",
        )  # fmt: skip
    return figure


def strip(
    renderer: Renderer, prediction: NDArray, truth: NDArray, errors: NDArray,
    times_s: Sequence[float], limit: float,
) -> "Figure":  # fmt: skip
    """Stills in columns below their times, and in the rows `ROWS`.

    prediction, truth: (n, V, 3) in the unit of the renderer's template; errors: (n, V) in mm,
    coloured from 0 to `limit` on the true faces.
    """
    pictures = [
        [renderer.frame(mesh) for mesh in truth],
        [renderer.frame(mesh) for mesh in prediction],
        [draw_values(renderer, *face, limit) for face in zip(truth, errors, strict=True)],
    ]
    width = WIDTH_IN - LABEL_IN - BAR_IN
    times = [f"{time_s:.2f} s" for time_s in times_s]
    figure, left, bottom, height = _grid_figure(pictures, width, times, ROWS)
    _colour_bar(figure, left + width, bottom, height / len(ROWS), errors, limit, "error (mm)")
    return figure


def _grid_figure(
    pictures: list[list[NDArray]], width: float, columns: Sequence[str], rows: Sequence[str]
) -> tuple["Figure", float, float, float]:
    """Rows of pictures without their common margins, labelled; returns what `_figure` does."""
    lines, across = _bounds(np.concatenate(pictures))
    grid = [np.concatenate([picture[lines, across] for picture in row], axis=1) for row in pictures]
    figure, left, bottom, height = _figure(np.concatenate(grid), width, LABEL_IN, TITLE_IN)
    for column, label in enumerate(columns):
        x = left + (column + 0.5) * width / len(columns)
        _text(figure, x, bottom + height + TITLE_IN / 2, label)
    for row, label in enumerate(reversed(rows)):
        _text(figure, LABEL_IN / 2, bottom + (row + 0.5) * height / len(rows), label, rotation=90)
    return figure, left, bottom, height


def _bounds(pictures: NDArray) -> tuple[slice, slice]:
    """Rows and columns of pictures (n, H, W, 3) that are not white, with a margin."""
    drawn = (pictures != 255).any(axis=(0, 3))
    slices = []
    for axis in (1, 0):
        used = np.flatnonzero(drawn.any(axis=axis))
        slices.append(slice(max(used[0] - MARGIN, 0), used[-1] + 1 + MARGIN))
    return slices[0], slices[1]


def _figure(
    grid: NDArray, width: float, label: float, title: float
) -> tuple["Figure", float, float, float]:
    """A figure that shows `grid`, and left, bottom and height of the grid in inches."""
    from matplotlib.figure import Figure

    height, edge = width * grid.shape[0] / grid.shape[1], FONT_POINTS / 72  # half a number's height
    total = label + width + BAR_IN, height + title + edge
    figure = Figure(figsize=total, dpi=DOTS_PER_INCH)
    axes = figure.add_axes(_fractions(figure, label, edge, width, height))
    axes.imshow(grid, aspect="auto", interpolation="lanczos")
    axes.set_axis_off()
    return figure, label, edge, height


def _fractions(figure: "Figure", *inches: float) -> list[float]:
    width, height = figure.get_size_inches()
    return [value / total for value, total in zip(inches, (width, height) * 2, strict=True)]


def _text(figure: "Figure", x: float, y: float, text: str, rotation: float = 0.0) -> None:
    x, y = np.array([x, y]) / figure.get_size_inches()
    figure.text(x, y, text, ha="center", va="center", fontsize=FONT_POINTS, rotation=rotation)


def _colour_bar(
    figure: "Figure", left: float, bottom: float, height: float,
    errors: NDArray, limit: float, label: str,
) -> None:  # fmt: skip
    """A bar from 0 to `limit`, with an arrow where errors are larger; places in inches."""
    box = _fractions(figure, left + 0.08, bottom, 0.09, height * 0.94)
    colour_bar(figure, box, limit, label, FONT_POINTS - 1, ends=bool(errors.max() <= limit))


def colour_bar(
    figure: "Figure", box: Sequence[float], limit: float, label: str, points: float, ends: bool
) -> None:
    """A colour bar from 0 to `limit` in a box (left, bottom, width, height) of a figure.

    points: size of its letters; ends: whether no value is larger, else the bar has an arrow.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(
        ScalarMappable(Normalize(0, limit), COLOUR_MAP), cax=figure.add_axes(box),
        extend="neither" if ends else "max", ticks=np.linspace(0, limit, 3),
    )  # fmt: skip
    bar.ax.set_yticklabels([f"{value:g}" for value in np.linspace(0, limit, 3)])
    bar.ax.tick_params(labelsize=points, width=0.5, length=2, pad=2)
    bar.set_label(label, fontsize=points, labelpad=2)
    bar.outline.set_linewidth(0.5)
