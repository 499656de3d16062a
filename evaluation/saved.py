"""Predictions of the test mode as files: DIR/<clip>.npy (T, V*3), as `metrics.py --pred` reads."""

from pathlib import Path

from numpy.typing import NDArray

from common.errors import UserError, reason_of, writable_folder
from common.whole_file import whole_file
from config import DatasetSpec
from files.arrays import stream_npy


def check_predictions_folder(folder: Path, spec: DatasetSpec) -> None:
    """Make `folder`; raises `UserError` if it cannot be written or holds the captured vertices."""
    truth = spec.path(spec.root) / "vertices_npy"
    if truth.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"--save_predictions {folder}: holds the captured vertices of {spec.name} "
            f"({truth}); choose another folder"
        )
    writable_folder(folder)


def save_prediction(folder: Path, name: str, predicted: NDArray) -> None:
    """Write the vertices (T, V, 3) of a clip as <name>.npy, float32 (T, V*3).

    Raises `UserError` where the file cannot be written.
    """
    path = folder / f"{name}.npy"
    frames = predicted.reshape(len(predicted), -1)
    try:
        with whole_file(path) as partial:
            stream_npy(partial, frames.shape, [frames])
    except OSError as error:
        raise UserError(f"prediction {path}: cannot be written ({reason_of(error)})") from error
