"""HeadAudio's visemes as curves; the package itself is not needed."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_headaudio import curves_of, main
from common.errors import UserError
from export.visemes import OCULUS, SILENCE, pose_matrix
from synthetic.coarticulation import CHANNELS

REST = dict.fromkeys((SILENCE, *OCULUS), 0.0)


def test_a_viseme_weights_its_pose_and_silence_none() -> None:
    curves = curves_of([REST | {SILENCE: 0.65}, REST | {"O": 0.65}, REST | {"aa": 0.2, "PP": 0.3}])
    poses = dict(zip(OCULUS, pose_matrix(OCULUS, CHANNELS), strict=True))
    expected = [0 * poses["O"], 0.65 * poses["O"], 0.2 * poses["aa"] + 0.3 * poses["PP"]]
    np.testing.assert_allclose(curves, expected)


def test_other_visemes_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the visemes of Oculus, got aa"):
        curves_of([{"aa": 1.0}])
    with pytest.raises(UserError, match=r"no modules/headaudio\.mjs"):
        main(["--module", str(tmp_path)])


def test_without_the_package_nothing_is_measured(capsys: pytest.CaptureFixture) -> None:
    main([])
    assert "not run" in capsys.readouterr().out
