"""The command that makes the corpus."""

import pickle

import numpy as np
import pytest

from common.errors import UserError
from synthetic import make_corpus, speech_pool, voices
from synthetic.voices import ENGINES
from tests.spoken import needs_engine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engines", "hal"], "engine 'hal': expected one of hibari, kokoro"),
        (["--sentences", "-1"], "--sentences: expected at least 0, got -1"),
        (["--jobs", "0"], "--jobs: expected at least 1, got 0"),
        (["--kokoro_voices", "nowhere"], "expected [*].bin files, got none"),
    ],
)
def test_invalid_flags_are_reported(arguments, message):
    with pytest.raises(UserError, match=message):
        make_corpus.main(arguments)


def test_a_missing_engine_named_by_flag_is_an_error(monkeypatch):
    monkeypatch.setattr(ENGINES["flite"], "unavailable", staticmethod(lambda: "no flite command"))
    with pytest.raises(UserError, match="engine flite cannot run: no flite command"):
        make_corpus.choose_engines("flite")


def test_missing_engines_are_skipped_and_reported(monkeypatch, capsys):
    monkeypatch.setattr(voices, "_unavailable", lambda n: "" if n == "hibari" else f"no {n}")
    assert make_corpus.choose_engines(None) == ["hibari"]
    assert "engine flite skipped: no flite" in capsys.readouterr().out


def test_corpus_command_writes_all_files_with_hibari_alone(tmp_path, capsys):
    needs_engine("hibari")
    arguments = ["--sentences", "1", "--speech_minutes", "0.05", "--engines", "hibari"]
    arguments += ["--jobs", "1", "--out", str(tmp_path)]
    make_corpus.main(arguments)
    rows = pickle.loads((tmp_path / "raw/subj_seq_to_idx.pkl").read_bytes())
    assert len(rows) == 12 and list(rows["ada"]) == ["sentence01"]
    verts = np.load(tmp_path / "raw/data_verts.npy", mmap_mode="r")
    assert len(verts) == sum(len(seq) for subject in rows.values() for seq in subject.values())
    assert speech_pool.read_index(tmp_path / "speech")
    before = (tmp_path / "raw/data_verts.npy").stat().st_mtime_ns
    make_corpus.main(arguments)
    assert (tmp_path / "raw/data_verts.npy").stat().st_mtime_ns == before
    assert "is up to date" in capsys.readouterr().out
