"""Predictions and truth of a data set, with what is needed to draw them. V vertices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.frame_rates import parse_rate
from config import DatasetSpec
from dataset.clip_files import find_audio
from dataset.faces import find_faces, missing_faces, templates_of
from evaluation.pictures import SIZE
from evaluation.predictions import Clip, Pair, check_lengths, find_pairs, read_pair, subject_of
from metrics import errors_by_vertex, motion_statistics
from rendering.face import appearance
from rendering.renderer import Renderer

MM = 1e3  # per metre


@dataclass(frozen=True)
class Source:
    """Pairs of predictions and truth of a data set, with what is needed to draw them."""

    spec: DatasetSpec
    pairs: list[Pair]
    faces: NDArray
    templates: dict[str, NDArray]

    @classmethod
    def open(cls, spec: DatasetSpec, pred: Path, clips: Sequence[str] | None = None) -> "Source":
        """The pairs of the folder `pred`, or of some clips; raises `UserError` as `find_pairs`."""
        faces = find_faces(spec)
        if faces is None:
            raise UserError(missing_faces(spec))
        pairs = find_pairs(pred, spec.path(spec.root) / "vertices_npy")
        names = [pair.name for pair in pairs]
        if unknown := sorted(set(clips or ()) - set(names)):
            raise UserError(
                f"--clips {unknown[0]}: no such clip in {pred}, expected one of "
                f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            )
        pairs = [pair for pair in pairs if not clips or pair.name in clips]
        source = cls(spec, pairs, faces, templates_of(spec))
        check_lengths(pairs, source.step)
        return source

    @property
    def step(self) -> Fraction:
        """Captured frames for each predicted one."""
        return parse_rate(self.spec.source_fps, "source_fps") / self.spec.fps

    @property
    def mm_per_unit(self) -> float:
        """Millimetres in a unit of the vertices."""
        return self.spec.metres_per_unit * MM

    def clip(self, pair: Pair) -> Clip:
        """The meshes of a pair at the predictions' frame rate."""
        return read_pair(pair, self.step, {}, self.templates)

    def audio(self, pair: Pair) -> Path:
        """The recording of a pair. Raises `UserError` where there is none."""
        return find_audio(self.spec.path(self.spec.root), pair.name)

    def renderer(
        self, pair: Pair, yaw: float = 0.0, size: int | tuple[int, int] | None = None
    ) -> Renderer:
        """Draws the face of a pair's subject in front of white."""
        subject = subject_of(pair, self.templates)
        colours = appearance(self.spec, subject)
        return Renderer(self.faces, self.templates[subject], size or SIZE, yaw=yaw, **colours)

    def frame_errors_mm(self, clip: Clip, frames: NDArray | slice) -> NDArray[np.float64]:
        """(n, V) distance of every vertex in some frames of a clip, mm."""
        difference = clip.prediction[frames].astype(np.float64) - clip.truth[frames]
        return np.linalg.norm(difference, axis=-1) * self.mm_per_unit

    def errors_mm(self) -> NDArray[np.float64]:
        """(V,) mean distance of every vertex over the frames of all clips, mm."""
        total, n_frames = np.zeros(self.spec.n_vertices), 0
        for clip in self.clips():
            total += errors_by_vertex(clip.prediction, clip.truth) * len(clip.truth)
            n_frames += len(clip.truth)
        return total / n_frames * self.mm_per_unit

    def motion_mm(self) -> NDArray[np.float64]:
        """(2, 2, V) mean and std over the frames of all clips of the truth and of the prediction.

        Of the distance, in mm, that a vertex moves from one frame to the next.
        """
        parts = (
            motion_statistics(getattr(clip, part) for clip in self.clips())
            for part in ("truth", "prediction")
        )
        return np.stack(list(parts), axis=1) * self.mm_per_unit

    def clips(self) -> Iterator[Clip]:
        """All clips, one at a time."""
        return map(self.clip, self.pairs)
