"""Weights of the 15 visemes of Oculus Lipsync and of VRM's five vowels, from a clip's curves.

A viseme is a pose of the head: the mean target of its phones in the table of `synthetic.visemes`.
The weights of a frame are fitted to its vertices by least squares, over these poses and the neutral
face, which is "sil". They are 0 to 1 and their sum is 1. Visemes are fewer than curves, so their
error is larger.

T frames, C units, K poses.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.whole_file import write_whole
from export.bounded import bounded_solution
from export.clip import Clip
from export.curves import error_mm, fitted_curves, units_of, with_gains
from export.live_link import curves_json
from synthetic.head import SIDES
from synthetic.phones import PHONE_INDEX
from synthetic.visemes import MOUTH_CHANNELS, TARGET

SILENCE = "sil"
OCULUS = {  # https://developers.meta.com/horizon/documentation/unity/audio-ovrlipsync-viseme-reference
    "PP": "p b m", "FF": "f v", "TH": "th dh", "DD": "t d", "kk": "k g", "CH": "ch jh sh",
    "SS": "s z", "nn": "n l", "RR": "r", "aa": "aa", "E": "eh", "I": "ih", "O": "ao ow",
    "U": "uw uh",
}  # fmt: skip
# https://github.com/vrm-c/vrm-specification/blob/master/specification/VRMC_vrm-1.0/expressions.md
VRM = {"aa": "aa", "ih": "iy", "ou": "uw", "ee": "eh", "oh": "ao ow"}
RIDGE = 0.01  # of the square of each pose: those that differ little do not flicker
PENALTY = 10.0  # of a sum other than 1, in squares of the largest pose


def write_visemes(clip: Clip, folder: Path) -> list[Path]:
    """Write the Oculus visemes to `<name>.visemes.json`; returns its path."""
    return [_write(clip, folder / f"{clip.name}.visemes.json", OCULUS, with_rest=True)]


def write_vrm(clip: Clip, folder: Path) -> list[Path]:
    """Write VRM's vowels to `<name>.vrm.json`; returns its path."""
    return [_write(clip, folder / f"{clip.name}.vrm.json", VRM, with_rest=False)]


def _write(clip: Clip, path: Path, phones_of: dict[str, str], with_rest: bool) -> Path:
    names, basis = units_of(clip)
    poses = pose_matrix(phones_of, names)
    fitted = pose_weights(fitted_curves(clip).values, poses, basis)
    rms, worst = error_mm(clip, basis, fitted[:, 1:] @ poses)
    weights, labels = clip_weights(clip, phones_of), (SILENCE, *phones_of)
    first = 0 if with_rest else 1
    write_whole(path, curves_json(clip.fps, labels[first:], weights[:, first:], rms, worst))
    print(f"{path.name}: {rms:.2f} mm rms and {worst:.1f} mm at worst from the vertices")
    return path


def clip_weights(clip: Clip, phones_of: dict[str, str]) -> NDArray[np.float64]:
    """Weights (T, 1 + K) of the neutral face and of poses, of a clip's curves with its gains."""
    names, basis = units_of(clip)
    values = with_gains(clip, names, fitted_curves(clip).values)
    return pose_weights(values, pose_matrix(phones_of, names), basis)


def pose_matrix(phones_of: dict[str, str], names: tuple[str, ...]) -> NDArray[np.float64]:
    """The stated matrix (K, C): curves `names` of every pose, the mean target of its phones."""
    poses = np.zeros((len(phones_of), len(names)))
    for row, phones in zip(poses, phones_of.values(), strict=True):
        target = TARGET[[PHONE_INDEX[phone] for phone in phones.split()]].mean(axis=0)
        for channel, value in zip(MOUTH_CHANNELS, target, strict=True):
            units = [channel] if channel in names else [channel + side for side in SIDES]
            for unit in set(units) & set(names):
                row[names.index(unit)] = value
    return poses


def pose_weights(values: NDArray, poses: NDArray, basis: NDArray) -> NDArray[np.float64]:
    """Weights (T, 1 + K), 0 to 1, of the neutral face and of poses (K, C); their sum is 1.

    values: (T, C) curves; basis: (C, V, 3) mm. Distances are measured on the mesh. The sum is
    held by a penalty; what that leaves is divided out.
    """
    columns = basis.reshape(len(basis), -1)
    gram = columns @ columns.T
    square = np.einsum("kc,kc->k", poses, poses @ gram)
    system = np.full((1 + len(poses),) * 2, PENALTY * square.max())
    system[1:, 1:] += poses @ gram @ poses.T
    system[1:, 1:] += RIDGE * np.diag(square)
    product = np.full((len(values), len(system)), PENALTY * square.max())
    product[:, 1:] += values @ gram @ poses.T
    weights = bounded_solution(system, product, np.ones(len(system)))
    return weights / weights.sum(axis=1, keepdims=True)
