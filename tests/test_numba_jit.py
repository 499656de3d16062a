"""The folder in which compiled kernels are cached depends on all kernels of a wing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import numba_jit
from common.numba_jit import COMPILING, cache_folder
from config import PROJECT_ROOT
from rendering import raster, software

KERNEL = "from common.numba_jit import compiled\n"


@pytest.fixture
def wing(tmp_path: Path) -> Path:
    """A folder with two files of kernels and another file."""
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(KERNEL)
    (tmp_path / "other.py").write_text("")
    cache_folder.cache_clear()
    return tmp_path


def test_a_change_of_one_kernel_leaves_the_cache_of_all(wing: Path) -> None:
    before = Path(cache_folder(wing))
    assert before.parent == wing / "__pycache__"
    cache_folder.cache_clear()
    (wing / "other.py").write_text("CHANGED = 1\n")
    assert Path(cache_folder(wing)) == before
    cache_folder.cache_clear()
    (wing / "two.py").write_text(KERNEL + "CHANGED = 1\n")
    after = Path(cache_folder(wing))
    assert after != before
    assert after.is_dir()
    assert not before.exists()


def test_where_the_wing_cannot_be_written_the_users_cache_is_taken(
    wing: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setattr(numba_jit, "user_cache", lambda: home)
    (wing / "__pycache__").write_text("a file where the folder should be")
    assert Path(cache_folder(wing)).parent == home / wing.name
    cache_folder.cache_clear()
    chosen = tmp_path_factory.mktemp("chosen")
    assert Path(cache_folder(wing, str(chosen))).parent == chosen / wing.name


def test_kernels_of_one_wing_share_a_folder() -> None:
    kernels = raster.rasterise, software.draw_picture
    folders = {Path(kernel._cache.cache_path).parent for kernel in kernels}
    assert len(folders) == 1
    assert folders.pop().name.startswith("kernels-")


def test_compiling_is_announced_in_one_line_the_first_time(tmp_path: Path) -> None:
    kernels = (
        "@compiled()\ndef one(x):\n    return x\n@compiled()\ndef two(x):\n    return one(x)\n"
    )
    (tmp_path / "wing").mkdir()
    (tmp_path / "wing/kernels.py").write_text(f"{KERNEL}{kernels}two(1)\ntwo(1.5)\n")
    path = os.pathsep.join([str(PROJECT_ROOT), str(tmp_path)])
    said = [
        subprocess.run(
            [sys.executable, "-c", "import wing.kernels"],
            env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True,
        ).stderr
        for _ in range(2)
    ]  # fmt: skip
    assert said == [f"{COMPILING}\n", ""]
