"""The optional renderers: their error messages, the automatic choice, equal pictures."""

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh

from common.errors import UserError
from rendering import opengl
from rendering.renderer import Renderer, choose_renderer


@pytest.fixture(scope="module")
def ball():
    """(faces, vertices) of a unit sphere."""
    mesh = trimesh.creation.icosphere(subdivisions=3)
    return np.asarray(mesh.faces), np.asarray(mesh.vertices)


@pytest.mark.parametrize(("renderer", "package"), [("gpu", "moderngl"), ("pyrender", "pyrender")])
def test_a_renderer_without_its_package_names_the_install_command(
    ball, monkeypatch, renderer, package
):
    monkeypatch.setitem(sys.modules, package, None)  # makes its import fail
    with pytest.raises(UserError, match=f"renderer {renderer}: .*pip install {package}"):
        Renderer(*ball, size=64, renderer=renderer)


def test_auto_is_software_where_moderngl_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "moderngl", None)
    assert choose_renderer("auto") == "software"


@pytest.mark.parametrize(
    ("name", "code", "chosen"),
    [
        ("NVIDIA H100 80GB HBM3/PCIe/SSE2", 0, "gpu"),
        ("llvmpipe (LLVM 19.1.7, 256 bits)", 0, "software"),
        ("ANGLE (Google, Vulkan 1.3 (SwiftShader Device), SwiftShader driver)", 0, "software"),
        ("", 0, "software"),
        ("NVIDIA", -11, "software"),  # the driver crashed
    ],
)
def test_auto_uses_the_gpu_only_where_hardware_draws(monkeypatch, name, code, chosen):
    answer = SimpleNamespace(stdout=f"{name}\n", returncode=code)
    monkeypatch.setattr(opengl.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(opengl.subprocess, "run", lambda *_, **__: answer)
    assert choose_renderer("auto") == chosen


def test_auto_does_not_wait_for_a_driver_that_hangs(monkeypatch):
    def hang(*_, timeout, **__):
        raise subprocess.TimeoutExpired("probe", timeout)

    monkeypatch.setattr(opengl.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(opengl.subprocess, "run", hang)
    assert choose_renderer("auto") == "software"


def test_gpu_draws_what_software_draws(ball):
    if importlib.util.find_spec("moderngl") is None:
        pytest.skip("moderngl is not installed")
    faces, vertices = ball
    both = np.vstack([vertices, 0.3 * vertices + [0.0, 0.4, 0.9]])
    faces = np.vstack([faces[len(faces) // 5 :], faces + len(vertices)])  # an open bowl, an eye
    looks = {"colors": 0.5 + 0.4 * both.clip(-1, 1), "gloss": (both[:, 2] > 1.0).astype(float)}
    try:
        gpu = Renderer(faces, both, 128, renderer="gpu", yaw=20, **looks).frame(both)
    except UserError as error:
        pytest.skip(str(error))
    software = Renderer(faces, both, 128, yaw=20, **looks).frame(both)
    difference = np.abs(gpu.astype(int) - software)
    assert difference.mean() < 1.0 and np.percentile(difference, 95) <= 2  # edges differ
