"""Renderers that need OpenGL and an optional package: `gpu` (moderngl) and `pyrender`.

`gpu` computes the light of `rendering.shading` in a fragment shader, with the same constants;
`auto` uses it only on a hardware GPU. `pyrender` exists for comparison with the field's usual
pictures. Where one of them cannot draw, it raises `UserError` with the reason and never returns a
black frame.
"""

import importlib.util
import os
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, reason_of
from config import PROJECT_ROOT
from rendering import shading
from rendering.raster import surface_normals
from rendering.software import ENCODE_STEPS
from rendering.srgb import linear_to_srgb

if TYPE_CHECKING:
    from rendering.renderer import Camera

PACKAGES = {  # renderer: the package it needs, and how to get it
    "gpu": ("moderngl", "pip install moderngl"),
    # The PyOpenGL version that pyrender requires lacks a function it needs; a later one has it.
    "pyrender": (
        "pyrender",
        "pip install pyrender==0.1.45, then pip install PyOpenGL==3.1.10",
    ),
}
PROBE_TIMEOUT_S = 20
SOFTWARE_GL = ("llvmpipe", "softpipe", "swiftshader", "software", "basic render")
MULTISAMPLES = 8
# Tried in order on a machine without a screen; the first needs libEGL, the second a display.
CONTEXT_BACKENDS = ({"backend": "egl"}, {}) if sys.platform == "linux" else ({},)

VERTEX_SHADER = """
#version 330
uniform mat4 projection;
in vec3 position; in vec3 normal; in vec3 albedo; in vec2 finish;
out vec3 at; out vec3 to_normal; out vec3 colour; out vec2 open_gloss;
void main() {
    at = position; to_normal = normal; colour = albedo; open_gloss = finish;
    gl_Position = projection * vec4(position, 1.0);
}
"""

# The light of `rendering.shading`, which explains each term; its constants become #defines.
FRAGMENT_SHADER = """
#version 330
%s
in vec3 at; in vec3 to_normal; in vec3 colour; in vec2 open_gloss;
out vec4 light;
vec3 wrapped(float cosine, vec3 wrap) { return max((cosine + wrap) / (1.0 + wrap), 0.0); }
float half_cosine_squared(vec3 n, vec3 v, vec3 lamp) {
    return pow(max(dot(n, normalize(v + lamp)), 0.0), 2.0);
}
vec3 knee(vec3 x) {
    return mix(x, 1.0 - 0.25 * exp((0.75 - x) / 0.25), greaterThan(x, vec3(0.75)));
}
void main() {
    vec3 n = normalize(to_normal) * (gl_FrontFacing ? 1.0 : -1.0), v = normalize(-at);
    float openness = open_gloss.x, gloss = open_gloss.y;
    vec3 lamps = KEY * wrapped(dot(n, KEY_DIRECTION), WRAP)
        + FILL * wrapped(dot(n, FILL_DIRECTION), WRAP)
        + RIM * max(dot(n, RIM_DIRECTION), 0.0);
    float shade = SHADE + (1.0 - SHADE) * openness;
    vec3 around = mix(GROUND, SKY, 0.5 + 0.5 * n.y);
    vec3 diffuse = colour * (lamps * shade + around * openness
        / (1.0 - BOUNCE * colour * (1.0 - openness)));
    if (!gl_FrontFacing) { light = vec4(BACK_FACE * diffuse, 1.0); return; }
    float key = pow(half_cosine_squared(n, v, KEY_DIRECTION), 6.0);
    float fill = pow(half_cosine_squared(n, v, FILL_DIRECTION), 6.0);
    float skin = SKIN_KEY * key + SKIN_OIL * pow(key, 5.0) + SKIN_FILL * fill;
    float window = max(half_cosine_squared(n, v, CATCH_DIRECTION),
        half_cosine_squared(n, v, SIDE_CATCH_DIRECTION));
    float wet = CATCH * clamp((window - CATCH_FROM) / CATCH_EDGE, 0.0, 1.0)
        + WET_KEY * pow(key, 3.0);
    float sky = GRAZING * pow(max(1.0 - dot(n, v), 0.0), 4.0) * openness * max(n.y, 0.0);
    float lamp = shade * (skin * openness * (1.0 - gloss) + wet * gloss);
    light = vec4(knee(diffuse + lamp * KEY + sky * SKY), 1.0);
}
"""

SHARED_NUMBERS = (
    "KEY_DIRECTION", "KEY", "FILL_DIRECTION", "FILL", "RIM_DIRECTION", "RIM", "CATCH_DIRECTION",
    "SIDE_CATCH_DIRECTION", "SKY", "GROUND", "WRAP", "SHADE", "BOUNCE", "BACK_FACE", "SKIN_KEY",
    "SKIN_OIL", "SKIN_FILL", "CATCH", "CATCH_FROM", "CATCH_EDGE", "WET_KEY", "GRAZING",
)  # fmt: skip

PROBE = """
from rendering.opengl import open_context
print(open_context().info["GL_RENDERER"])
"""


def check_installed(name: str) -> None:
    """Raise `UserError` with the install line if the package of renderer `name` is missing."""
    package, install = PACKAGES[name]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"renderer {name}: {package} is not installed; {install}")


def hardware_gpu_draws() -> bool:
    """Whether a hardware GPU draws; tried in a child process, because drivers may hang or crash."""
    if importlib.util.find_spec("moderngl") is None:
        return False
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    name = done.stdout.strip().lower()
    return done.returncode == 0 and bool(name) and not any(word in name for word in SOFTWARE_GL)


def open_context() -> Any:
    """An OpenGL 3.3 context without a window. Raises `UserError` where none can be created."""
    import moderngl

    reasons = []
    for options in CONTEXT_BACKENDS:
        try:
            return moderngl.create_context(standalone=True, require=330, **options)
        except Exception as error:  # moderngl raises bare Exception and ctypes errors alike
            reasons.append(f"{options.get('backend', 'the display')}: {reason_of(error)}")
    raise UserError(
        f"renderer gpu: no OpenGL 3.3 context ({'; '.join(reasons)}); "
        "install the GPU's driver (with libEGL), or use --renderer software"
    )


class GpuBackend:
    """Draws with moderngl; only the thread that created it may use it."""

    threadsafe = False

    def __init__(self, faces: NDArray, camera: "Camera", background: NDArray) -> None:
        self.context = open_context()
        self.faces, self.camera, self.background = faces, camera, background
        self.size = (camera.width, camera.height)
        self.program = self.context.program(VERTEX_SHADER, FRAGMENT_SHADER % _defines())
        self.program["projection"].write(_projection(camera).T.astype("f4").tobytes())
        self.moving = self.context.buffer(reserve=int(faces.max() + 1) * 11 * 4, dynamic=True)
        self.mesh = self.context.vertex_array(
            self.program,
            [(self.moving, "3f 3f 3f 2f", "position", "normal", "albedo", "finish")],
            self.context.buffer(np.ascontiguousarray(faces, dtype="i4").tobytes()),
        )
        samples = min(MULTISAMPLES, self.context.max_samples)
        # Half floats hold linear light: samples are averaged before they are encoded as sRGB.
        self.canvas = self.context.framebuffer(
            self.context.renderbuffer(self.size, 4, samples=samples, dtype="f2"),
            self.context.depth_renderbuffer(self.size, samples=samples),
        )
        self.resolved = self.context.framebuffer(
            self.context.renderbuffer(self.size, 4, dtype="f2")
        )
        codes = linear_to_srgb(np.linspace(0.0, 1.0, ENCODE_STEPS))
        self.encode = np.round(255 * codes).astype(np.uint8)

    def draw(self, view: NDArray, surface: NDArray) -> NDArray:
        """The picture (H, W, 3) uint8 of vertices (V, 3) in view space; surface as for shading."""
        import moderngl

        normals = np.empty_like(view)
        surface_normals(view, self.faces, np.empty((len(self.faces), 3), np.float32), normals)
        self.moving.write(np.hstack([view, normals, surface[:, :5]]).astype("f4").tobytes())
        self.canvas.use()
        self.canvas.clear(*self.background, 1.0)
        self.context.enable_only(moderngl.DEPTH_TEST)
        self.mesh.render()
        self.context.copy_framebuffer(self.resolved, self.canvas)
        light = np.frombuffer(self.resolved.read(components=3, dtype="f2", alignment=1), "f2")
        width, height = self.size
        light = light.reshape(height, width, 3)[::-1].astype(np.float32)
        steps = ENCODE_STEPS - 1
        return self.encode[(np.clip(light, 0.0, 1.0) * steps + 0.5).astype(np.int32)]


def _defines() -> str:
    """The constants of `rendering.shading` as preprocessor lines."""
    lines = []
    for name in SHARED_NUMBERS:
        value = getattr(shading, name)
        text = f"vec3{tuple(map(float, value))}" if isinstance(value, tuple) else float(value)
        lines.append(f"#define {name} {text}")
    return "\n".join(lines)


def _projection(camera: "Camera") -> NDArray:
    """(4, 4) from view space to OpenGL's clip space, equivalent to `Camera.project`."""
    scale = 2.0 * camera.focal_px
    near, far = camera.near, 100.0 * camera.distance
    return np.array(
        [
            [scale / camera.width, 0.0, 0.0, 0.0],
            [0.0, scale / camera.height, 0.0, 0.0],
            [0.0, 0.0, -(far + near) / (far - near), -2.0 * far * near / (far - near)],
            [0.0, 0.0, -1.0, 0.0],
        ]
    )


class PyrenderBackend:
    """Draws with pyrender's own light, and the camera, colours and dark insides of `software`."""

    threadsafe = False

    def __init__(self, faces: NDArray, camera: "Camera", background: NDArray) -> None:
        self.pyrender = _import_pyrender()
        self.faces, self.camera = faces, camera
        self.background = linear_to_srgb(background)
        try:
            self.renderer = self.pyrender.OffscreenRenderer(camera.width, camera.height)
        except Exception as error:  # PyOpenGL passes on any exception of its platform module
            raise UserError(
                f"renderer pyrender: no OpenGL context ({reason_of(error)}); set PYOPENGL_PLATFORM "
                "to egl or osmesa and install that library, or use --renderer software"
            ) from error

    def draw(self, view: NDArray, surface: NDArray) -> NDArray:
        """The picture (H, W, 3) uint8 of vertices (V, 3) in view space; surface as for shading."""
        pyrender, camera = self.pyrender, self.camera
        scene = pyrender.Scene(bg_color=[*self.background, 1.0], ambient_light=[0.25] * 3)
        scene.add(
            pyrender.IntrinsicsCamera(
                camera.focal_px, camera.focal_px, camera.width / 2, camera.height / 2,
                znear=camera.near, zfar=100.0 * camera.distance,
            )
        )  # fmt: skip
        normals = np.empty_like(view)
        surface_normals(view, self.faces, np.empty((len(self.faces), 3), np.float32), normals)
        # A mesh for each side, because pyrender lights the inside like the outside.
        outside = np.hstack([surface[:, :3], np.ones((len(surface), 1))])
        inside = outside * [*[shading.BACK_FACE] * 3, 1.0]
        scene.add(self._mesh(view, normals, self.faces, outside))
        scene.add(self._mesh(view, -normals, self.faces[:, ::-1], inside))
        for direction, colour in (
            (shading.KEY_DIRECTION, shading.KEY),
            (shading.FILL_DIRECTION, shading.FILL),
            (shading.RIM_DIRECTION, shading.RIM),
        ):
            lamp = pyrender.DirectionalLight(color=np.clip(colour, 0, 1), intensity=3.0)
            scene.add(lamp, pose=_looking_from(direction))
        colour, _ = self.renderer.render(scene)
        return np.ascontiguousarray(colour)

    def _mesh(self, points: NDArray, normals: NDArray, faces: NDArray, colours: NDArray) -> Any:
        pyrender = self.pyrender
        material = pyrender.MetallicRoughnessMaterial(metallicFactor=0.0, roughnessFactor=0.7)
        primitive = pyrender.Primitive(
            points, normals=normals, indices=faces, color_0=colours, material=material
        )
        return pyrender.Mesh([primitive])


def _looking_from(direction: tuple[float, float, float]) -> NDArray:
    """(4, 4) pose of a directional light that shines from `direction` (unit) along its -z axis."""
    z = np.array(direction)
    x = np.cross([0.0, 1.0, 0.0], z)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
    return pose


def _import_pyrender() -> Any:
    """The pyrender module, without its viewer, which needs a display."""
    if sys.platform == "linux":
        os.environ.setdefault("PYOPENGL_PLATFORM", "egl")  # read when OpenGL is first imported
    stub = types.ModuleType("pyrender.viewer")
    stub.Viewer = None
    sys.modules.setdefault("pyrender.viewer", stub)
    try:
        import pyrender
    except (ImportError, AttributeError) as error:  # PyOpenGL without libGL: AttributeError
        raise UserError(
            f"renderer pyrender: cannot be imported ({reason_of(error)}); {PACKAGES['pyrender'][1]}"
        ) from error
    return pyrender
