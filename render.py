"""Meshes to frames, frames to a video with sound.

`Renderer` is bound to one topology and one camera, so a sequence never flickers or reframes; its
`frame` draws one mesh, `frames` a sequence. `write_video` pipes frames into the ffmpeg that comes
with imageio-ffmpeg and muxes the recording in the same pass.

Any unit will do: the camera is framed by the bounds of the template (y up, the face towards +z).
Renderers: `software` (raster.py, needs wheels only, the default), `gpu` and `pyrender`
(render_gl.py, optional packages).
"""

import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from errors import UserError

CLAY = (0.79, 0.66, 0.59)  # sRGB, for meshes without colours
FIELD_OF_VIEW = math.radians(20.0)  # a portrait lens: little perspective in the face
MARGIN = 1.06  # of the head's size: a chin that drops stays in the picture
COLOUR_NAMES = {
    "white": "ffffff", "black": "000000", "grey": "808080", "gray": "808080",
    "lightgrey": "d3d3d3", "lightgray": "d3d3d3", "darkgrey": "303030", "darkgray": "303030",
    "red": "ff0000", "green": "00b140", "blue": "0047bb", "beige": "f5f0e6",
    "studio": "dfe3e8",
}  # fmt: skip  # green and blue are the usual key colours
ENCODE_STEPS = 4096
OPENNESS_DIRECTIONS = 96
OPENNESS_MAP = 192  # side of the depth pictures that openness is measured in


def parse_colour(colour: str | tuple[int, int, int]) -> tuple[int, int, int]:
    """(r, g, b) 0..255 of a name, "#rrggbb", "r,g,b" or a triple; else `UserError`."""
    if isinstance(colour, str):
        text = COLOUR_NAMES.get(colour.strip().lower(), colour.strip().lstrip("#"))
        try:
            if "," in text:
                values = tuple(int(part) for part in text.split(","))
            elif len(text) == 6:
                values = tuple(bytes.fromhex(text))
            else:
                values = ()
        except ValueError:
            values = ()
    else:
        values = tuple(int(value) for value in colour)
    if len(values) != 3 or not all(0 <= value <= 255 for value in values):
        names = ", ".join(COLOUR_NAMES)
        raise UserError(
            f"background {colour!r} is no colour; give #rrggbb, r,g,b or one of {names}"
        )
    return values


def srgb_to_linear(colour: NDArray) -> NDArray:
    """Linear light 0..1 of sRGB values 0..1 (IEC 61966-2-1)."""
    colour = np.asarray(colour, dtype=np.float64)
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: NDArray) -> NDArray:
    """sRGB values 0..1 of linear light 0..1 (IEC 61966-2-1)."""
    light = np.asarray(light, dtype=np.float64)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


class Camera:
    """A perspective camera before the face, framed once by the template's bounds."""

    def __init__(self, template: NDArray, size: int) -> None:
        low, high = template.min(axis=0), template.max(axis=0)
        self.centre = (low + high) / 2
        # From every yaw the head stays inside the cylinder around its vertical axis.
        tall = (high[1] - low[1]) / 2
        wide = np.hypot(*(template - self.centre)[:, [0, 2]].T).max()
        half = MARGIN * max(tall, float(np.abs(template[:, 0] - self.centre[0]).max()))
        self.distance = half / math.tan(FIELD_OF_VIEW / 2) + wide
        self.focal_px = size / 2 / math.tan(FIELD_OF_VIEW / 2)
        self.size = size

    def view(self, vertices: NDArray, yaw: float) -> NDArray:
        """(V, 3) in view space: the viewer at the origin, looking along -z; yaw in degrees."""
        c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        turn = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
        return (vertices - self.centre) @ turn.T - [0.0, 0.0, self.distance]

    def project(self, view: NDArray, samples: int) -> NDArray:
        """(V, 3) x, y in samples of a pixel's side / `samples`, and w; w = 0 behind the viewer."""
        away = -view[:, 2]
        visible = away > 0.02 * self.distance
        w = np.where(visible, 1.0, 0.0) / np.where(visible, away, 1.0)
        focal, middle = self.focal_px * samples, self.size * samples / 2
        screen = np.empty_like(view)
        screen[:, 0] = middle + focal * view[:, 0] * w
        screen[:, 1] = middle - focal * view[:, 1] * w
        screen[:, 2] = w
        return screen


class SoftwareBackend:
    """Draws with raster.py on the CPU; may be called from several threads."""

    def __init__(self, faces: NDArray, surface: NDArray, camera: Camera, background: NDArray):
        import raster

        self.kernels = raster
        self.faces, self.surface, self.camera = faces, surface, camera
        self.background = background
        codes = linear_to_srgb(np.linspace(0.0, 1.0, ENCODE_STEPS))
        self.encode = np.round(255 * codes).astype(np.uint8)
        self.buffers = threading.local()

    def draw(self, view: NDArray) -> NDArray:
        """The picture (H, W, 3) uint8 of vertices (V, 3) in view space."""
        raster, size = self.kernels, self.camera.size
        screen = self.camera.project(view, raster.SAMPLES)
        if not hasattr(self.buffers, "depth"):
            side = size * raster.SAMPLES
            self.buffers.depth = np.empty((side, side), np.float32)
            self.buffers.face_ids = np.empty((side, side), np.int32)
        depth, face_ids = self.buffers.depth, self.buffers.face_ids
        face_normals, normals = np.empty((len(self.faces), 3)), np.empty((len(view), 3))
        raster.surface_normals(view, self.faces, face_normals, normals)
        raster.rasterise(screen, self.faces, depth, face_ids)
        image = np.empty((size, size, 3), np.uint8)
        raster.shade(
            screen, view, self.faces, face_normals, normals, self.surface,
            depth, face_ids, self.background, self.encode, image,
        )  # fmt: skip
        return image


def measure_openness(template: NDArray, faces: NDArray) -> NDArray:
    """(V,) how much of the sky above each vertex of the template is free: 1 open, 0 enclosed.

    Ambient occlusion from small orthographic depth pictures out of evenly spread directions.
    """
    import raster

    centre = (template.min(axis=0) + template.max(axis=0)) / 2
    radius = np.linalg.norm(template - centre, axis=1).max()
    points = (template - centre) / radius
    normals = np.empty_like(points)
    raster.surface_normals(points, faces, np.empty((len(faces), 3)), normals)
    depth = np.empty((OPENNESS_MAP, OPENNESS_MAP), np.float32)
    face_ids = np.empty((OPENNESS_MAP, OPENNESS_MAP), np.int32)
    seen, total = np.zeros(len(points)), np.zeros(len(points))
    for k in range(OPENNESS_DIRECTIONS):
        # Fibonacci sphere.
        height = 1 - (2 * k + 1) / OPENNESS_DIRECTIONS
        turn = k * math.pi * (3 - math.sqrt(5))
        flat = math.sqrt(1 - height * height)
        direction = np.array([flat * math.cos(turn), height, flat * math.sin(turn)])
        right = np.cross([0.0, 0.0, 1.0] if abs(height) > 0.9 else [0.0, 1.0, 0.0], direction)
        right /= np.linalg.norm(right)
        up = np.cross(direction, right)
        screen = np.stack([points @ right, -(points @ up), points @ direction], axis=1)
        screen[:, :2] = (screen[:, :2] + 1.0) * OPENNESS_MAP / 2
        screen[:, 2] += 2.0  # positive, as the z-buffer wants it
        raster.rasterise(screen, faces, depth, face_ids)
        raster.add_visible(screen, normals, depth, direction, 0.012, seen, total)
    openness = np.where(total > 0, seen / np.maximum(total, 1e-9), 0.0)
    return _smooth(openness, faces)


def _smooth(values: NDArray, faces: NDArray) -> NDArray:
    """(V,) values averaged once over the triangles around each vertex."""
    sums, counts = np.zeros_like(values), np.zeros_like(values)
    of_face = values[faces].mean(axis=1)
    for corner in range(3):
        np.add.at(sums, faces[:, corner], of_face)
        np.add.at(counts, faces[:, corner], 1.0)
    return np.where(counts > 0, sums / np.maximum(counts, 1.0), values)


def _load_gpu(*args):
    from render_gl import GpuBackend

    return GpuBackend(*args)


def _load_pyrender(*args):
    from render_gl import PyrenderBackend

    return PyrenderBackend(*args)


RENDERERS = {"software": SoftwareBackend, "gpu": _load_gpu, "pyrender": _load_pyrender}


def choose_renderer(name: str) -> str:
    """`name`, or for "auto" `gpu` where a real GPU draws and `software` elsewhere."""
    if name == "auto":
        from render_gl import gpu_answers

        return "gpu" if gpu_answers() else "software"
    if name not in RENDERERS:
        raise UserError(f"no renderer {name!r}; give auto, {', '.join(RENDERERS)}")
    return name


class Renderer:
    """Draws meshes of one topology with one steady camera.

    faces: (F, 3) int, counter-clockwise seen from outside; template: (V, 3) in any unit, for
    framing; size: pixels a side; background: what `parse_colour` takes; colors: (V, 3) sRGB 0..1
    or None for clay; gloss: (V,) 0 skin .. 1 wet (eyes) or None; renderer: a key of `RENDERERS`.
    """

    def __init__(
        self,
        faces: NDArray,
        template: NDArray,
        size: int = 800,
        background: str | tuple[int, int, int] = "white",
        colors: NDArray | None = None,
        renderer: str = "software",
        gloss: NDArray | None = None,
    ) -> None:
        self.template = _check_finite(np.asarray(template, np.float64), "the template")
        faces = np.ascontiguousarray(faces, dtype=np.int32)
        if faces.min(initial=0) < 0 or faces.max(initial=-1) >= len(template):
            raise ValueError(f"faces index up to {faces.max()}, template has {len(template)}")
        if not np.ptp(self.template, axis=0).max() > 0:
            raise UserError("the template has no extent: all its vertices coincide")
        self.faces = _facing_out(faces, self.template)
        self.camera = Camera(self.template, size)
        albedo = srgb_to_linear(
            np.broadcast_to(CLAY, self.template.shape) if colors is None else colors
        )
        if albedo.shape != self.template.shape:
            raise ValueError(f"colors {albedo.shape} do not fit the template {self.template.shape}")
        surface = np.empty((len(albedo), 5))
        surface[:, :3] = albedo
        surface[:, 3] = measure_openness(self.template, self.faces)
        surface[:, 4] = 0.0 if gloss is None else gloss
        light = srgb_to_linear(np.array(parse_colour(background)) / 255)
        self.backend = RENDERERS[renderer](self.faces, surface, self.camera, light)

    def frame(self, vertices: NDArray, yaw: float = 0.0) -> NDArray:
        """The picture (H, W, 3) uint8 of `vertices` (V, 3), turned by `yaw` degrees to its left.

        Raises `UserError` where vertices are not finite.
        """
        if vertices.shape != self.template.shape:
            raise ValueError(f"vertices {vertices.shape}, template {self.template.shape}")
        vertices = _check_finite(np.asarray(vertices, np.float64), "the mesh")
        return self.backend.draw(self.camera.view(vertices, yaw))

    def frames(self, vertices: Iterable[NDArray], workers: int = 1) -> Iterator[NDArray]:
        """Pictures of a sequence of meshes (V, 3), in order, drawn by `workers` threads ahead."""
        if workers <= 1 or not isinstance(self.backend, SoftwareBackend):
            yield from map(self.frame, vertices)
            return
        with ThreadPoolExecutor(workers) as pool:
            waiting: deque = deque()
            for mesh in vertices:
                waiting.append(pool.submit(self.frame, mesh))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def _check_finite(vertices: NDArray, what: str) -> NDArray:
    if not np.isfinite(vertices).all():
        count = int((~np.isfinite(vertices)).any(axis=-1).sum())
        raise UserError(f"{what} holds {count} vertices that are not finite; cannot draw it")
    return vertices


def _facing_out(faces: NDArray, template: NDArray) -> NDArray:
    """`faces`, turned round if the mesh is inside out (its signed volume is negative)."""
    a, b, c = (template - template.mean(axis=0))[faces].transpose(1, 0, 2)
    volume = np.einsum("ij,ij->", a, np.cross(b, c))
    return faces if volume >= 0 else np.ascontiguousarray(faces[:, ::-1])
