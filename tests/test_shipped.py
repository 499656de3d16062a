"""The data files that come with the project are those that SHA256SUMS lists."""

from pathlib import Path

import pytest

from common.errors import UserError
from config import BUNDLED_MODEL, PROJECT_ROOT
from files import shipped
from files.content_index import hash_file
from files.shipped import check_shipped, recorded, shipped_files
from jambatalk import load_checkpoint
from speech.pretrained import load_body


def test_every_data_file_has_the_recorded_hash() -> None:
    hashes = {path.relative_to(PROJECT_ROOT).as_posix(): hash_file(path)
              for path in shipped_files()}  # fmt: skip
    assert hashes == recorded(), "a data file has changed: python -m files.shipped"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that ships the model and the encoder, as copies without their last bytes."""
    for name in recorded():
        if name.endswith(".safetensors"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((PROJECT_ROOT / name).read_bytes()[:-8])
    config = "synthetic/encoder/config.json"
    (tmp_path / config).write_bytes((PROJECT_ROOT / config).read_bytes())
    monkeypatch.setattr(shipped, "PROJECT_ROOT", tmp_path)
    return tmp_path


def test_a_partial_download_of_model_or_encoder_is_named(project: Path) -> None:
    with pytest.raises(UserError, match="not the file that came with the project.*git checkout"):
        load_checkpoint(project / BUNDLED_MODEL.relative_to(PROJECT_ROOT))
    with pytest.raises(UserError, match="encoder/model.safetensors: 7733104 bytes, not the file"):
        load_body(str(project / "synthetic/encoder"))


def test_a_pointer_of_git_lfs_is_named(project: Path) -> None:
    path = project / "synthetic/model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match="pointer of git-lfs.*git lfs pull"):
        load_checkpoint(path)


def test_files_of_users_are_not_compared(project: Path) -> None:
    check_shipped(project / "synthetic/other.safetensors")  # not there
    check_shipped(PROJECT_ROOT / "synthetic/model.safetensors")  # outside of this project
