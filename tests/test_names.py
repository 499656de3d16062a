"""Names out of data that become parts of file names."""

from pathlib import Path

import numpy as np
import pytest

from BIWI.raw import list_clips
from common.errors import UserError
from dataset.clip_files import write_clip
from files.meshes import load_templates
from files.names import by_name, check_name
from tests.hostile_pickles import BAD_NAMES


@pytest.mark.parametrize(
    "name",
    [
        "FaceTalk_170725_00137_TA",
        "F1",
        "F2_e01",
        "M1 (take 2)",
        "ada..ben",
        "かな",
        "a'b",
        "-",
        "5",
    ],
)
def test_names_of_real_data_are_kept(name: str) -> None:
    assert check_name(name, "x.pkl") == name


def test_keys_of_python_2_and_numbers_are_names() -> None:
    assert check_name(b"F\xe9", "x.pkl") == "Fé" and check_name(np.int64(3), "x.pkl") == "3"


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_bad_name_is_refused_in_printable_text(name: str) -> None:
    with pytest.raises(UserError, match=r"x.pkl: name '.*' .*; rename it") as raised:
        check_name(name, "x.pkl")
    assert str(raised.value).isprintable() and str(raised.value).isascii()
    assert len(str(raised.value)) < 350


@pytest.mark.parametrize("keys", [("e\u0301", "\u00e9"), (1, "1"), (b"F\xe9", "F\u00e9")])
def test_two_keys_with_one_name_are_refused(keys: tuple) -> None:
    with pytest.raises(UserError, match=r"x.pkl: name '.*' is there twice; rename one of them"):
        by_name([(key, None) for key in keys], "x.pkl")


def test_templates_with_one_name_are_refused(tmp_path: Path) -> None:
    mesh = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
    for name in ("e\u0301.obj", "\u00e9.obj"):
        (tmp_path / name).write_text(mesh)
    np.savez(tmp_path / "x.npz", subjects=["a", "a"], template_mean=np.zeros((7, 3)),
             template_offsets=np.zeros((2, 7, 3)))  # fmt: skip
    for path in (tmp_path, tmp_path / "x.npz"):
        with pytest.raises(UserError, match="is there twice"):
            load_templates(path)


def test_no_clip_is_written_outside_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="begins with a dot"):
        write_clip(tmp_path / "out", "../../evil", [np.zeros(3)], np.zeros(9), 16_000)
    assert not list(tmp_path.iterdir())


def test_templates_of_an_npz_have_names_as_well(tmp_path: Path) -> None:
    mesh = np.zeros((7, 3), np.float32)
    np.savez(tmp_path / "a.npz", **{"../evil": mesh})
    np.savez(tmp_path / "b.npz", subjects=["../evil"], template_mean=mesh,
             template_offsets=mesh[None])  # fmt: skip
    for name in ("a.npz", "b.npz"):
        with pytest.raises(UserError, match=f"{name}: name '../evil' begins with a dot"):
            load_templates(tmp_path / name)


def test_subjects_of_biwi_are_checked(tmp_path: Path) -> None:
    (tmp_path / "faces/F1?/e01").mkdir(parents=True)
    with pytest.raises(UserError, match=r"faces: name 'F1\?' contains \?"):
        list_clips(tmp_path)
