"""Make the synthetic corpus: data in VOCASET's raw layout, and hours of speech with timed phones.

    python -m synthetic.make_corpus [--sentences 40] [--speech_minutes 240] [--jobs 2] ...

Under --out (default synthetic/data) it writes raw/, in the layout of VOCASET's raw download, for
12 subjects × --sentences, and speech/, the pool on which the shipped model is trained (audio and
phones only; training computes the vertices). An interrupted run continues when started again.
"""

import argparse
import hashlib
import os
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from tqdm import tqdm

from common.errors import Parser, UserError, run_cli
from config import PROJECT_ROOT
from synthetic.coarticulation import CHANNELS, curves, loudness, style_of
from synthetic.head import Head, channel_basis, load_head
from synthetic.neural_voices import KOKORO_VOICES_VARIABLE
from synthetic.raw_corpus import RAW_FPS, RawClip, cast_subjects, subject_texts, write_raw
from synthetic.speech_pool import append_clip, grow_pool, read_clip, read_index, run_jobs
from synthetic.voices import ENGINES, Utterance, missing_engines, require_engine, speak

# Share of the pool's minutes; the share of a missing engine is divided among the others.
POOL_SHARES = {"kokoro": 0.4, "hibari": 0.35, "espeak": 0.1, "flite": 0.08, "festival": 0.07}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the raw corpus and the speech pool."""
    options = _parser().parse_args(argv)
    _check(options)
    if options.kokoro_voices:
        os.environ[KOKORO_VOICES_VARIABLE] = str(Path(options.kokoro_voices).resolve())
    engines = choose_engines(options.engines)
    out = Path(options.out)
    if options.sentences:
        make_raw(out, load_head(), engines, options.sentences, options.seed, options.jobs)
    total = sum(POOL_SHARES[engine] for engine in engines)
    for engine in engines if options.speech_minutes else ():
        minutes = options.speech_minutes * POOL_SHARES[engine] / total
        grow_pool(out / "speech", engine, minutes, options.seed, options.jobs)
    _report(out, options)


def choose_engines(named: str | None) -> list[str]:
    """The engines to use: those of the comma-separated list, else all that can run.

    Prints which engines are skipped and why. Raises `UserError` when a named engine, or every
    engine, cannot run.
    """
    if named:
        engines = [name.strip() for name in named.split(",") if name.strip()]
        for name in engines:
            require_engine(name)
        return engines
    missing = missing_engines()
    engines = [name for name in ENGINES if name not in missing]
    if not engines:
        raise UserError(f"no speech engine can run; the first, hibari: {missing['hibari']}")
    for name, reason in missing.items():
        print(f"engine {name} skipped: {reason}")
    print(f"engines: {', '.join(engines)}")
    return engines


def make_raw(
    out: Path, head: Head, engines: Sequence[str], n_sentences: int, seed: int, jobs: int
) -> None:
    """Write `out`/raw: `n_sentences` sentences of every subject of the head."""
    subjects = list(head.templates)
    texts = subject_texts(subjects, n_sentences, seed)
    cast = cast_subjects(subjects, engines, seed)
    made_from = {"seed": seed, "sentences": n_sentences, "cast": cast, "channels": CHANNELS,
                 "motion": motion_digest()}  # fmt: skip
    clips = _speak_corpus(out / "corpus_speech", texts, cast, seed, jobs)
    basis = channel_basis(head, CHANNELS).reshape(len(CHANNELS), -1)

    def animate(clip: RawClip) -> np.ndarray:
        motion = curves(
            clip.segments, clip.frames, RAW_FPS, loudness(clip.audio), style=style_of(clip.subject)
        )
        offsets = (motion @ basis).reshape(clip.frames, -1, 3)
        return head.templates[clip.subject] + offsets

    if not write_raw(out / "raw", head.templates, clips, animate, made_from):
        print(f"{out / 'raw'} is up to date")


def motion_digest() -> str:
    """A hash of all that turns phones into vertices: the rules, their tables, the head's units."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    for name in ("coarticulation.py", "visemes.py", "head.npz"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def speak_corpus_clip(
    engine: str, speaker: dict[str, Any], text: str, seed: int, name: str
) -> Utterance:
    """One clip of the corpus; it depends on the arguments only, not on earlier clips."""
    return speak(engine, text, random.Random(f"{seed} corpus {name}"), speaker)


def _speak_corpus(
    folder: Path, texts: dict[str, list[str]], cast: dict[str, Any], seed: int, jobs: int
) -> list[RawClip]:
    """Speak the clips that `folder` lacks; returns all clips, in the order of `texts`.

    A clip of an earlier run with another text, engine or speaker is spoken again.
    """
    known = read_index(folder)
    sentences_of = {
        f"{subject}_sentence{number:02d}": (subject, number, text)
        for subject, sentences in texts.items()
        for number, text in enumerate(sentences, start=1)
    }
    todo = []
    for name, (subject, _, text) in sentences_of.items():
        engine, speaker = cast[subject]
        made_from = (text, engine, Utterance.speaker_name(speaker))
        clip = known.get(name)
        if clip is None or (clip["text"], clip["engine"], clip["speaker"]) != made_from:
            todo.append((name, (engine, speaker, text, seed, name)))
    total = len(sentences_of)
    with tqdm(total=total, initial=total - len(todo), unit="clip", desc="corpus speech") as bar:
        for name, utterance in run_jobs(speak_corpus_clip, iter(todo), jobs):
            known[name] = append_clip(folder, name, utterance)
            bar.update()
    return [
        RawClip(subject, number, *read_clip(folder, known[name]))
        for name, (subject, number, _) in sentences_of.items()
    ]


def _report(out: Path, options: argparse.Namespace) -> None:
    if options.speech_minutes:
        clips = read_index(out / "speech").values()
        minutes = sum(clip["duration_s"] for clip in clips) / 60
        print(f"{out / 'speech'}: {len(clips)} clips, {minutes:.1f} minutes")
    if options.sentences:
        print(f"next: python vocaset/process_voca_data.py --raw {out / 'raw'} --out {out}")


def _check(options: argparse.Namespace) -> None:
    for name, least in (("sentences", 0), ("speech_minutes", 0), ("jobs", 1)):
        value = getattr(options, name)
        if value < least:
            raise UserError(f"--{name}: expected at least {least}, got {value:g}")
    folder = options.kokoro_voices
    if folder and not any(Path(folder).glob("[!.]*.bin")):
        raise UserError(
            f"--kokoro_voices {folder}: expected *.bin files, got none; see synthetic/README.md"
        )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m synthetic.make_corpus", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--sentences", type=int, default=40, help="sentences per subject (12 subjects); 0: none")
    add("--speech_minutes", type=float, default=240, help="length of the speech pool; 0: none")
    add("--engines", help=f"comma-separated, from {','.join(ENGINES)}; default: all that can run")
    add("--kokoro_voices", help=f"folder of Kokoro's *.bin (default: ${KOKORO_VOICES_VARIABLE})")
    add("--seed", type=int, default=1, help="seed of speakers, texts and sounds")
    add("--out", default=str(PROJECT_ROOT / "synthetic/data"), help="output folder")
    add(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="number of processes; default: all cores",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run_cli(main))
