"""Procedural parts of the head: dental arches, tongue, eyeballs, brows.

Only `build_head.py` uses this. Every part is a `Part`: a grid of vertices in metres with faces and
colours, in the coordinates of the base mesh (x left, y up, z forward).
"""

from dataclasses import dataclass

import numpy as np

# Bright, because renderers with ambient occlusion darken the enclosed mouth.
TOOTH = np.array([0.97, 0.95, 0.89])
TOOTH_GAP = np.array([0.80, 0.73, 0.64])
GUM = np.array([0.80, 0.46, 0.45])
TONGUE = np.array([0.90, 0.50, 0.49])
SCLERA = np.array([0.93, 0.92, 0.91])
IRIS = np.array([0.36, 0.46, 0.50])
PUPIL = np.array([0.03, 0.03, 0.035])

MM = 1e-3
# Widths and crown heights, mm, from the mid-line: two incisors, canine, two premolars, molar.
# After Wheeler's Dental Anatomy, rounded.
UPPER_WIDTHS, UPPER_CROWNS = (8.5, 6.6, 7.6, 7.0, 6.8, 10.0), (9.6, 8.6, 9.4, 8.0, 7.5, 7.0)
LOWER_WIDTHS, LOWER_CROWNS = (5.4, 5.9, 6.9, 7.0, 7.1, 11.0), (8.2, 8.4, 9.2, 8.2, 7.6, 7.2)
UPPER_EDGES = (0.0, 0.7, 0.3, 1.0, 1.5, 2.0)  # mm by which the biting edge is set back
LOWER_EDGES = (0.0, 0.1, 0.0, 0.8, 1.6, 2.4)


@dataclass(frozen=True)
class Part:
    """vertices (n, 3) metres, faces (m, 3) counter-clockwise from outside, colors (n, 3)."""

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray


def grid_faces(n_rows: int, n_columns: int, closed: bool = False) -> np.ndarray:
    """Triangles (m, 3) of a grid in row-major order; `closed` joins the last and first column."""
    index = np.arange(n_rows * n_columns).reshape(n_rows, n_columns)
    if closed:
        index = np.concatenate([index, index[:, :1]], axis=1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    return np.stack([a, b, c, a, c, d], axis=-1).reshape(-1, 3)


@dataclass(frozen=True)
class Arch:
    """Position of a dental arch, metres: midpoint of its biting edge and the ellipse it follows."""

    edge_y: float
    front_z: float
    half_width: float
    depth: float
    upper: bool


def dental_arch(arch: Arch) -> Part:
    """Twelve teeth with gums as one strip of 7 rows, from the outer gum over the edge inwards."""
    widths = UPPER_WIDTHS if arch.upper else LOWER_WIDTHS
    crowns = UPPER_CROWNS if arch.upper else LOWER_CROWNS
    edges = UPPER_EDGES if arch.upper else LOWER_EDGES
    along, tooth, is_gap = _tooth_columns(widths)
    position, outward = _on_ellipse(arch, along * MM)
    crown = np.interp(np.abs(along), _centres(widths), crowns)
    edge = np.array(edges)[tooth] + 0.55 * is_gap
    thick = np.interp(np.abs(along), _centres(widths), (2.2, 2.2, 3.5, 7.0, 8.0, 9.5))
    rows = (  # height above the biting edge and depth behind the outermost line, mm; colour
        (crown + 5.0, 3.0 + 0 * crown, GUM, GUM * 0.9),
        (crown - 1.1 * is_gap, 0.8 + 0.3 * is_gap, GUM, GUM * 0.95),
        (crown - 0.35 - 1.3 * is_gap, 1.2 + 0.6 * is_gap, TOOTH * 0.95, TOOTH_GAP),
        (crown * 0.45, 0.0 + 1.0 * is_gap, TOOTH, TOOTH_GAP),
        (edge, 0.55 + 0.7 * is_gap, TOOTH, TOOTH_GAP),
        (edge + 0.35, 0.5 + thick, TOOTH * 0.93, TOOTH_GAP),
        (crown + 1.0, 3.5 + thick, GUM * 0.9, GUM * 0.85),
    )
    up = 1.0 if arch.upper else -1.0
    vertices, colors = [], []
    for height, depth, color, gap_color in rows:
        row = position - outward * depth[:, None] * MM
        row[:, 1] = arch.edge_y + up * height * MM
        vertices.append(row)
        colors.append(np.where(is_gap[:, None] > 0, gap_color, color))
    faces = grid_faces(len(rows), len(along))
    faces = faces if not arch.upper else faces[:, ::-1]
    return Part(np.concatenate(vertices), faces, np.concatenate(colors))


def _centres(widths: tuple[float, ...]) -> np.ndarray:
    return np.cumsum(widths) - np.array(widths) / 2


def _tooth_columns(widths: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns along the arch: position (mm, right to left), tooth number, 1.0 at a gap."""
    ends = np.concatenate([[0.0], np.cumsum(widths)])
    along, tooth, gap = [0.0], [0], [1.0]
    for number, width in enumerate(widths):
        along += [ends[number] + 0.22 * width, ends[number] + 0.78 * width, ends[number + 1]]
        tooth += [number] * 3
        gap += [0.0, 0.0, 1.0]
    mirrored = [-np.array(along[:0:-1]), np.array(tooth[:0:-1]), np.array(gap[:0:-1])]
    halves = (np.array(along), np.array(tooth), np.array(gap))
    return tuple(np.concatenate(pair) for pair in zip(mirrored, halves, strict=True))


def _on_ellipse(arch: Arch, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 3) at arc length `along` (n,) from the front of the arch, and outward normals."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 2001)
    x, z = arch.half_width * np.sin(angle), arch.depth * (np.cos(angle) - 1) + arch.front_z
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(z)))])
    at = np.interp(along, length - length[-1] / 2, angle)
    x, z = arch.half_width * np.sin(at), arch.depth * (np.cos(at) - 1) + arch.front_z
    outward = np.stack([np.sin(at) / arch.half_width, 0 * at, np.cos(at) / arch.depth], axis=1)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    return np.stack([x, 0 * at, z], axis=1), outward


TONGUE_SECTIONS, TONGUE_RING = 11, 10
# Centre line from root to tip in the mid-plane, metres relative to `incisors` of `tongue`: y, z,
# half width, half thickness.
TONGUE_LINE = np.array(
    [
        [-0.0200, -0.0640, 0.0125, 0.0090],
        [-0.0120, -0.0540, 0.0145, 0.0095],
        [-0.0080, -0.0420, 0.0150, 0.0085],
        [-0.0080, -0.0300, 0.0140, 0.0070],
        [-0.0095, -0.0190, 0.0115, 0.0050],
        [-0.0110, -0.0110, 0.0070, 0.0030],
    ]
)


def tongue(incisors: np.ndarray) -> tuple[Part, np.ndarray]:
    """The tongue at rest behind `incisors` (3,), and `along` (n,): 0 at its root, 1 at its tip."""
    share = np.linspace(0, 1, TONGUE_SECTIONS)
    knots = np.linspace(0, 1, len(TONGUE_LINE))
    y, z, half_width, half_thickness = (
        np.interp(share, knots, column)[:, None] for column in TONGUE_LINE.T
    )
    angle = 2 * np.pi * np.arange(TONGUE_RING) / TONGUE_RING
    groove = 0.15 * np.exp(-((np.cos(angle) / 0.35) ** 2)) * (np.sin(angle) > 0)
    x = half_width * np.cos(angle)
    y = y + half_thickness * (np.sin(angle) - groove)
    body = np.stack([x, y, np.broadcast_to(z, x.shape)], axis=-1).reshape(-1, 3)
    tip = [[0.0, TONGUE_LINE[-1, 0], TONGUE_LINE[-1, 1] + 0.0022]]
    faces = grid_faces(TONGUE_SECTIONS, TONGUE_RING, closed=True)
    last = (TONGUE_SECTIONS - 1) * TONGUE_RING
    fan = [[last + i, last + (i + 1) % TONGUE_RING, len(body)] for i in range(TONGUE_RING)]
    along = np.concatenate([np.repeat(share, TONGUE_RING), [1.0]])
    colors = TONGUE * (0.6 + 0.4 * along[:, None])
    vertices = np.concatenate([body, tip]) + incisors
    return Part(vertices, np.concatenate([faces, fan]), colors), along


EYE_RINGS = (10.5, 12.0, 18.5, 24.5, 27.5, 40.0, 60.0, 88.0)  # degrees from the gaze axis
EYE_SEGMENTS = 16
LID_SHADOW = 0.45  # share of light that the upper lid keeps from the eye's upper edge


def eyeball(centre: np.ndarray, radius: float) -> Part:
    """An eyeball looking along +z, open at the back, with a slightly raised cornea."""
    polar = np.radians(EYE_RINGS)
    angle = 2 * np.pi * np.arange(EYE_SEGMENTS) / EYE_SEGMENTS
    bulge = 1 + 0.05 * np.clip(1 - (np.degrees(polar) / 30) ** 2, 0, None)
    ring = np.stack(
        [
            np.sin(polar)[:, None] * np.cos(angle),
            np.sin(polar)[:, None] * np.sin(angle),
            np.repeat(np.cos(polar)[:, None], EYE_SEGMENTS, axis=1),
        ],
        axis=-1,
    )
    vertices = np.concatenate([[[0.0, 0.0, 1.05]], (ring * bulge[:, None, None]).reshape(-1, 3)])
    faces = grid_faces(len(polar), EYE_SEGMENTS, closed=True)[:, ::-1] + 1
    fan = [[0, 1 + i, 1 + (i + 1) % EYE_SEGMENTS] for i in range(EYE_SEGMENTS)]
    return Part(centre + radius * vertices, np.concatenate([fan, faces]), eye_colors(IRIS))


def eye_colors(iris: np.ndarray) -> np.ndarray:
    """Colours (n, 3) of an eyeball's vertices for the iris colour (3,), darker under the lid."""
    by_ring = (PUPIL, iris * 1.15, iris, iris * 0.7, SCLERA * 0.93, SCLERA, SCLERA, SCLERA * 0.9)
    angle = 2 * np.pi * np.arange(EYE_SEGMENTS) / EYE_SEGMENTS
    height = np.sin(np.radians(EYE_RINGS))[:, None] * np.sin(angle)
    shadow = LID_SHADOW * np.clip((height - 0.05) / 0.3, 0, 1)[..., None]
    colors = np.array(by_ring)[:, None] * (1 - shadow)
    return np.concatenate([[PUPIL], colors.reshape(-1, 3)])


# The left brow in front view, metres on the base mesh: x and y of its centre line, half height.
BROW_LINE = np.array(
    [
        [0.0108, 0.7444, 0.0013],
        [0.0140, 0.7450, 0.0021],
        [0.0180, 0.7459, 0.0026],
        [0.0230, 0.7471, 0.0028],
        [0.0290, 0.7482, 0.0029],
        [0.0350, 0.7488, 0.0025],
        [0.0410, 0.7476, 0.0020],
        [0.0460, 0.7452, 0.0014],
        [0.0500, 0.7422, 0.0007],
    ]
)
BROW_BORDER = 0.12
BROW_DENSITY = (0.4, 0.7, 0.9, 0.95, 0.95, 0.85, 0.65)  # of the inner columns
# Rows from top to bottom: share of the half height, mm above the skin.
BROW_ROWS = ((1.35, 0.1), (0.6, 0.25), (-0.6, 0.25), (-1.35, 0.1))


def brow_outline() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The left brow as a grid of 4 rows.

    Returns x, y (n, 2) and height above the skin (n,), metres, faces (m, 3), and hair density (n,),
    0 to 1: low along the outer rows and the ends, so that the brow fades into the skin.
    """
    n = len(BROW_LINE)
    rows = [BROW_LINE[:, :2] + BROW_LINE[:, 2:] * [0, side] for side, _ in BROW_ROWS]
    height = np.repeat([h * MM for _, h in BROW_ROWS], n)
    hair = np.full((len(BROW_ROWS), n), BROW_BORDER)
    hair[1:-1, 1:-1] = BROW_DENSITY
    return np.concatenate(rows), height, grid_faces(len(BROW_ROWS), n)[:, ::-1], hair.ravel()
