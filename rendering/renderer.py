"""Meshes to frames: a `Renderer` draws one topology with one fixed camera.

The camera is framed once, from the template's bounds (y up, the face towards +z, any unit), so a
sequence neither flickers nor changes its framing. `Renderer.frame` draws one mesh and
`Renderer.frames` a sequence; `rendering.video` makes a video of them.

Renderers: `software` (raster.py, occlusion.py, shading.py: needs wheels only), `gpu` and `pyrender`
(opengl.py: need optional packages and OpenGL).
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from rendering.mesh_holes import HoleFill, drop_doubles
from rendering.occlusion import MOUTH_MAP, draw_mouth_map, look_around, open_mouth
from rendering.raster import project_points
from rendering.rims import find_rims, with_exposed
from rendering.rounding import Rounding
from rendering.srgb import srgb_to_linear

CLAY = (0.79, 0.66, 0.59)  # sRGB, for meshes without colours
FIELD_OF_VIEW = math.radians(20.0)  # as of a portrait lens, which distorts a face little
MARGIN = 1.06  # of the head's size, so that an open jaw stays in the picture
FLAT = 1e-3  # of its size: a head is taken to be at least so high and wide
SWING_STEPS = 9  # angles at which a head that turns is measured
NEAR = 0.02  # near plane, as a share of the camera's distance
COLOUR_NAMES = {
    "white": "ffffff", "black": "000000", "grey": "808080", "gray": "808080",
    "lightgrey": "d3d3d3", "lightgray": "d3d3d3", "darkgrey": "303030", "darkgray": "303030",
    "red": "ff0000", "green": "00b140", "blue": "0047bb", "beige": "f5f0e6",
    "studio": "dfe3e8",
}  # fmt: skip  # green and blue are the usual key colours


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
        raise UserError(f"background {colour!r}: expected #rrggbb, r,g,b or one of {names}")
    return values


def sides_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a size; an int is the side of a square."""
    return (size, size) if isinstance(size, int) else size


def check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(width, height) in pixels of a size; `UserError` unless such a video can be made."""
    sides = sides_of(size)
    for side in sides:
        if not 64 <= side <= 4096 or side % 2:
            raise UserError(f"size {side}: expected an even number of pixels from 64 to 4096")
    return sides


class Camera:
    """A perspective camera in front of the face, framed once from the template (V, 3).

    size: pixels a side, or (width, height); yaw: degrees by which the head is turned about its
    vertical axis, positive to its own left, which is the viewer's right; zoom: enlarges the picture
    about its middle; swing: degrees to either side of yaw at which the head stays in the picture.
    """

    def __init__(
        self,
        template: NDArray,
        size: int | tuple[int, int],
        yaw: float = 0.0,
        zoom: float = 1.0,
        swing: float = 0.0,
    ) -> None:
        low, high = template.min(axis=0), template.max(axis=0)
        self.centre = (low + high) / 2
        self.turn = rotation(yaw)
        points = template - self.centre
        half_height = (high[1] - low[1]) / 2
        half_width = max(
            float(np.abs(points @ rotation(angle)[0]).max())
            for angle in np.linspace(yaw - swing, yaw + swing, SWING_STEPS if swing else 1)
        )
        half = max(half_height, half_width)
        half_height, half_width = max(half_height, FLAT * half), max(half_width, FLAT * half)
        # The head stays inside the cylinder of this radius around its vertical axis.
        radius = np.hypot(*points[:, [0, 2]].T).max()
        self.distance = MARGIN * half / math.tan(FIELD_OF_VIEW / 2) + radius
        self.near = NEAR * self.distance
        self.width, self.height = sides_of(size)
        # Side of the square that frames the head, the largest for which the head is in the picture.
        side = min(self.width * (half / half_width), self.height * (half / half_height))
        self.side_px = zoom * side
        self.focal_px = self.side_px / 2 / math.tan(FIELD_OF_VIEW / 2)

    def view(self, vertices: NDArray) -> NDArray:
        """(V, 3) in view space: the viewer at the origin, looking along -z."""
        shift = self.turn @ self.centre + [0.0, 0.0, self.distance]
        return vertices @ self.turn.T - shift

    def project(self, view: NDArray, samples: float) -> NDArray:
        """(V, 3) in sample space: x, y in samples, `samples` to a pixel's side, and w = 1 / depth.

        w is 0 for vertices nearer than the near plane or behind the viewer.
        """
        middle = self.width * samples / 2, self.height * samples / 2
        return self._project(view, self.focal_px * samples, middle)

    def project_square(self, view: NDArray, side: int) -> tuple[NDArray, float]:
        """As `project`, into a map of side × side samples that frames the head at any zoom.

        Also returns the focal length in samples.
        """
        focal = self.focal_px * side / self.side_px
        return self._project(view, focal, (side / 2, side / 2)), focal

    def _project(self, view: NDArray, focal: float, middle: tuple[float, float]) -> NDArray:
        screen = np.empty(view.shape)
        project_points(view, self.near, focal, middle, screen)
        return screen


def rotation(yaw: float) -> NDArray:
    """(3, 3) that turns column vectors about the vertical axis by `yaw` degrees, z towards x."""
    c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _software_backend(*args):
    from rendering.software import SoftwareBackend

    return SoftwareBackend(*args)


def _gpu_backend(*args):
    from rendering.opengl import GpuBackend

    return GpuBackend(*args)


def _pyrender_backend(*args):
    from rendering.opengl import PyrenderBackend

    return PyrenderBackend(*args)


RENDERERS = {"software": _software_backend, "gpu": _gpu_backend, "pyrender": _pyrender_backend}


def choose_renderer(name: str) -> str:
    """`name`, or for "auto" `gpu` where a hardware GPU draws and `software` elsewhere.

    Raises `UserError` for an unknown name, or one whose package is not installed.
    """
    if name == "auto":
        from rendering.opengl import hardware_gpu_draws

        return "gpu" if hardware_gpu_draws() else "software"
    if name not in RENDERERS:
        raise UserError(f"renderer {name!r}: expected one of auto, {', '.join(RENDERERS)}")
    if name != "software":
        from rendering.opengl import check_installed

        check_installed(name)
    return name


def check_transparent(renderer: str) -> None:
    """Raise `UserError` for a renderer that has no transparent background."""
    if renderer not in ("auto", "software"):
        raise UserError(
            f"--background transparent: renderer {renderer} has none; give --renderer software"
        )


class Renderer:
    """Draws meshes of one topology with one fixed camera.

    faces: (F, 3) int, counter-clockwise seen from outside; template: (V, 3) in any unit, for
    framing; size, yaw, zoom, swing: see `Camera`; background: as for `parse_colour`, or
    None for transparent pictures (H, W, 4) with straight alpha, by `software` only; colors: (V, 3)
    sRGB 0..1 or None for clay; gloss: (V,) 0 skin .. 1 wet (eyes) or None; renderer: see
    `choose_renderer`; rounded: (V,) bool, where the surface is curved between the vertices (see
    `Rounding`), or None for nowhere; framed: (V,) bool, the vertices that the picture frames, or
    None for all. The lamps stand still, so a turned head catches their light from its side.
    """

    def __init__(
        self,
        faces: NDArray,
        template: NDArray,
        size: int | tuple[int, int] = 800,
        background: str | tuple[int, int, int] | None = "white",
        colors: NDArray | None = None,
        renderer: str = "software",
        gloss: NDArray | None = None,
        yaw: float = 0.0,
        zoom: float = 1.0,
        swing: float = 0.0,
        rounded: NDArray | None = None,
        framed: NDArray | None = None,
    ) -> None:
        self.template = _check_finite(np.asarray(template, np.float64), "template")
        faces = _check_faces(faces, self.template)
        self.hole_fill = HoleFill(faces, self.template)
        filled = self.hole_fill.append_vertices(self.template)
        curved = np.zeros(len(filled), bool)
        curved[: len(self.template)] = False if rounded is None else rounded
        faces = self.hole_fill.append_faces(faces, len(self.template))
        self.rounding = Rounding(faces, filled, curved)
        self.faces = self.rounding.faces
        points = self.template if framed is None else self.template[framed]
        self.camera = Camera(points, size, yaw, zoom, swing)
        rims, coarse_faces = (
            find_rims(self.rounding.coarse_faces, filled),
            self.rounding.coarse_faces,
        )
        openness, self.exposed = look_around(filled, coarse_faces, rims)
        self.coarse_rims = with_exposed(rims, coarse_faces, self.exposed)
        self.surface = self._surface(colors, gloss, openness)
        self.resting = self.surface[: len(filled), 3].copy()  # openness of unsplit vertices
        self.backend = self._backend(background, renderer)

    def _backend(self, background: str | tuple[int, int, int] | None, renderer: str) -> Any:
        if background is None:
            check_transparent(renderer)
            name, light = "software", None
        else:
            name, light = choose_renderer(renderer), parse_colour(background)
            light = srgb_to_linear(np.array(light) / 255)
        arguments = self.faces, self.camera, light
        if name == "software":
            filled = self.hole_fill.append_vertices(self.template)
            rims = find_rims(self.faces, self.rounding.append_vertices(filled))
            exposed = self.rounding.append_values(self.exposed.astype(float)) > 0
            arguments += (with_exposed(rims, self.faces, exposed),)
        return RENDERERS[name](*arguments)

    def _surface(self, colors: NDArray | None, gloss: NDArray | None, openness: NDArray) -> NDArray:
        """(N, 6) float32 linear r, g, b, openness, gloss, 0 of the template, its holes filled."""
        if colors is None:
            colors = np.broadcast_to(CLAY, self.template.shape)
        if colors.shape != self.template.shape or colors.min() < 0 or colors.max() > 1:
            raise ValueError(
                f"colors: shape {colors.shape}, {colors.min():g} to {colors.max():g}; "
                f"expected {self.template.shape}, 0 to 1"
            )
        filled = self.hole_fill.append_vertices(self.template)
        surface = np.zeros((len(filled), 6))
        surface[:, :3] = srgb_to_linear(self.hole_fill.append_colours(colors))
        surface[: len(colors), 4] = 0.0 if gloss is None else gloss
        surface[:, 3] = openness
        return self.rounding.append_values(surface).astype(np.float32)

    def frame(self, vertices: NDArray) -> NDArray:
        """The picture (H, W, 3) uint8 of `vertices` (V, 3); (H, W, 4) if transparent.

        Raises `UserError` where vertices are not finite.
        """
        if vertices.shape != self.template.shape:
            raise ValueError(f"vertices {vertices.shape}, the template is {self.template.shape}")
        vertices = _check_finite(np.asarray(vertices, np.float64), "mesh")
        view = self.view(vertices)
        return self.backend.draw(view, self._frame_surface(view))

    def view(self, vertices: NDArray) -> NDArray[np.float64]:
        """The vertices (N, 3) of `faces` in view space: those of a mesh (V, 3), then added ones."""
        filled = self.hole_fill.append_vertices(vertices.astype(np.float64))
        return self.camera.view(self.rounding.append_vertices(filled))

    def _frame_surface(self, view: NDArray) -> NDArray:
        """`surface` (N, 6) with the openness of this frame's mouth."""
        screen, focal = self.camera.project_square(view[: len(self.resting)], MOUTH_MAP)
        depth = np.empty((MOUTH_MAP, MOUTH_MAP), np.float32)
        openness = np.empty(len(screen), np.float32)
        draw_mouth_map(screen, self.rounding.coarse_faces, self.resting, self.coarse_rims, depth)
        open_mouth(screen, depth, focal, self.resting, openness)
        surface = self.surface.copy()
        surface[:, 3] = self.rounding.append_values(openness)
        return surface

    def frames(self, vertices: Iterable[NDArray], workers: int = 1) -> Iterator[NDArray]:
        """Pictures of a sequence of meshes (V, 3), in order, drawn ahead by `workers` threads."""
        if workers <= 1 or not self.backend.threadsafe:
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
        raise UserError(f"{what}: {count} vertices with NaN or infinite coordinates; cannot draw")
    return vertices


def _check_faces(faces: NDArray, template: NDArray) -> NDArray[np.int32]:
    """`faces` (F, 3) without doubles and counter-clockwise seen from outside."""
    faces = np.ascontiguousarray(faces, dtype=np.int32)
    if faces.min(initial=0) < 0 or faces.max(initial=-1) >= len(template):
        raise ValueError(
            f"faces: indices {faces.min()} to {faces.max()}, the template has {len(template)} "
            "vertices"
        )
    if not np.ptp(template, axis=0).max() > 0:
        raise UserError("template: all its vertices are at one point; cannot draw")
    return _facing_out(drop_doubles(faces, template), template)


def _facing_out(faces: NDArray, template: NDArray) -> NDArray:
    """`faces`, each reversed if the mesh is inside out (its signed volume is negative)."""
    a, b, c = (template - template.mean(axis=0))[faces].transpose(1, 0, 2)
    volume = np.einsum("ij,ij->", a, np.cross(b, c))
    return faces if volume >= 0 else np.ascontiguousarray(faces[:, ::-1])
