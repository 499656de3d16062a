"""Hair of the head: where it grows, how far it stands off the skull, in four styles.

Only `build_head.py` uses this. Positions are those of the unmodified base mesh, metres (x left, y
up, z forward); n is a number of vertices.
"""

from dataclasses import dataclass

import numpy as np

MM = 1e-3
CENTRE_Z = 0.02  # the hairline's angles are measured around this axis
# Hairline: height (metres) by the angle from straight ahead (degrees).
HAIRLINE = np.array(
    [
        [0, 0.7965],
        [15, 0.7975],
        [28, 0.7990],
        [40, 0.7960],
        [50, 0.7820],
        [60, 0.7600],
        [70, 0.7400],
        [78, 0.7150],
        [86, 0.7050],
        [98, 0.7000],
        [110, 0.6820],
        [125, 0.6680],
        [145, 0.6560],
        [180, 0.6520],
    ]
)
COARSE_FROM, COARSE_TO = 45, 75  # degrees over which the mesh under the hairline turns coarse
COARSE_SOFTNESS = 2.4  # factor on the softness of the hairline there
EAR_CLEARANCE = 0.016  # metres around the ears over which hair grows to its thickness


@dataclass(frozen=True)
class Style:
    """Thickness of the hair in mm at the side, the top, the front and the back of the head.

    line: mm by which the hairline is higher; soft: mm over which hair turns into skin; roll: mm
    over which the hair grows to its thickness; knot: mm of a knot at the back; locks: mm by which
    locks stand out; curly: locks are short and lie in all directions; cover: share of the skin's
    colour that the hair hides.
    """

    side: float
    top: float
    front: float
    back: float
    line: float = 0.0
    soft: float = 9.0
    roll: float = 14.0
    knot: float = 0.0
    locks: float = 0.0
    curly: bool = False
    cover: float = 0.95


STYLES = {
    "shaved": Style(0.4, 0.4, 0.4, 0.4, line=3.0, soft=24.0, cover=0.5),
    "short": Style(3.5, 13.0, 15.0, 6.0, soft=8.0, roll=16.0, locks=1.2),
    "tied": Style(5.0, 10.0, 8.0, 8.0, soft=8.0, roll=22.0, knot=15.0, locks=1.0),
    "round": Style(20.0, 27.0, 20.0, 22.0, soft=6.0, roll=20.0, locks=2.5, curly=True),
}
KNOT_AT, KNOT_RADIUS = np.array([0.0, 0.735, -0.030]), 0.030
LOCK_COUNT = 22  # around the knot, to which locks run
CURL = 0.0055  # metres, size of a curl divided by 2π


def above_hairline(points: np.ndarray) -> np.ndarray:
    """Height (n,), metres, above the hairline; negative in the mouth and throat."""
    x, y, z = points.T
    angle = _angle(points)
    inside = (np.abs(x) < 0.04) & (y < 0.71) & (z > -0.02)
    return np.where(inside, -1.0, y - np.interp(angle, *HAIRLINE.T))


def _angle(points: np.ndarray) -> np.ndarray:
    """Degrees (n,) from straight ahead, 0 to 180."""
    return np.degrees(np.arctan2(np.abs(points[:, 0]), points[:, 2] - CENTRE_Z))


def _coarseness(points: np.ndarray) -> np.ndarray:
    """Factor (n,) on the widths of the hairline where the mesh is coarse."""
    share = smooth_step((_angle(points) - COARSE_FROM) / (COARSE_TO - COARSE_FROM))
    return 1 + (COARSE_SOFTNESS - 1) * share


def density(points: np.ndarray, ear: np.ndarray, style: Style) -> np.ndarray:
    """Weight of the hair (n,), 0 skin to 1; ear: (n,) weights of the ears."""
    soft = style.soft * MM * _coarseness(points)
    share = (above_hairline(points) - style.line * MM) / soft + 0.5
    return smooth_step(share) * (1 - ear)


def thickness(points: np.ndarray, ear: np.ndarray, style: Style) -> np.ndarray:
    """Metres (n,) by which the hair stands off the skull; ear: (n,) weights of the ears."""
    x, y, z = points.T
    top = smooth_step((y - 0.775) / 0.055)
    forward = smooth_step((z - 0.02) / 0.08)
    aside = style.side + (style.back - style.side) * smooth_step((-0.01 - z) / 0.06)
    over = style.top + (style.front - style.top) * forward
    full = aside + (over - aside) * top
    full += style.knot * np.exp(-(((points - KNOT_AT) / KNOT_RADIUS) ** 2).sum(axis=1))
    full += style.locks * locks(points, style)
    roll = style.roll * MM * _coarseness(points)
    rise = np.clip((above_hairline(points) - style.line * MM) / roll, 0, 1)
    ears = points[ear > 0.3]
    away = np.linalg.norm(points[:, None] - ears, axis=2).min(axis=1)
    near = smooth_step(away / EAR_CLEARANCE)
    return full * MM * rise * (2 - rise) * near * (1 - ear)


def locks(points: np.ndarray, style: Style) -> np.ndarray:
    """Relief of the locks (n,), -1 to 1: curls, or waves that run towards the knot."""
    if style.curly:
        return np.prod(np.sin(points / CURL + [0.3, 1.1, 2.0]), axis=1) * 2.0
    x, y, z = (points - KNOT_AT - [0.0, 0.02, 0.0]).T
    around = np.arctan2(np.hypot(y, z), x)  # 0 on the left, π on the right
    return np.sin(LOCK_COUNT * around + 1.5 * np.sin(40.0 * z))


def smooth_step(share: np.ndarray) -> np.ndarray:
    """`share` clipped to 0..1, with slope 0 at both ends."""
    share = np.clip(share, 0, 1)
    return share * share * (3 - 2 * share)
