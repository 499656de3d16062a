"""Pictures and videos as HTML that holds them as data URIs: the page needs no other file."""

import base64
import html
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evaluation.comparison import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 160
PLOT_DOTS_PER_INCH = 220  # of lines and letters, which phones show at two or three dots a pixel
SECONDS = 10.0  # of a clip in its video, at most; about 40 kB a second


def picture(figure: "Figure", caption: str, style: str = "") -> str:
    """A figure of faces as JPEG, with a visible caption; style: a class of the image."""
    text = html.escape(caption)
    image = f'<img class="{style}" alt="{text}" src="{_uri(figure, "jpeg", DOTS_PER_INCH)}">'
    return figure_of(scrolled(image, caption) if style else image, text)


def plot(wide: "Figure", narrow: "Figure", description: str) -> str:
    """A plot as PNG, the narrow one for phones; description: what it shows, for screen readers."""
    text = html.escape(description)
    return figure_of(
        f'<picture><source media="(max-width: 40rem)" '
        f'srcset="{_uri(narrow, "png", PLOT_DOTS_PER_INCH)}"><img class="plot" alt="{text}" '
        f'src="{_uri(wide, "png", PLOT_DOTS_PER_INCH)}"></picture>'
    )


def video(comparison: Comparison, name: str) -> str:
    """The first seconds of truth beside prediction; before it plays, the frame that is worst."""
    fps, n_frames = comparison.source.spec.fps, len(comparison.clip.truth)
    shown = min(n_frames, round(SECONDS * fps))
    errors = comparison.source.frame_errors_mm(comparison.clip, slice(0, shown))
    poster = _jpeg(comparison.frame(int(errors.mean(axis=1).argmax())))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        comparison.write(path, shown)
        source = data_uri("video/mp4", path.read_bytes())
    cut = "" if shown == n_frames else f" The first {SECONDS:g} s of {n_frames / fps:.1f} s."
    width, height = comparison.layout.width, comparison.layout.height
    return figure_of(
        f'<video controls playsinline preload="metadata" width="{width}" height="{height}" '
        f'aria-label="{html.escape(name)}: truth on the left, prediction on the right" '
        f'poster="{data_uri("image/jpeg", poster)}" src="{source}"></video>',
        f"Truth and prediction, with the sound of the clip.{cut}",
    )


def figure_of(content: str, caption: str = "") -> str:
    """HTML in a figure; caption: HTML."""
    return f"<figure>{content}{caption and f'<figcaption>{caption}</figcaption>'}</figure>"


def scrolled(content: str, label: str) -> str:
    """HTML that is moved sideways where it is too wide, also by the keyboard."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(label)}">'
        f"{content}</div>"
    )


def data_uri(kind: str, content: bytes) -> str:
    """Bytes as a URI; kind: their MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _uri(figure: "Figure", kind: str, dots_per_inch: int) -> str:
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=dots_per_inch)
    return data_uri(f"image/{kind}", content.getvalue())


def _jpeg(frame: NDArray[np.uint8]) -> bytes:
    from matplotlib.image import imsave

    content = io.BytesIO()
    imsave(content, frame, format="jpeg")
    return content.getvalue()
