"""Names of shapes as tools spell them, and the factors of curves that are given by name."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from common.errors import EXIT_BAD_INPUT, UserError, run_cli
from export.__main__ import main
from export.clip import SYNTHETIC, Clip
from export.curves import curves_of, unit_basis
from export.gains import parse_gains
from export.live_link import ARKIT_UNITS
from export.shape_names import (
    ARKIT,
    arkit_spellings,
    match,
    nearest,
    viseme_spellings,
    vowel_spellings,
)
from production.flags import parse
from production.plan import check
from synthetic.head import load_head


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("JawOpen", ["jawOpen"]), ("blendShape1.eyeBlink_L", ["eyeBlinkLeft"]),
        ("Mesh|eye_blink.r", ["eyeBlinkRight"]), ("L_MouthSmile", ["mouthSmileLeft"]),
        ("A25_Jaw_Open", ["jawOpen"]), ("browInnerUp_L", ["browInnerUp"]), ("jaw_R", ["jawRight"]),
        ("mouthSmile", ["mouthSmileLeft", "mouthSmileRight"]), ("jawOpen.001", ["jawOpen"]),
        ("Fcl_EYE_Close_R", ["eyeBlinkRight"]), ("eyesClosed", ["eyeBlinkLeft", "eyeBlinkRight"]),
        ("EYEBLINKLEFT", ["eyeBlinkLeft"]), ("mouthClose_jawOpen", None), ("jawOpenMore", None),
    ],
)  # fmt: skip
def test_names_of_arkit_are_known_in_all_spellings(name: str, shapes: list[str] | None) -> None:
    known = match(name, arkit_spellings())
    assert (known and list(known.shapes)) == shapes


def test_all_units_have_spellings_of_their_own() -> None:
    for unit in ARKIT_UNITS:
        for name in (unit, unit[0].upper() + unit[1:], f"head.{unit}", unit.lower()):
            assert match(name, arkit_spellings()).shapes == (unit,)
        short = unit.replace("Left", "_L").replace("Right", "_R")
        assert match(short, arkit_spellings()).shapes == (unit,)


def test_vowels_and_visemes_are_known_by_the_names_of_several_tools() -> None:
    vowels = {"Fcl_MTH_A": "aa", "あ": "aa", "ou": "ou", "E": "ee", "Mouth_O": "oh"}
    for name, vowel in vowels.items():
        assert match(name, vowel_spellings()).shapes == (vowel,)
    for name, viseme in {"viseme_kk": "kk", "vrc.v_ih": "I", "PP": "PP", "V_SS": "SS"}.items():
        assert match(name, viseme_spellings()).shapes == (viseme,)
    assert match("Outfit_A", vowel_spellings()) is None


def test_the_nearest_name_is_one_that_is_spelled_alike() -> None:
    assert nearest("jawOpn", ARKIT) == "jawOpen" and nearest("smirk", ARKIT) is None


def test_gains_are_read_by_any_spelling_and_the_last_one_counts() -> None:
    gains = parse_gains(["jaw_open=1.2", "mouthSmile=0.5", "JawOpen=0.9"])
    assert dict(gains) == {"jawOpen": 0.9, "mouthSmileLeft": 0.5, "mouthSmileRight": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jawOpen", "expected NAME=FACTOR, 0 to 10, such as jawOpen=1.2"),
        ("jawOpen=-1", "expected NAME=FACTOR, 0 to 10"),
        ("jawOpen=nan", "expected NAME=FACTOR, 0 to 10"),
        ("jawOpn=1", "no curve has this name; the nearest is jawOpen"),
        ("smirk=1", "no curve has this name; expected a name of ARKit or tongueUp"),
    ],
)
def test_wrong_gains_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^--gain {text}: {message}"):
        parse_gains([text])


def test_the_record_of_a_run_compares_gains_after_json(tmp_path: Path) -> None:
    """Else a recording with --gain would never count as done."""
    flags = check(parse(["--out", str(tmp_path), "--no_video", "--gain", "jawOpen=1.2"])).flags()
    assert flags["curve_gains"] == [["jawOpen", 1.2]]
    assert json.loads(json.dumps(flags)) == flags


def test_curves_are_multiplied_by_their_gains_up_to_1() -> None:
    head, (names, basis_mm) = load_head(), unit_basis()
    values = np.zeros((3, len(names)))
    values[:, names.index("jawOpen")] = 0.2, 0.6, 0.9
    values[:, names.index("mouthFunnel")] = 0.4
    template = head.templates["ada"]
    clip = Clip(
        (template + np.tensordot(values, 1e-3 * basis_mm, 1)).astype(np.float32), template,
        head.faces, Fraction(30), 1.0, "clip", topology=SYNTHETIC,
        curve_gains=(("jawOpen", 1.5), ("mouthFunnel", 0.5), ("tongueOut", 3.0)),
    )  # fmt: skip
    curves = curves_of(clip)
    expected = {"jawOpen": [0.3, 0.9, 1.0], "mouthFunnel": [0.2] * 3, "tongueOut": [0.0] * 3}
    for name, column in expected.items():
        np.testing.assert_allclose(curves.values[:, names.index(name)], column, atol=1e-3)
    assert curves.rms_mm < 1e-3  # of the fit


def test_gains_without_curves_are_refused(tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "a.npy", load_head().templates["ada"][None])
    flags = [str(tmp_path / "a.npy"), "--formats", "npz", "glb", "--gain", "jawOpen=2"]
    assert run_cli(main, flags) == EXIT_BAD_INPUT
    line = capsys.readouterr().err
    assert "--gain jawOpen=2: works with curves only; add --character" in line
