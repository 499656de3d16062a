"""The cache: computed once, bit-equal, entries whole or absent after errors, kills and damage."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError, run_cli
from common.whole_file import LEFTOVERS
from files import cache as cache_module
from files.cache import Cache, NoCache, clear, holdings, main, model_key

ROOT = Path(__file__).resolve().parents[1]
MAKER = {"what": "teacher", "model": "abc"}


@pytest.fixture(autouse=True)
def _any_free_space_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "KEEP_FREE_BYTES", 0)


class Maker:
    """Returns its array and counts the calls."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.calls = array, 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return self.array


@pytest.fixture
def features(rng: np.random.Generator) -> Maker:
    return Maker(rng.standard_normal((7, 11)).astype(np.float32))


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("[!.]*.npy"))


def temporary_files(folder: Path) -> list[Path]:
    return list(folder.rglob(LEFTOVERS))


def python(code: str, *argv: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_an_array_is_made_once_and_mapped_read_only(tmp_path: Path, features: Maker) -> None:
    first = Cache(tmp_path, MAKER).get("clip", features)
    again = Cache(tmp_path, dict(reversed(MAKER.items()))).get("clip", features)  # another run
    assert features.calls == 1
    for entry in (first, again):
        assert isinstance(entry, np.memmap) and not entry.flags.writeable
        assert entry.dtype == np.float32 and entry.tobytes() == features.array.tobytes()
    assert np.load(entries(tmp_path)[0]).tobytes() == features.array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0, np.int64),  # a clip without text
        np.float32([np.nan, -0.0, np.inf, 1e-42]),
        np.float64(0.1),
        np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(2, 0, 1),
    ],
)
def test_every_shape_dtype_and_bit_is_preserved(tmp_path: Path, array: np.ndarray) -> None:
    cache = Cache(tmp_path, MAKER)
    for entry in (cache.get("x", lambda: array), cache.get("x", Maker(None))):
        assert isinstance(entry, np.memmap)
        assert (entry.shape, entry.dtype) == (array.shape, array.dtype)
        assert entry.tobytes() == array.tobytes()


def test_a_tensor_is_stored_as_it_is(tmp_path: Path) -> None:
    tensor = torch.arange(5, dtype=torch.float32) / 3
    assert np.array_equal(Cache(tmp_path, MAKER).get("x", lambda: tensor), tensor.numpy())


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected an array of numbers"):
        Cache(tmp_path, MAKER).get("x", lambda: np.array(["text"]))
    assert not entries(tmp_path)


def test_another_key_or_maker_is_another_entry(tmp_path: Path) -> None:
    arrays = [
        Cache(tmp_path, maker).get(key, lambda i=i: np.array([i]))
        for i, (maker, key) in enumerate(
            [
                (MAKER, "a"),
                (MAKER, "b"),
                (MAKER | {"model": "abd"}, "a"),
                ({"what": "teacher"}, "a"),
            ]
        )
    ]
    assert [int(array[0]) for array in arrays] == [0, 1, 2, 3]
    assert len(entries(tmp_path)) == 4


def test_a_damaged_entry_is_computed_again(tmp_path: Path, features: Maker) -> None:
    Cache(tmp_path, MAKER).get("clip", features)
    (path,) = entries(tmp_path)
    whole = path.read_bytes()
    assert len(whole) == 128 + 7 * 11 * 4 + 36

    def flipped(at: int) -> bytes:
        return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]

    damaged = [whole[:n] for n in (0, 5, 60, 128, 130, 128 + 308, len(whole) - 1)]
    damaged += [flipped(at) for at in (0, 8, 30, 128, 300, 128 + 308, len(whole) - 1)]
    damaged += [whole + b"x", b"RIFF" * 100, bytes(len(whole))]
    for n, content in enumerate(damaged, start=2):
        path.write_bytes(content)
        entry = Cache(tmp_path, MAKER).get("clip", features)
        assert features.calls == n and entry.tobytes() == features.array.tobytes()
        assert path.read_bytes() == whole


def test_an_entry_of_another_key_is_computed_again(tmp_path: Path, features: Maker) -> None:
    cache = Cache(tmp_path, MAKER)
    cache.get("clip", features)
    (path,) = entries(tmp_path)
    cache.get("other", lambda: np.zeros(3))
    (other,) = set(entries(tmp_path)) - {path}
    path.write_bytes(other.read_bytes())  # whole, but not this key's
    assert cache.get("clip", features).tobytes() == features.array.tobytes()
    np.save(path, np.zeros(3))  # an .npy that no cache wrote
    assert cache.get("clip", features).tobytes() == features.array.tobytes()
    assert features.calls == 3


def test_a_mapped_entry_outlives_its_replacement(tmp_path: Path, features: Maker) -> None:
    entry = Cache(tmp_path, MAKER).get("clip", features)
    clear(tmp_path)
    assert entry.tobytes() == features.array.tobytes()
    assert Cache(tmp_path, MAKER).get("clip", features) is not entry and features.calls == 2


LIMITED = """
import resource, signal, sys
import numpy as np
from files import cache
cache.KEEP_FREE_BYTES = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
shared = cache.Cache(sys.argv[1], {"what": "test"})
shared.get("small", lambda: np.zeros(100))
for key in ("a", "b"):
    array = np.arange(10_000, dtype=np.float32)
    entry = shared.get(key, lambda: array)
    assert entry.tobytes() == array.tobytes() and not entry.flags.writeable
"""


def test_a_write_that_fails_is_one_warning_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file sizes in place of a full disk: 20 kB are written, then the write fails."""
    pytest.importorskip("resource")  # not on Windows
    child = python(LIMITED, str(tmp_path))
    out, err = child.communicate()
    assert child.returncode == 0, err
    assert err.count("\n") == 1 and err.startswith(f"warning: cache {tmp_path}: cannot be written")
    assert len(entries(tmp_path)) == 1 and not temporary_files(tmp_path)


def test_nothing_is_written_to_a_disk_that_is_nearly_full(
    tmp_path: Path,
    features: Maker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cache_module, "KEEP_FREE_BYTES", 2**60)
    cache = Cache(tmp_path, MAKER)
    for key in ("a", "b"):
        assert cache.get(key, features).tobytes() == features.array.tobytes()
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "GB free" in err and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_reported_in_one_line() -> None:
    with pytest.raises(UserError, match="cannot be written"):
        Cache("/proc/nowhere", MAKER)


SHARING = """
import sys
import numpy as np
from files import cache
cache.KEEP_FREE_BYTES = 0
shared = cache.Cache(sys.argv[1], {"what": "test"})
for i in range(60):
    array = np.full((50, 100), i, np.float32)
    assert shared.get(str(i), lambda: array).tobytes() == array.tobytes()
"""


def test_processes_share_a_folder(tmp_path: Path) -> None:
    children = [python(SHARING, str(tmp_path)) for _ in range(4)]
    for child in children:
        out, err = child.communicate()
        assert child.returncode == 0 and not err
    assert len(entries(tmp_path)) == 60 and not temporary_files(tmp_path)


KILLED = """
import os, signal, sys
import numpy as np
from files import cache
cache.KEEP_FREE_BYTES = 0
shared = cache.Cache(sys.argv[1], {"what": "test"})
shared.get("first", lambda: np.zeros(9))
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
shared.get("second", lambda: np.ones(9))
"""


def test_a_process_killed_while_writing_leaves_no_entry(tmp_path: Path) -> None:
    child = python(KILLED, str(tmp_path))
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert len(entries(tmp_path)) == 1
    (left,) = temporary_files(tmp_path)
    assert Cache(tmp_path, {"what": "test"}).get("second", lambda: np.ones(9)).sum() == 9
    assert not left.exists() and len(entries(tmp_path)) == 2


def test_a_model_key_depends_on_every_name_shape_and_bit() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    key = model_key(model)
    assert model_key(model.state_dict()) == key
    assert model_key(dict(reversed(model.state_dict().items()))) == key
    assert model_key({k: v.numpy() for k, v in model.state_dict().items()}) == key
    others = []
    for name, value in model.state_dict().items():
        changed = model.state_dict()
        if value.is_floating_point():
            changed[name] = value.clone()
            flat = changed[name].view(-1)
            flat[-1] = torch.nextafter(flat[-1], torch.tensor(9.0))  # the last bit of the last one
        else:
            changed[name] = value + 1
        others.append(model_key(changed))
    state = model.state_dict()
    others.append(model_key(state | {"0.weight": state["0.weight"].T}))
    others.append(model_key(state | {"0.bias": state["0.bias"].bfloat16()}))
    others.append(model_key({f"x{k}": v for k, v in state.items()}))
    assert len({key, *others}) == 1 + len(others)


def test_no_cache_gives_the_same_bits_and_stores_nothing(tmp_path: Path, features: Maker) -> None:
    off = NoCache()
    assert off.content_key(tmp_path / "none.wav") == ""
    for n in (1, 2):
        array = off.get("clip", features)
        assert features.calls == n and not array.flags.writeable
        assert array.tobytes() == Cache(tmp_path, MAKER).get("c", lambda: features.array).tobytes()


@pytest.mark.usefixtures("files_have_settled")
def test_the_command_lists_entries_and_clear_deletes_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Cache(tmp_path, MAKER)
    cache.get("a", lambda: np.zeros(1_000, np.float32))
    Cache(tmp_path, {"what": "audio"}).get("a", lambda: np.zeros(1, np.float32))
    (tmp_path / "mine.txt").write_bytes(b"my own")
    cache.content_key(tmp_path / "mine.txt")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "also.npy").write_bytes(b"my own")
    big, small = holdings(tmp_path)
    assert (big.entries, big.n_bytes) == (1, 128 + 4_000 + 36) and small.n_bytes == 128 + 4 + 36
    assert json.loads(big.made_by) == {"format": 1, **MAKER}
    assert run_cli(main, ["--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert '"what": "teacher"' in out and out.count("1 entries") == 2 and "in all\n" in out
    assert run_cli(main, ["--folder", str(tmp_path), "--clear"]) == 0
    assert "deleted" in capsys.readouterr().out
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"mine.txt", "mine", "mine/also.npy"}


def test_a_missing_folder_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(main, ["--folder", str(tmp_path / "none")]) == 2
    err = capsys.readouterr().err
    assert "no such folder" in err and err.count("\n") == 1


def test_the_cache_needs_no_torch() -> None:
    child = python("import sys; from files import cache; assert 'torch' not in sys.modules")
    assert child.wait() == 0
