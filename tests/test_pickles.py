"""Data-set pickles: equal to Python's reader for content, one line for everything else."""

import collections
import io
import pickle
import random
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from files.meshes import load_region, load_templates
from files.pickled_values import DTYPES
from files.pickles import PickleReader, load_pickle
from tests.hostile import mutants
from tests.hostile_pickles import ATTACKS, BAD_NAMES, array, data, in_layouts, text
from vocaset.process_voca_data import clip_audio, read_audio, read_index

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read_clips(path: Path) -> None:
    """Stream raw_audio_fixed.pkl and read every clip of it."""
    with tempfile.TemporaryFile() as scratch:
        for subject, clips in read_audio(path, scratch).items():
            for sentence, clip in clips.items():
                clip_audio(clip, f"{subject}_{sentence}")


USERS: dict[str, Callable[[Path], Any]] = {
    "templates": load_templates,
    "region": lambda path: load_region(path, 5023, "lips"),
    "index": read_index,
    "streaming": read_clips,
}


def random_content(rng: random.Random, depth: int = 4) -> Any:
    """Containers of everything that a data-set pickle may hold."""
    kind = rng.randrange(16 if depth else 9)
    size = rng.randrange(4)
    if kind < 3:
        dtype = DTYPES[rng.choice(list(DTYPES))].newbyteorder(rng.choice("<>"))
        shape = [rng.randrange(4) for _ in range(rng.randrange(4))]
        values = np.random.default_rng(rng.randrange(99)).normal(size=shape) * 9
        made = np.abs(values).astype(dtype)
        return rng.choice([made, made.T, np.asfortranarray(made), made.swapaxes(0, -1)]
                          if shape else [made])  # fmt: skip
    if kind == 3:
        return DTYPES[rng.choice(list(DTYPES))].type(rng.randrange(2))
    if kind < 9:
        word = "".join(rng.choice("ab \n\\'\"é\x80\xff\0か🗣") for _ in range(3 * size))
        number = rng.choice([0, 1, -1, 255, 65_536, -(2**31), 2**40, 2**64 - 1])
        plain = (word, number, rng.normalvariate(0, 9), word.encode(), rng.random() < 0.5)
        return plain[kind - 4]
    items = [random_content(rng, depth - 1) for _ in range(size)]
    keys = [rng.choice([number, str(number), b"%d" % number, None, 0.5]) for number in range(size)]
    named = dict(zip(keys, items, strict=True))
    shared = items * 2
    return (
        named, collections.OrderedDict(named), shared, tuple(items), set(keys), frozenset(keys),
        bytearray(b"abc" * size),
    )[kind - 9]  # fmt: skip


def assert_equal(ours: Any, theirs: Any) -> None:
    """Equal in type, order and content."""
    assert type(ours) is type(theirs)
    if isinstance(ours, np.ndarray):
        assert ours.dtype.str[1:] == theirs.dtype.str[1:]  # numpy swaps some bytes to native order
        np.testing.assert_array_equal(ours, theirs)
    elif isinstance(ours, dict | list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_equal(a, b)
        for key in ours if isinstance(ours, dict) else ():
            assert_equal(ours[key], theirs[key])
    else:
        assert ours == theirs


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_content_is_read_as_python_reads_it(protocol: int) -> None:
    rng = random.Random(protocol)
    for _ in range(150):
        content = pickle.dumps([random_content(rng) for _ in range(3)], protocol=protocol)
        assert_equal(PickleReader(io.BytesIO(content)).load(), pickle.loads(content))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_array_that_appears_twice_is_one_array(protocol: int) -> None:
    values = np.arange(40_000.0)  # longer than what the memo keeps of an array's data
    content = pickle.dumps({"a": values, "b": [values], "c": "x" * 70_000}, protocol=protocol)
    loaded = PickleReader(io.BytesIO(content)).load()
    assert loaded["a"] is loaded["b"][0] and loaded["c"] == "x" * 70_000
    np.testing.assert_array_equal(loaded["a"], values)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy 2's, for the names of numpy 1
def test_the_public_pickles_are_read_as_python_reads_them(shared_data: Path) -> None:
    paths = sorted(shared_data.rglob("*.pkl"))
    assert paths
    for path in paths:
        assert_equal(load_pickle(path), pickle.loads(path.read_bytes(), encoding="latin1"))


@pytest.mark.parametrize("user", USERS)
def test_attacks_end_in_one_line(user: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    for attack, content in ATTACKS.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match="x.pkl: not a readable pickle of arrays: "):
            load_pickle(path)
            pytest.fail(attack)
        for layout in in_layouts(content):
            path.write_bytes(layout)
            with pytest.raises(UserError, match=r"\.pkl: "):
                USERS[user](path)
                pytest.fail(attack)


def test_attacks_need_little_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        for content in ATTACKS.values():
            with pytest.raises(ValueError):
                PickleReader(io.BytesIO(content)).load()
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("flood", [b"]", b"}", b"\x8f", b"N\x94", b"N", b"(", b"N2"])
def test_floods_of_operations_are_limited(flood: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("MAX_OPERATIONS", "MAX_CONTAINERS", "MAX_MEMO"):
        monkeypatch.setattr(f"files.pickles.{limit}", 1000)
    with pytest.raises(ValueError, match=r"more than|less than"):
        PickleReader(io.BytesIO(flood * 1000 + b".")).load()


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_out_of_pickles_that_are_no_file_names_are_refused(name: str, tmp_path: Path) -> None:
    path, bad = tmp_path / "x.pkl", BAD_NAMES[name]
    mesh = array(data(bytes(24)), (3,))
    path.write_bytes(b"\x80\x02}" + text(bad) + mesh + b"s.")
    with pytest.raises(UserError, match=r"x.pkl: name '.*' .*rename it"):
        load_templates(path)
    rows = b"}K\x00K\x00s"
    sound = b"}" + text("audio") + array(data(bytes(24)), (3,)) + b"s"
    for subject, sentence in ((bad, "sentence01"), ("ada", bad)):
        for entry, read in ((rows, read_index), (sound, read_clips)):
            clips = b"}" + text(sentence) + entry + b"s"
            path.write_bytes(b"\x80\x02}" + text(subject) + clips + b"s.")
            with pytest.raises(UserError, match=r"x.pkl: name '.*' .*rename it"):
                read(path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_mutants_are_read_or_end_in_one_line(protocol: int, tmp_path: Path) -> None:
    """Nothing but `ValueError` leaves the reader, and nothing but `UserError` its users."""
    sound = {"audio": np.arange(9, dtype=np.int16), "sample_rate": np.int64(22_000)}
    content = {"ada": {"s01": sound}, "lips": np.arange(6.0).reshape(2, 3), "x": [1, (2.5, {3})]}
    path, n_refused = tmp_path / "x.pkl", 0
    for number, mutant in enumerate(mutants(pickle.dumps(content, protocol=protocol), 400)):
        try:
            PickleReader(io.BytesIO(mutant)).load()
        except ValueError:
            n_refused += 1
            continue
        path.write_bytes(mutant or b".")
        try:
            list(USERS.values())[number % len(USERS)](path)
        except UserError:
            n_refused += 1
    assert n_refused > 300


@pytest.mark.parametrize("values", [[[1, 2, 3], [4, 5]], [1, "a"], {"a": 1}, "text", None, [[]]])
def test_content_that_is_no_array_is_refused_by_name(values: Any, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"ada": values, "ben": 1}))
    with pytest.raises(UserError, match=r"x.pkl: ada: expected a \(V, 3\) array"):
        load_templates(tmp_path / "x.pkl")
    with pytest.raises(UserError, match="x.pkl: "):
        load_region(tmp_path / "x.pkl", 7, "ada")
