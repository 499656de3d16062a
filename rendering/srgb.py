"""sRGB to linear light and back (IEC 61966-2-1)."""

import numpy as np
from numpy.typing import NDArray


def srgb_to_linear(colour: NDArray) -> NDArray:
    """Linear light 0..1 of sRGB values 0..1 (IEC 61966-2-1)."""
    colour = np.asarray(colour, dtype=np.float64)
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: NDArray) -> NDArray:
    """sRGB values 0..1 of linear light 0..1 (IEC 61966-2-1)."""
    light = np.asarray(light, dtype=np.float64)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
