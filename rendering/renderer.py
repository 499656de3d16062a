"""Meshes to frames, frames to a video with sound.

`Renderer` is bound to one topology and one camera, so a sequence never flickers or reframes; its
`frame` draws one mesh, `frames` a sequence. `write_video` pipes frames into the ffmpeg that comes
with imageio-ffmpeg and muxes the recording in the same pass.

Any unit will do: the camera is framed by the bounds of the template (y up, the face towards +z).
Renderers: `software` (raster.py, occlusion.py, shading.py: wheels only, the default), `gpu` and
`pyrender` (opengl.py, optional packages).
"""

import math
import os
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from rendering.mesh_holes import HoleFill, drop_doubles
from rendering.occlusion import MOUTH_MAP, measure_openness, open_mouth
from rendering.raster import rasterise, srgb_to_linear

CLAY = (0.79, 0.66, 0.59)  # sRGB, for meshes without colours
FIELD_OF_VIEW = math.radians(20.0)  # a portrait lens: little perspective in the face
MARGIN = 1.06  # of the head's size: a chin that drops stays in the picture
NEAR = 0.02  # of the camera's distance: what is nearer is behind the viewer
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
        raise UserError(
            f"background {colour!r} is no colour; give #rrggbb, r,g,b or one of {names}"
        )
    return values


def check_size(size: int) -> None:
    """Raise `UserError` unless a square video of `size` pixels a side can be made."""
    if not 64 <= size <= 4096 or size % 2:
        raise UserError(f"size {size}: give an even number of pixels from 64 to 4096")


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
        self.near = NEAR * self.distance
        self.focal_px = size / 2 / math.tan(FIELD_OF_VIEW / 2)
        self.size = size

    def view(self, vertices: NDArray, yaw: float) -> NDArray:
        """(V, 3) in view space: the viewer at the origin, looking along -z; yaw in degrees."""
        c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        turn = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
        return (vertices - self.centre) @ turn.T - [0.0, 0.0, self.distance]

    def project(self, view: NDArray, samples: float) -> NDArray:
        """(V, 3) x, y in samples, `samples` to a pixel's side, and w; w = 0 behind the viewer."""
        away = -view[:, 2]
        visible = away > self.near
        w = np.where(visible, 1.0, 0.0) / np.where(visible, away, 1.0)
        focal, middle = self.focal_px * samples, self.size * samples / 2
        screen = np.empty_like(view)
        screen[:, 0] = middle + focal * view[:, 0] * w
        screen[:, 1] = middle - focal * view[:, 1] * w
        screen[:, 2] = w
        return screen


def _load_software(*args):
    from rendering.shading import SoftwareBackend

    return SoftwareBackend(*args)


def _load_gpu(*args):
    from rendering.opengl import GpuBackend

    return GpuBackend(*args)


def _load_pyrender(*args):
    from rendering.opengl import PyrenderBackend

    return PyrenderBackend(*args)


RENDERERS = {"software": _load_software, "gpu": _load_gpu, "pyrender": _load_pyrender}


def choose_renderer(name: str) -> str:
    """`name`, or for "auto" `gpu` where a real GPU draws and `software` elsewhere.

    Raises `UserError` for an unknown name, or one whose package is not installed.
    """
    if name == "auto":
        from rendering.opengl import gpu_answers

        return "gpu" if gpu_answers() else "software"
    if name not in RENDERERS:
        raise UserError(f"no renderer {name!r}; give auto, {', '.join(RENDERERS)}")
    if name != "software":
        from rendering.opengl import check_installed

        check_installed(name)
    return name


class Renderer:
    """Draws meshes of one topology with one steady camera.

    faces: (F, 3) int, counter-clockwise seen from outside; template: (V, 3) in any unit, for
    framing; size: pixels a side; background: what `parse_colour` takes; colors: (V, 3) sRGB 0..1
    or None for clay; gloss: (V,) 0 skin .. 1 wet (eyes) or None; renderer: see `choose_renderer`.
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
        faces = _facing_out(drop_doubles(faces, self.template), self.template)
        self.backing = HoleFill(faces, self.template)
        self.faces = self.backing.faces(faces, len(self.template))
        self.camera = Camera(self.template, size)
        if colors is None:
            colors = np.broadcast_to(CLAY, self.template.shape)
        if colors.shape != self.template.shape or colors.min() < 0 or colors.max() > 1:
            raise ValueError(f"colors {colors.shape}: wanted {self.template.shape}, 0 to 1")
        whole = self.backing.vertices(self.template)
        self.surface = np.zeros((len(whole), 6))  # linear r, g, b, openness, gloss, 0
        self.surface[:, :3] = srgb_to_linear(self.backing.colours(colors))
        self.surface[:, 3] = measure_openness(whole, self.faces)
        self.surface[: len(colors), 4] = 0.0 if gloss is None else gloss
        light = srgb_to_linear(np.array(parse_colour(background)) / 255)
        self.backend = RENDERERS[choose_renderer(renderer)](self.faces, self.camera, light)

    def frame(self, vertices: NDArray, yaw: float = 0.0) -> NDArray:
        """The picture (H, W, 3) uint8 of `vertices` (V, 3), turned by `yaw` degrees to its left.

        Raises `UserError` where vertices are not finite.
        """
        if vertices.shape != self.template.shape:
            raise ValueError(f"vertices {vertices.shape}, template {self.template.shape}")
        vertices = _check_finite(np.asarray(vertices, np.float64), "the mesh")
        view = self.camera.view(self.backing.vertices(vertices), yaw)
        return self.backend.draw(view, self._light_mouth(view))

    def _light_mouth(self, view: NDArray) -> NDArray:
        """`surface` (V, 6) with the openness that this frame's mouth has."""
        side = MOUTH_MAP / self.camera.size
        screen = self.camera.project(view, side)
        depth = np.empty((MOUTH_MAP, MOUTH_MAP), np.float32)
        rasterise(screen, self.faces, depth, np.empty(depth.shape, np.int32))
        surface = self.surface.copy()
        open_mouth(screen, depth, self.camera.focal_px * side, self.surface[:, 3], surface[:, 3])
        return surface

    def frames(self, vertices: Iterable[NDArray], workers: int = 1) -> Iterator[NDArray]:
        """Pictures of a sequence of meshes (V, 3), in order, drawn by `workers` threads ahead."""
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
        raise UserError(f"{what} holds {count} vertices that are not finite; cannot draw it")
    return vertices


def _facing_out(faces: NDArray, template: NDArray) -> NDArray:
    """`faces`, turned round if the mesh is inside out (its signed volume is negative)."""
    a, b, c = (template - template.mean(axis=0))[faces].transpose(1, 0, 2)
    volume = np.einsum("ij,ij->", a, np.cross(b, c))
    return faces if volume >= 0 else np.ascontiguousarray(faces[:, ::-1])


def write_video(
    path: Path,
    frames: Iterable[NDArray],
    n_frames: int,
    fps: float,
    audio_path: Path | None = None,
) -> None:
    """Write `path`, H.264 (and AAC) in mp4, from `n_frames` pictures (H, W, 3) uint8, even H and W.

    The sound of `audio_path` (anything ffmpeg reads; more than two channels are mixed down) is cut
    to the length of the pictures. The file appears under its name only when it is whole. Raises
    `UserError` with ffmpeg's own words where it fails.
    """
    frames = iter(frames)
    first = next(frames)
    partial = path.with_name(f".{path.stem}.partial.mp4")
    command = _ffmpeg_command(partial, first.shape, n_frames, fps, audio_path)
    with tempfile.TemporaryFile() as complaints:  # a file, not a pipe: it never fills up and blocks
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaints
        )
        try:
            written = _feed(process.stdin, first, frames)
            if process.wait() != 0:
                complaints.seek(0)
                lines = complaints.read().decode(errors="replace").strip().splitlines()
                raise UserError(
                    f"ffmpeg cannot write {path}: {lines[-1] if lines else 'no reason'}"
                )
            if written != n_frames:
                raise ValueError(f"{n_frames} frames announced, {written} came")
            os.replace(partial, path)
        finally:
            process.kill()
            process.wait()
            partial.unlink(missing_ok=True)


def _feed(pipe, first: NDArray, frames: Iterator[NDArray]) -> int:
    """Write all frames to the pipe and close it; returns how many. Stops where ffmpeg hung up."""
    written = 0
    try:
        with pipe:
            for frame in chain([first], frames):
                if frame.shape != first.shape or frame.dtype != np.uint8:
                    raise ValueError(
                        f"frame {frame.shape} {frame.dtype}, first {first.shape} uint8"
                    )
                pipe.write(np.ascontiguousarray(frame).data)
                written += 1
    except BrokenPipeError:
        pass  # ffmpeg has ended; its exit code and words say why
    return written


def _ffmpeg_command(
    partial: Path, shape: tuple[int, ...], n_frames: int, fps: float, audio_path: Path | None
) -> list[str]:
    import imageio_ffmpeg

    try:
        ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise UserError(
            "no ffmpeg: pip install imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE"
        ) from error
    height, width = shape[:2]
    command = [ffmpeg, "-hide_banner", "-loglevel", "error", "-y"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}"]
    command += ["-i", "pipe:0"]
    if audio_path is not None:
        command += ["-i", str(Path(audio_path).resolve()), "-map", "0:v:0", "-map", "1:a:0"]
        command += ["-c:a", "aac", "-b:a", "160k", "-ac", "2"]
    # Colours as every player expects them of HD video; players of today want yuv420p.
    hd = "scale=out_color_matrix=bt709:out_range=tv,setparams=color_primaries=bt709:color_trc=bt709"
    command += ["-vf", hd, "-pix_fmt", "yuv420p"]
    command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "18"]
    # -shortest would miss the end by up to a packet of sound.
    command += ["-t", f"{n_frames / fps:.6f}", "-movflags", "+faststart", "-f", "mp4"]
    return [*command, str(partial.resolve())]
