"""The flags of demo.py as they are given: names, help and types.

`production.plan` checks their values.
"""

import argparse
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from common.errors import Parser, UserError
from common.frame_rates import FPS_LIMITS, parse_rate
from config import BUNDLED_MODEL, RECIPES
from export.formats import FORMATS, GLB_TARGETS
from layers import PRECISIONS
from production.arguments import float_argument, int_argument, size_argument
from rendering.video_formats import VIDEO_FORMATS

YAW_LIMITS = -90, 90  # degrees
TURN_LIMITS = 0, 90  # degrees
ZOOM_LIMITS = 0.2, 8
OFFSET_LIMITS_MS = -500, 500
SMOOTH_LIMITS_MS = 0, 200
GAIN_LIMITS = 0, 2
SEED_LIMITS = 0, 2**32 - 1
TRACK_LIMITS = 1, 999


# fmt: off
def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags as given. Raises `UserError` for unknown flags and values of a wrong type."""
    parser = Parser(description="Make a 3D head speak a recording.")
    add = parser.add_argument
    add("--wav_path", type=Path, nargs="+", metavar="FILE",
        help="speech in wav, flac, mp3, ogg, m4a, mp4 and others, any rate and channels; several "
             "files, and folders of them; default: the one in demo/wav")
    add("--audio_track", type=int_argument, metavar="N",
        help="which audio track of a video speaks, from 1; default: the one flagged default, else "
             "that with the most channels, else the first")
    add("--subject", metavar="NAME",
        help="whose neutral face speaks; default: the model's first; a wrong name lists them all")
    add("--checkpoint", type=Path, metavar="FILE", default=BUNDLED_MODEL,
        help="a model that main.py trained, or published weights (vocaset.pth, biwi.pth); "
             "default: synthetic/model.safetensors")
    add("--dataset", choices=list(RECIPES),
        help="data set of published weights; default: the one with their number of vertices")
    add("--template", type=Path, metavar="FILE",
        help="a neutral face of your own in the topology and unit of the model: .ply, .obj, or "
             "the first face of a .pkl or .npz")
    add("--out", type=Path, metavar="FOLDER", default=Path("out"),
        help="for one recording also the file: film.mp4, or film.npy with --no_video; "
             "default: out")
    add("--shard", metavar="N/M",
        help="make part N of M of the recordings, sorted by name: for job arrays, whose tasks may "
             "share --out")
    add("--overwrite", action="store_true",
        help="of several recordings, make those again whose results are complete")
    add("--fps", metavar="N",
        help="frames a second, 1 to 240, such as 25, 29.97 or 24000/1001; motion is resampled; "
             "default: the model's own rate")
    add("--start", type=float_argument, metavar="SECONDS", default=0.0,
        help="where in the recording to begin; default: 0")
    add("--end", type=float_argument, metavar="SECONDS",
        help="where in the recording to end; default: at its end")
    add("--lip_offset_ms", type=int_argument, metavar="MS", default=0,
        help="how much later than the sound the lips are, -500 to 500; default: 0")
    add("--smooth", type=int_argument, metavar="MS", default=0,
        help="smooth motion in time, standard deviation 0 to 200 ms; default: 0")
    add("--jaw", type=float_argument, metavar="FACTOR", default=1.0,
        help="open the jaw more or less, 0 to 2; lips that touch keep touching; default: 1")
    add("--lips", type=float_argument, metavar="FACTOR", default=1.0,
        help="round, spread and open the lips more or less, 0 to 2; default: 1")
    add("--size", type=size_argument, metavar="PIXELS", default=(800, 800),
        help="side of the square picture, or WIDTHxHEIGHT, even, 64 to 4096; default: 800")
    add("--yaw", type=int_argument, metavar="DEGREES", default=0,
        help="turn of the head in the picture, -90 to 90, positive to the viewer's right; "
             "default: 0")
    add("--turn", type=int_argument, metavar="DEGREES", default=0,
        help="turn the head slowly so far to both sides of --yaw, 0 to 90; default: 0")
    add("--zoom", type=float_argument, metavar="FACTOR", default=1.0,
        help="enlarge the head, 0.2 to 8; default: 1, the whole head")
    add("--background", metavar="COLOUR", default="white",
        help="a name, #rrggbb or r,g,b, or transparent for mov, webm and png; default: white")
    add("--video_format", choices=list(VIDEO_FORMATS), metavar="FORMAT",
        help="mp4, mov (ProRes), webm (VP9) or png (a folder of pictures, without sound); "
             "default: the ending of --out, else mp4")
    add("--encoder_backend", default="torch", metavar="NAME",
        help="torch, or onnx: onnxruntime with 8-bit products, for the included encoder on a "
             "processor; default: torch")
    add("--precision", choices=PRECISIONS, default="fp32",
        help="of matrix products in the speech encoder and in a large decoder: fp32, bf16, int8 "
             "(8-bit, on a processor), or auto: bf16 where the hardware multiplies it, else fp32; "
             "default: fp32")
    add("--subtitles", type=Path, metavar="FILE.srt",
        help="a track of subtitles for the video of one recording, in time of the recording")
    add("--burn_subtitles", action="store_true",
        help="draw --subtitles into the picture instead; for every kind of video")
    add("--renderer", default="auto", metavar="NAME",
        help="software, gpu, pyrender; default: auto, which is gpu if moderngl is installed and a "
             "hardware GPU draws, else software")
    add("--no_video", action="store_true", help="write the vertices only")
    add("--blink", action="store_true",
        help="add blinks only (bundled synthetic head only)")
    add("--life", action=argparse.BooleanOptionalAction,
        help="add blinks, glances and head motion by rules, to all files; default: to the video of "
             "the synthetic head only")
    add("--seed", type=int_argument, metavar="N", default=1,
        help="of --life and --blink: another number, other times; default: 1")
    add("--export", nargs="+", choices=list(FORMATS), default=[], metavar="FORMAT",
        help=f"also write files for other programs: {', '.join(FORMATS)}")
    add("--glb_targets", choices=GLB_TARGETS, metavar="TARGETS",
        help="morph targets of --export glb: pca, the fewest within 0.1 mm, or arkit, ARKit's "
             "units by name; default: pca")
    add("--character", type=Path, metavar="FILE",
        help="your own character with named shapes, .glb, .vrm, .gltf or a folder of .obj: also "
             "write it with the animation, and its sound")
    add("--gain", nargs="+", action="extend", default=[], metavar="NAME=FACTOR",
        help="factors of single curves of --export and --character, such as jawOpen=1.2 "
             "mouthClose=0.9")
    add("--quiet", action="store_true",
        help="print the paths of the results, warnings and errors only")
    return parser.parse_args(argv)
# fmt: on


def rate_of(text: str) -> Fraction:
    """The exact frame rate of --fps. Raises `UserError`."""
    low, high = FPS_LIMITS
    try:
        rate = parse_rate(text, "--fps")
    except UserError:
        rate = Fraction(0)
    if not low <= rate <= high:
        raise UserError(
            f"--fps {text}: expected {low} to {high} frames a second, such as 25, 29.97 or "
            "24000/1001"
        )
    return rate
