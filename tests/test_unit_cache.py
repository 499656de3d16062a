"""Transferred units are computed once for a face, and again where their file is damaged."""

import sys

import numpy as np
import pytest

from common.paths import user_cache
from export import unit_cache
from files import cache as cache_module
from synthetic.head import load_head

V = 7
FACES = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
UNITS = np.random.default_rng(0).normal(size=(2, V, 3)).astype(np.float32)
TEMPLATE = np.random.default_rng(1).normal(size=(V, 3)).astype(np.float32)


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The faces that units were computed for; the cache is empty."""
    done = []

    def transferred(head, template, faces):
        done.append(template)
        return ("mouthClose", "jawOpen"), UNITS

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache_module, "KEEP_FREE_BYTES", 0)
    monkeypatch.setattr(unit_cache, "transferred_units", transferred)
    return done


def test_the_second_call_reads_what_the_first_has_stored(calls):
    for _ in range(2):
        names, units = unit_cache.units_on(TEMPLATE, FACES)
        assert len(calls) == 1
        order = sorted(names, key=list(load_head().units).index)
        assert list(names) == order and set(names) == {"mouthClose", "jawOpen"}
        for name, unit in zip(("mouthClose", "jawOpen"), UNITS, strict=True):
            np.testing.assert_array_equal(units[names.index(name)], unit)


def test_another_face_or_other_triangles_have_their_own_units(calls):
    unit_cache.units_on(TEMPLATE, FACES)
    unit_cache.units_on(TEMPLATE + 1, FACES)
    unit_cache.units_on(TEMPLATE, FACES[:, ::-1])
    assert len(calls) == 3


def test_a_damaged_entry_is_computed_again_and_a_line_says_so(calls, tmp_path, capsys):
    unit_cache.units_on(TEMPLATE, FACES)
    (entry,) = tmp_path.rglob("*.npy")
    content = bytearray(entry.read_bytes())
    content[-50] ^= 1
    entry.write_bytes(content)
    _, units = unit_cache.units_on(TEMPLATE, FACES)
    np.testing.assert_array_equal(np.sort(units.ravel()), np.sort(UNITS.ravel()))
    assert len(calls) == 2
    assert "damaged units of a face; they are computed again" in capsys.readouterr().err
    unit_cache.units_on(TEMPLATE, FACES)
    assert len(calls) == 2


def test_without_a_folder_the_units_are_computed_every_time(calls, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        unit_cache.units_on(TEMPLATE, FACES)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("platform", "named", "expected"),
    [
        ("linux", "/big/cache", "/big/cache/jambatalk"),
        ("linux", "relative", "/home/ada/.cache/jambatalk"),
        ("darwin", "", "/home/ada/Library/Caches/jambatalk"),
    ],
)
def test_the_folder_follows_the_platform(platform, named, expected, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    monkeypatch.setenv("HOME", "/home/ada")
    assert user_cache().as_posix() == expected
