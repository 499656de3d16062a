"""Fixtures of all tests: public files of others, random numbers, clip lengths, a toy recipe."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# For the processes that tests start, too: `make test` has a process for each core already.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from common import numba_jit
from config import Recipe
from files import content_index

numba_jit.notice.printed = True  # tests of messages hold without compiled kernels, too
torch.set_num_threads(1)  # a second thread makes small tensors slower
# a shell ignores Ctrl-C for what it starts in the background, and children inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """Folder of real VOCASET/BIWI templates and masks; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the public templates and masks (../shared/data) are not here")
    return SHARED_DATA


@pytest.fixture(autouse=True, scope="session")
def own_user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and the commands that they run, leave the user's cache folder alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user_cache")))
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(7)


@pytest.fixture
def lengths(rng: np.random.Generator) -> np.ndarray:
    """Clips of 1 to 12 s in frames, most of them short."""
    return np.clip(rng.lognormal(1.2, 0.5, 317), 1, 12) * 30 // 1


@pytest.fixture
def files_have_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat new files as old ones: no call can set the time of a file's last change (ctime)."""
    monkeypatch.setattr(content_index, "FRESH_NS", -(10**9))


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The toy recipe, registered as "toy", its data on disk; the test runs in `tmp_path`."""
    import main
    from tests.toy import toy_recipe

    toy = toy_recipe(tmp_path)
    monkeypatch.setitem(main.RECIPES, "toy", toy)
    monkeypatch.chdir(tmp_path)
    return toy
