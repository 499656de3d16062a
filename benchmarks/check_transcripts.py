"""Check the transcripts of the human recordings: `python -m benchmarks.check_transcripts`.

Moonshine tiny, a recogniser that is not the aligner, transcribes every clip that the benchmark
scores. It needs PyPI's moonshine-voice 0.0.49, which holds the recogniser with its weights. Short
words said alone are hard for it, so that a difference is a reason to listen, not a proof. The last
line is JSON with the word error rate of each group.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np

from benchmarks.real_speech import EXTRA_FOLDER, HALVES, load_real_clips, spoken_words
from common.errors import Parser, UserError, run_cli
from config import SAMPLE_RATE
from lip_reader import edit_distance

MODEL = "tiny-en"
# Different spellings of the same words, in the transcripts and by the recogniser.
_SPELLINGS = {"mr": "mister", "okay": "ok", "voice mail": "voicemail", "mail box": "mailbox",
              "touch tone": "touchtone", "log in": "login", "thru": "through"}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Print the clips in which the recogniser disagrees and the word error rates."""
    args = parse(argv)
    recognise = recogniser()
    totals: dict[str, list[int]] = {}
    for half in HALVES:
        for clip in load_real_clips(half, args.extra_wav, args.asterisk):
            words, heard = plain_words(clip.text), plain_words(recognise(clip.audio))
            errors = word_errors(heard, words)
            total = totals.setdefault(clip.group, [0, 0])
            total[0] += errors
            total[1] += len(words)
            if errors:
                rate = errors / len(words)
                print(f"{rate:6.2f}  {half} {clip.group} {clip.name}")
                print(
                    f"        transcript: {' '.join(words)}\n        recognised: {' '.join(heard)}"
                )
    print(json.dumps({group: round(n / words, 3) for group, (n, words) in totals.items()}))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of the command."""
    parser = Parser(description="Check the transcripts of the human recordings by a recogniser.")
    parser.add_argument("--extra_wav", metavar="DIR", default=EXTRA_FOLDER, help="see bench_lips")
    parser.add_argument("--asterisk", metavar="DIR", help="see bench_lips")
    return parser.parse_args(argv)


def recogniser() -> Callable[[np.ndarray], str]:
    """Function of audio (S,) at 16 kHz that returns its text, by Moonshine tiny.

    Raises `UserError` when moonshine-voice or its weights are not installed.
    """
    remedy = "run pip install moonshine-voice==0.0.49 (it checks the transcripts)"
    try:
        from moonshine_voice.moonshine_api import ModelArch
        from moonshine_voice.transcriber import Transcriber
        from moonshine_voice.utils import get_model_path
    except ImportError as error:
        raise UserError(f"moonshine-voice is not installed; {remedy}") from error
    folder = get_model_path(MODEL)
    if not (folder / "decoder_model_merged.ort").is_file():
        raise UserError(f"{folder}: no decoder_model_merged.ort in it; {remedy}")
    transcriber = Transcriber(str(folder), ModelArch.TINY)

    def recognise(audio: np.ndarray) -> str:
        transcript = transcriber.transcribe_without_streaming(audio.tolist(), SAMPLE_RATE)
        return " ".join(line.text for line in transcript.lines)

    return recognise


def plain_words(text: str) -> list[str]:
    """Lower-case words without marks, with one spelling; digits become words, one by one."""
    text = re.sub(r"\d", lambda digit: f" {digit[0]} ", text.replace("’", "'"))
    text = " ".join(spoken_words(text).replace(".", " ").split())
    for spelling, word in _SPELLINGS.items():
        text = re.sub(rf"\b{spelling}\b", word, text)
    return text.split()


def word_errors(recognised: Sequence[str], transcript: Sequence[str]) -> int:
    """Insertions, deletions and substitutions of words."""
    numbers = {word: i for i, word in enumerate({*recognised, *transcript})}
    return edit_distance([numbers[w] for w in recognised], [numbers[w] for w in transcript])


if __name__ == "__main__":
    sys.exit(run_cli(main))
