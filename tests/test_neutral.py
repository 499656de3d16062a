"""`python -m export --template NAME`: neutral faces that come back as templates; wrong flags."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.read_glb import Glb
from common.errors import EXIT_BAD_INPUT, run_cli
from config import SYNTHETIC
from dataset.faces import choose_face
from export.__main__ import main
from files.meshes import load_mesh
from synthetic.head import load_head


def test_a_neutral_obj_comes_back_as_a_template(tmp_path: Path) -> None:
    main(["--template", "kenji", "--out", str(tmp_path)])
    name, template = choose_face(SYNTHETIC, own=tmp_path / "kenji.obj")
    assert name == "kenji"
    assert template == pytest.approx(load_head().templates["kenji"], abs=1e-6)
    assert (load_mesh(tmp_path / "kenji.obj")[1] == load_head().faces).all()


def test_a_neutral_glb_in_centimetres_is_a_hundred_times_as_large(tmp_path: Path) -> None:
    main(["--template", "ada", "--format", "glb", "--scale", "100", "--out", str(tmp_path)])
    glb = Glb(tmp_path / "ada.glb")
    expected = 100 * load_head().templates["ada"]
    assert glb.attribute("POSITION") == pytest.approx(expected, rel=1e-6)
    assert "animations" not in glb.json and "targets" not in glb.primitive


def test_all_writes_every_subject(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main(["--template", "all", "--format", "glb", "--out", str(tmp_path)])
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.stem for path in paths] == list(load_head().templates)
    assert sorted(paths) == sorted(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "no FILE.npy; give one, or --template NAME for a neutral face"),
        (["--template", "adam"], "--template adam: no subject has this name; expected all, ada"),
        (["--template", "ada", "--scale", "0"], "--scale 0.0: expected a positive number"),
        (["--template", "ada", "--scale", "nan"], "--scale nan: expected a positive number"),
        (["--template", "ada", "--formats", "glb"], "--formats: needs a FILE.npy"),
        (["a.npy", "--scale", "1"], "--scale: of a neutral face only; leave out FILE.npy"),
    ],
)
def test_flags_that_do_not_fit_are_named(
    flags: list[str], message: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_cli(main, flags) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_targets_by_name_need_the_format_glb(tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "a.npy", load_head().templates["ada"][None])
    flags = [str(tmp_path / "a.npy"), "--formats", "npz", "--glb_targets", "arkit"]
    assert run_cli(main, flags) == EXIT_BAD_INPUT
    assert "--glb_targets arkit: works with the format glb only" in capsys.readouterr().err
