"""The field as a picture: the error over parameters and over the time that a prediction takes."""

from pathlib import Path
from typing import Any

from common.whole_file import whole_file

SIZE_IN, DOTS_PER_INCH, FONT_POINTS = (8.0, 3.4), 120, 8
ERROR = ("lve", "LVE of held-out clips, mm²")
PANELS = (  # figure, label of its axis, factor
    ("decoder_parameters", "decoder, M parameters", 1e-6),
    ("real_time_factor", "processor seconds a second of sound", 1.0),
)


def plot(models: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw the models of `field_table.summary` into a PNG; bars are standard deviations.

    A model without one of the figures is left out of that panel.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_IN, layout="constrained")
    for axes, (name, label, factor) in zip(figure.subplots(1, 2, sharey=True), PANELS, strict=True):
        for model, figures in models.items():
            if not {name, ERROR[0]} <= figures.keys():
                continue
            x, y = figures[name]["mean"] * factor, figures[ERROR[0]]
            axes.errorbar(x, y["mean"], yerr=y["sd"], fmt="o", markersize=5, capsize=3, label=model)
        axes.set_xlabel(label, fontsize=FONT_POINTS)
        axes.tick_params(labelsize=FONT_POINTS)
        axes.margins(0.15)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(ERROR[1], fontsize=FONT_POINTS)
    figure.axes[0].legend(fontsize=FONT_POINTS)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=DOTS_PER_INCH)
