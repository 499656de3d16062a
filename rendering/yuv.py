"""Pictures as most video encoders take them: YUV 4:2:0 in 8 bits, BT.709 at limited range.

ITU-R BT.709-6, sections 3 and 4: Y' from 16 to 235, Cb and Cr from 16 to 240. One chroma sample
stands for 2 × 2 pixels: the mean of two columns, filtered across the rows as ffmpeg's scaler does
(bicubic, a = -0.6), so that videos look as if ffmpeg had converted them.
"""

import numpy as np
from numpy.typing import NDArray

from common.numba_jit import compiled
from rendering.lanes import CONTRACT

RED, GREEN, BLUE = 0.2126, 0.7152, 0.0722  # share of light
LUMA_RANGE, CHROMA_RANGE = 219 / 255, 224 / 255
BITS = 15  # of the fractions below; a sum of two pixels has one more
ONE = 1 << BITS


def _integers(*weights: float) -> tuple[np.int32, np.int32, np.int32]:
    return tuple(np.int32(round(weight * ONE)) for weight in weights)


LUMA = _integers(*(LUMA_RANGE * share for share in (RED, GREEN, BLUE)))
_CB, _CR = CHROMA_RANGE / 2 / (1 - BLUE), CHROMA_RANGE / 2 / (1 - RED)
CB = _integers(-_CB * RED, -_CB * GREEN, _CB * (1 - BLUE))
CR = _integers(_CR * (1 - RED), -_CR * GREEN, -_CR * BLUE)


def _bicubic(distance: float) -> float:
    """Weight of a row at a distance in chroma rows (Keys 1981, a = -0.6)."""
    a, x = -0.6, distance
    if x < 1.0:
        return (a + 2.0) * x**3 - (a + 3.0) * x**2 + 1.0
    return a * (x**3 - 5.0 * x**2 + 8.0 * x - 4.0)


# Of the rows at 0.5, 1.5, 2.5 and 3.5 pixels from a chroma row, on either side.
TAPS = tuple(np.float32(_bicubic(k / 2 + 0.25) / 2) for k in range(4))
RING = 8  # rows of the picture that a row of chroma reads
LUMA_OFFSET = np.int32((16 << BITS) + ONE // 2)
PER_PAIR = np.float32(1 / (2 * ONE))
GREY, ZERO, LARGEST = np.float32(128.5), np.float32(0), np.float32(255)


def yuv_of(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Planes Y (H, W), Cb and Cr (H / 2, W / 2) one after another, flat, of a picture (H, W, 3).

    H and W are even. Equal to ffmpeg's conversion to within 1.
    """
    height, width, _ = picture.shape
    if height % 2 or width % 2:
        raise ValueError(f"picture {width} x {height}: expected even sides")
    planes = np.empty(height * width * 3 // 2, np.uint8)
    flat = np.ascontiguousarray(picture).reshape(height, 3 * width)
    luma = planes[: height * width].reshape(height, width)
    chroma = planes[height * width :].reshape(2, height // 2, width // 2)
    _fill_planes(flat, luma, chroma)
    return planes


@compiled()
def _fill_planes(picture, luma, chroma):
    """Fill luma (H, W) and chroma (2, H / 2, W / 2) of a picture (H, 3 W)."""
    height, half = luma.shape[0], chroma.shape[2]
    rows = np.empty((RING, 2, half), np.float32)
    done = 0  # rows of chroma
    for i in range(height):
        _fill_row(picture[i], luma[i], rows[i % RING, 0], rows[i % RING, 1])
        # Row k of chroma reads the rows up to 2 k + 4 of the picture.
        while 2 * done + RING // 2 <= i or (i == height - 1 and done < height // 2):
            _filter_rows(rows, done, height - 1, chroma[:, done])
            done += 1


@compiled(fastmath=CONTRACT)
def _filter_rows(rows, k, last, chroma):
    """Fill row k of chroma, (2, W / 2); last: row of the picture, which is repeated below it."""
    for plane in range(2):
        a = rows[max(2 * k - 3, 0) % RING, plane], rows[min(2 * k + 4, last) % RING, plane]
        b = rows[max(2 * k - 2, 0) % RING, plane], rows[min(2 * k + 3, last) % RING, plane]
        c = rows[max(2 * k - 1, 0) % RING, plane], rows[min(2 * k + 2, last) % RING, plane]
        d = rows[2 * k % RING, plane], rows[(2 * k + 1) % RING, plane]
        for j in range(chroma.shape[1]):
            near, next_to = d[0][j] + d[1][j], c[0][j] + c[1][j]
            far, farthest = b[0][j] + b[1][j], a[0][j] + a[1][j]
            value = TAPS[0] * near + TAPS[1] * next_to + TAPS[2] * far + TAPS[3] * farthest
            value = value * PER_PAIR + GREY
            chroma[plane, j] = np.uint8(min(max(value, ZERO), LARGEST))


@compiled()
def _fill_row(pixels, luma, cb, cr):
    """Fill luma (W,), and cb, cr (W / 2,): the sums of two pixels, times ONE."""
    for j in range(luma.shape[0]):
        red, green = np.int32(pixels[3 * j]), np.int32(pixels[3 * j + 1])
        blue = np.int32(pixels[3 * j + 2])
        light = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
        luma[j] = np.uint8((light + LUMA_OFFSET) >> BITS)
    for j in range(cb.shape[0]):
        red = np.int32(pixels[6 * j]) + np.int32(pixels[6 * j + 3])
        green = np.int32(pixels[6 * j + 1]) + np.int32(pixels[6 * j + 4])
        blue = np.int32(pixels[6 * j + 2]) + np.int32(pixels[6 * j + 5])
        cb[j] = np.float32(CB[0] * red + CB[1] * green + CB[2] * blue)
        cr[j] = np.float32(CR[0] * red + CR[1] * green + CR[2] * blue)
