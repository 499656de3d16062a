"""Lip sync of HeadAudio on human recordings, beside that of `bench_live --lips`.

    npm pack @met4citizen/headaudio@0.1.0 && tar xzf met4citizen-headaudio-0.1.0.tgz
    python -m benchmarks.bench_headaudio --module package --extra_wav DIR --asterisk DIR

HeadAudio (https://github.com/met4citizen/HeadAudio, MIT) makes Oculus visemes from sound in a
browser's audio worklet. Its own modules run in node, as in a browser whose sound has
`--sample_rate`. A viseme's value, 0.65 or 0.75 at most, weights its pose of `export.visemes`. The
delay of 0.1 s that its README advises for the sound is taken out. The recordings are the dev half
alone. The last line is JSON.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_lips import groups
from benchmarks.lip_tables import header, lines
from benchmarks.lips import score_curves_on_head
from benchmarks.phone_tables import FPS
from benchmarks.real_speech import EXTRA_FOLDER, load_real_clips
from common.errors import Parser, UserError, run_cli
from config import SAMPLE_RATE
from export.visemes import OCULUS, SILENCE, pose_matrix
from synthetic.coarticulation import CHANNELS
from synthetic.head import load_head

READER = Path(__file__).parent / "readers/headaudio.mjs"
NEEDED = ("modules/headaudio.mjs", "modules/headworklet.mjs", "dist/model-en-mixed.bin")
VARIANTS = ("unchanged", "with_aa")  # of readers/headaudio.mjs
DELAY_S = 0.1  # that the package's README gives the sound


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="python -m benchmarks.bench_headaudio",
        description="Score HeadAudio's lip sync on human recordings.",
    )
    add = parser.add_argument
    # fmt: off
    add("--module", type=Path, metavar="FOLDER", help="the unpacked npm package; nothing without")
    add("--sample_rate", type=int, default=48_000, metavar="HZ",
        help="of the browser's sound; default: %(default)s")
    add("--extra_wav", metavar="DIR", default=EXTRA_FOLDER, help="as for bench_lips")
    add("--asterisk", metavar="DIR", help="as for bench_lips")
    # fmt: on
    args = parser.parse_args(argv)
    if args.sample_rate < SAMPLE_RATE:
        raise UserError(f"--sample_rate {args.sample_rate}: expected at least {SAMPLE_RATE}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Score the package on the dev half, print a table and JSON."""
    args = parse(argv)
    if args.module is None:
        print("not run: --module names the unpacked npm package @met4citizen/headaudio")
        print(json.dumps({}))
        return
    for file in NEEDED:
        if not (args.module / file).is_file():
            raise UserError(f"--module {args.module}: no {file}; unpack @met4citizen/headaudio")
    if shutil.which("node") is None:
        raise UserError("node: not found; install Node.js 18 or later")
    head, row = load_head(), {}
    print(header())
    for group, clips in groups(load_real_clips("dev", args.extra_wav, args.asterisk)).items():
        curves = {id(clip.audio): visemes(clip.audio, args) for clip in clips}
        for variant in VARIANTS:
            scores = score_curves_on_head(
                lambda audio, by=variant, of=curves: of[id(audio)][by], clips, head
            )
            print(lines(f"{group} {variant}", len(clips), scores), flush=True)
            if group == "speech":
                row[variant] = scores.as_row()
    print(json.dumps(row))


def visemes(audio: NDArray[np.float32], args: argparse.Namespace) -> dict[str, NDArray]:
    """Curves (T, len(CHANNELS)) of the visemes for a clip (S,), for each of `VARIANTS`.

    Silence follows the clip for the delay. Raises `UserError` with the message of node.
    """
    from scipy.signal import resample_poly

    late = round(DELAY_S * FPS)
    padded = np.append(audio, np.zeros((late + 1) * SAMPLE_RATE // FPS, np.float32))
    sound = resample_poly(padded, args.sample_rate, SAMPLE_RATE).astype("<f4")
    command = ["node", READER, args.module.resolve(), str(args.sample_rate), str(FPS)]
    result = subprocess.run(command, input=sound.tobytes(), capture_output=True)
    if result.returncode:
        raise UserError(f"node {READER.name}: {result.stderr.decode()[-400:]}")
    answer = json.loads(result.stdout)
    return {
        variant: curves_of(answer[variant])[late : late + len(audio) * FPS // SAMPLE_RATE]
        for variant in VARIANTS
    }


def curves_of(frames: Sequence[dict[str, float]]) -> NDArray[np.float64]:
    """Curves (T, len(CHANNELS)) of frames with a value for each viseme of Oculus."""
    if set(frames[0]) != {SILENCE, *OCULUS}:
        raise UserError(f"--module: expected the visemes of Oculus, got {', '.join(frames[0])}")
    weights = np.array([[frame[name] for name in OCULUS] for frame in frames])
    return weights @ pose_matrix(OCULUS, CHANNELS)


if __name__ == "__main__":
    sys.exit(run_cli(main))
