"""The light of the `software` renderer on fragments, which are points of the surface.

All numbers are float32 and no step branches, so that LLVM computes many fragments at a time.
Directions are in view space: x right, y up, z towards the viewer.
"""

import math

import numpy as np
from numpy.typing import NDArray

from common.numba_jit import compiled
from rendering.lanes import CONTRACT
from rendering.raster import dot, scaled, single

ZERO, HALF, ONE, TWO = single(0.0), single(0.5), single(1.0), single(2.0)

# Fragments are a flat array of rows of ROW numbers, of which the first CAPACITY are used: their
# distance is known when the code is compiled, so LLVM need not ask whether rows overlap.
CAPACITY, ROW = 1024, 1072  # not a power of 2, which would put all rows into the same cache lines
VECTOR = 16  # fragments are computed in multiples of this
# The rows: unit normal or longer, r, g, b, openness and gloss times w, w, 1 front or 0 back side,
# x and y of the direction to the viewer, whose z is 1. Light replaces the first three.
NORMAL, ALBEDO, OPENNESS, GLOSS, W, FRONT, TO_VIEWER, N_ROWS = 0, 3, 6, 7, 8, 9, 10, 12


def _singles(x: float, y: float, z: float) -> tuple[np.float32, np.float32, np.float32]:
    return single(x), single(y), single(z)


def _unit(x: float, y: float, z: float) -> tuple[np.float32, np.float32, np.float32]:
    length = math.sqrt(x * x + y * y + z * z)
    return _singles(x / length, y / length, z / length)


BACK_FACE = single(0.22)  # share of light on the inside of a surface, e.g. through the mouth
# A portrait studio: direction of each lamp in view space, and its (r, g, b).
KEY_DIRECTION, KEY = _unit(-0.58, 0.58, 0.57), _singles(1.12, 1.05, 0.97)
FILL_DIRECTION, FILL = _unit(0.80, 0.05, 0.60), _singles(0.22, 0.21, 0.22)
RIM_DIRECTION, RIM = _unit(0.65, 0.45, -0.61), _singles(0.55, 0.55, 0.58)
CATCH_DIRECTION = _unit(-0.30, 0.28, 0.91)  # the window reflected in the eyes
SIDE_CATCH_DIRECTION = _unit(0.72, 0.20, 0.66)  # another one, for eyes that look to that side
SKY, GROUND = _singles(0.23, 0.24, 0.27), _singles(0.13, 0.095, 0.08)
WRAP = _singles(0.42, 0.30, 0.25)  # skin scatters light past the terminator, red the farthest
SKIN_KEY, SKIN_OIL, SKIN_FILL = _singles(0.075, 0.055, 0.02)  # broad and narrow highlights of skin
# Strength of the window's reflection; squared cosines of its soft edge.
CATCH, CATCH_FROM, CATCH_EDGE = _singles(1.1, 0.985, 0.007)
WET_KEY = single(0.10)  # highlight of wet surfaces
GRAZING = single(0.32)  # reflection of the sky at grazing angles
BOUNCE = single(0.9)  # share of a wall's light on the opposite wall; 1 would divide 0 by 0
SHADE = single(0.16)  # share of a lamp's light that reaches a fully enclosed point
KNEE = single(0.75)  # light above which the curve bends
LEAST = single(1e-12)  # keeps 1 / 0 out


@compiled(fastmath=CONTRACT, forceinline=True)
def _wrapped(cosine, wrap):
    """Diffuse light for the cosine of its angle of incidence, extended past 90° by `wrap`."""
    return max((cosine + wrap) * (ONE / (ONE + wrap)), ZERO)


@compiled(fastmath=CONTRACT, forceinline=True)
def _open_light(openness, albedo):
    """Share of the surrounding light that reaches a point, including bounces between the walls.

    The sum of a geometric series: light that does not come from the sky comes from a wall, times
    the wall's albedo. This makes creases of skin warm instead of grey.
    """
    return openness / (ONE - BOUNCE * albedo * (ONE - openness))


@compiled(fastmath=CONTRACT, forceinline=True)
def _half_cosine_squared(normal, view, light):
    """Squared cosine, clamped at 0, of the normal and the half vector of view and light (Blinn)."""
    along = max(dot(normal, view) + dot(normal, light), ZERO)
    return along * along / (TWO + TWO * dot(view, light) + LEAST)


@compiled(fastmath=CONTRACT, forceinline=True)
def _diffuse(c, albedo, key, fill, rim, up, openness):
    """Diffuse light of colour channel c from the cosines of three lamps and the surroundings."""
    lamps = KEY[c] * _wrapped(key, WRAP[c]) + FILL[c] * _wrapped(fill, WRAP[c])
    lamps += RIM[c] * max(rim, ZERO)
    surroundings = GROUND[c] + (SKY[c] - GROUND[c]) * up
    return albedo * (
        lamps * (SHADE + (ONE - SHADE) * openness) + surroundings * _open_light(openness, albedo)
    )


@compiled(fastmath=CONTRACT, forceinline=True)
def _gleam(normal, view, openness, gloss):
    """Shares of light that the surface reflects: (of the key light, of the sky)."""
    key = _half_cosine_squared(normal, view, KEY_DIRECTION) ** 6
    fill = _half_cosine_squared(normal, view, FILL_DIRECTION) ** 6
    skin = SKIN_KEY * key + SKIN_OIL * key**5 + SKIN_FILL * fill
    window = _half_cosine_squared(normal, view, CATCH_DIRECTION)
    window = max(window, _half_cosine_squared(normal, view, SIDE_CATCH_DIRECTION))
    wet = CATCH * min(max((window - CATCH_FROM) * (ONE / CATCH_EDGE), ZERO), ONE)
    wet += WET_KEY * key**3
    grazing = max(ONE - dot(normal, view), ZERO)
    lamps = (SHADE + (ONE - SHADE) * openness) * (skin * openness * (ONE - gloss) + wet * gloss)
    # Surfaces that face down reflect the ground, which is dark: no grey seam under the jaw.
    return lamps, GRAZING * grazing**4 * openness * max(normal[1], ZERO)


@compiled(fastmath=CONTRACT, forceinline=True)
def _knee(light):
    """`light` with values above `KNEE` rolled off towards 1 instead of clipped.

    KNEE + (1 - KNEE) · (1 - exp(-t)), t = (light - KNEE) / (1 - KNEE). exp(t) is the 16th power of
    the first terms of its series at t / 16, which is exact to 1e-6 of the light.
    """
    t = max(light - KNEE, ZERO) * (ONE / (ONE - KNEE) / single(16.0))
    series = ONE + t * (ONE + t * (HALF + t * (single(1 / 6) + t * single(1 / 24))))
    growth = series**16
    return min(light, KNEE) + (ONE - KNEE) * (ONE - ONE / growth)


@compiled(fastmath=CONTRACT, forceinline=True)
def _light_point(normal, view, albedo, openness, gloss, front):
    """Linear light (r, g, b) from a point towards the viewer, at most 1; normal, view: unit."""
    key, fill = dot(normal, KEY_DIRECTION), dot(normal, FILL_DIRECTION)
    rim, up = dot(normal, RIM_DIRECTION), HALF + HALF * normal[1]
    red = _diffuse(0, albedo[0], key, fill, rim, up, openness)
    green = _diffuse(1, albedo[1], key, fill, rim, up, openness)
    blue = _diffuse(2, albedo[2], key, fill, rim, up, openness)
    lamp, sky = _gleam(normal, view, openness, gloss)
    share, lamp, sky = BACK_FACE + (ONE - BACK_FACE) * front, lamp * front, sky * front
    return (
        _knee(share * red + lamp * KEY[0] + sky * SKY[0]),
        _knee(share * green + lamp * KEY[1] + sky * SKY[1]),
        _knee(share * blue + lamp * KEY[2] + sky * SKY[2]),
    )


@compiled(fastmath=CONTRACT, forceinline=True)
def _direction(x, y, z):
    """(x, y, z) with length 1; about (0, 0, 0) where it is 0."""
    return scaled((x, y, z), ONE / math.sqrt(max(x * x + y * y + z * z, LEAST)))


@compiled(fastmath=CONTRACT)
def light_fragments(fragments: NDArray[np.float32], count: int) -> None:
    """Replace the first three rows of `count` fragments by their linear light r, g, b, 0 to 1."""
    for i in range((count + VECTOR - 1) // VECTOR * VECTOR):
        front = fragments[FRONT * ROW + i]
        normal = scaled(_direction(*_triple(fragments, NORMAL, i)), TWO * front - ONE)
        along_x, along_y = fragments[TO_VIEWER * ROW + i], fragments[(TO_VIEWER + 1) * ROW + i]
        view = _direction(along_x, along_y, ONE)
        share = ONE / fragments[W * ROW + i]
        red, green, blue = _light_point(
            normal,
            view,
            scaled(_triple(fragments, ALBEDO, i), share),
            fragments[OPENNESS * ROW + i] * share,
            fragments[GLOSS * ROW + i] * share,
            front,
        )
        fragments[i] = _level(red)
        fragments[ROW + i] = _level(green)
        fragments[2 * ROW + i] = _level(blue)


@compiled(forceinline=True)
def _triple(fragments, first, i):
    """Three rows of fragment i, from the row `first` on."""
    at = first * ROW + i
    return fragments[at], fragments[at + ROW], fragments[at + 2 * ROW]


@compiled(forceinline=True)
def _level(light):
    """`light`, and 0 for what is negative or not a number: an index is made of it."""
    return light if light > ZERO else ZERO
