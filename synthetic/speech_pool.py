"""Clips of speech on disk: a folder of .flac files and `index.jsonl`, one line per clip.

Line: {"name", "text", "engine", "speaker", "duration_s", "segments": [[phone, start, end], ...]}.
A clip is written before its line, and a line in one write. Every clip in the index is therefore
complete, and an interrupted run can continue.
"""

import hashlib
import io
import json
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from common.errors import UserError, reason_of
from common.whole_file import write_whole
from config import SAMPLE_RATE
from files.texts import parse_json, read_text
from synthetic.pauses import trim_before_pauses
from synthetic.phones import Segment
from synthetic.sentences import draw_text
from synthetic.voices import Utterance, draw_speaker, require_engine, speak

INDEX_NAME = "index.jsonl"
UTTERANCES_PER_SPEAKER = 4  # of the pool


def read_index(folder: Path) -> dict[str, dict[str, Any]]:
    """Clip name -> its line of `folder`'s index; an incomplete last line is ignored.

    Raises UserError where another line is not a JSON object with a name.
    """
    path = folder / INDEX_NAME
    if not path.exists() or path.stat().st_size == 0:
        return {}
    clips: dict[str, dict[str, Any]] = {}
    lines = read_text(path, "index").split("\n")[:-1]  # a last line without its end is incomplete
    for number, line in enumerate(lines, start=1):
        try:
            clip = parse_json(line)
            clips[clip["name"]] = clip
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: expected a JSON object with a name, "
                f"got an error ({reason_of(error)}); delete the line and run again"
            ) from error
    return clips


def index_digest(folder: Path) -> str:
    """A hash of all that the index of `folder` says; that of nothing where there is none."""
    path = folder / INDEX_NAME
    content = path.read_bytes() if path.exists() else b""
    return hashlib.sha256(content).hexdigest()[:16]


def append_clip(folder: Path, name: str, utterance: Utterance) -> dict[str, Any]:
    """Write `<name>.flac` (16 kHz, 16 bit), then its index line; returns the line."""
    folder.mkdir(parents=True, exist_ok=True)
    flac = io.BytesIO()  # of a full disk, libsndfile reports "System error."
    soundfile.write(flac, utterance.audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    write_whole(folder / f"{name}.flac", flac.getvalue())
    clip = {
        "name": name,
        "text": utterance.text,
        "engine": utterance.engine,
        "speaker": utterance.speaker,
        "duration_s": round(utterance.duration_s, 4),
        "segments": [[s.phone, round(s.start_s, 4), round(s.end_s, 4)] for s in utterance.segments],
    }
    _cut_incomplete_line(folder / INDEX_NAME)
    line = json.dumps(clip, ensure_ascii=False) + "\n"
    with open(folder / INDEX_NAME, "ab", buffering=0) as file:  # one write per line
        file.write(line.encode())
    return clip


def read_clip(folder: Path, clip: dict[str, Any]) -> tuple[np.ndarray, list[Segment]]:
    """(audio (S,) float32 at 16 kHz, segments) of one line of the index.

    The phones before pauses are trimmed. Raises `UserError` when the audio cannot be read.
    """
    path = folder / f"{clip['name']}.flac"
    try:
        audio, _ = soundfile.read(path, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"{path}: cannot be read ({reason_of(error)}); delete its line in {INDEX_NAME}"
        ) from error
    return audio, trim_before_pauses([Segment(*segment) for segment in clip["segments"]], audio)


def speak_pool_clip(engine: str, seed: int, number: int) -> Utterance:
    """Clip `number` of the pool; text and speaker depend on engine, seed and number only."""
    speaker_rng = random.Random(f"{seed} {engine} speaker {number // UTTERANCES_PER_SPEAKER}")
    rng = random.Random(f"{seed} {engine} clip {number}")
    return speak(engine, draw_text(rng), rng, draw_speaker(engine, speaker_rng))


def grow_pool(folder: Path, engine: str, minutes: float, seed: int, jobs: int) -> float:
    """Add clips of `engine` and `seed` to `folder` up to `minutes`; returns their total minutes."""
    require_engine(engine)  # before any process starts
    clips = read_index(folder)
    prefix = f"{engine}_{seed}_"
    done_s = sum(c["duration_s"] for name, c in clips.items() if name.startswith(prefix))
    names = (f"{prefix}{number:05d}" for number in _numbers())
    todo = ((name, (engine, seed, int(name.rsplit("_", 1)[1]))) for name in names
            if name not in clips)  # fmt: skip
    with tqdm(total=round(minutes * 60), initial=min(round(done_s), round(minutes * 60)),
              unit="s", desc=f"speech: {engine}") as bar:  # fmt: skip
        if done_s < minutes * 60:
            for name, utterance in run_jobs(speak_pool_clip, todo, jobs):
                append_clip(folder, name, utterance)
                done_s += utterance.duration_s
                bar.update(round(utterance.duration_s))
                if done_s >= minutes * 60:
                    break
    return done_s / 60


def run_jobs(
    make: Callable[..., Any], todo: Iterator[tuple[str, tuple]], jobs: int
) -> Iterator[tuple[str, Any]]:
    """Yield (name, make(*arguments)) for each (name, arguments), computed by `jobs` processes.

    With one job everything runs in this process, in order. Closing the iterator cancels what has
    not started.
    """
    if jobs == 1:
        yield from ((name, make(*arguments)) for name, arguments in todo)
        return
    context = multiprocessing.get_context("spawn")  # onnxruntime does not survive a fork
    with ProcessPoolExecutor(jobs, mp_context=context) as executor:
        running: dict[Future, str] = {}
        try:
            for name, arguments in todo:
                running[executor.submit(make, *arguments)] = name
                if len(running) >= 2 * jobs:
                    yield from _finished(running)
            while running:
                yield from _finished(running)
        finally:
            executor.shutdown(cancel_futures=True)


def _finished(running: dict[Future, str]) -> Iterator[tuple[str, Any]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        yield running.pop(future), future.result()


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def _cut_incomplete_line(path: Path) -> None:
    """Remove a last line that a killed run did not complete."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
