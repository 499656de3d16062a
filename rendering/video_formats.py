"""Files that a video is written to, by their endings: ffmpeg's encoders and what they keep."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError

# BT.709 is what players assume for HD video. Pixels of yuv420p are those of `rendering.yuv`, which
# converts five times as fast as ffmpeg; ffmpeg converts to other kinds of pixels.
YUV = "yuv420p"
YUV_INPUT = ("-pix_fmt", YUV, "-color_range", "tv", "-colorspace", "bt709",
             "-color_primaries", "bt709", "-color_trc", "bt709")  # fmt: skip
# How libx264 searches for motion: blocks are compared by absolute differences, in a diamond around
# the guess. 0.7 of the time of veryfast alone with the same PSNR; files are 1.15 times as large.
SEARCH = "subme=1:me=dia"
HD = ("-vf", "scale=out_color_matrix=bt709:out_range=tv,"
             "setparams=color_primaries=bt709:color_trc=bt709")  # fmt: skip


@dataclass(frozen=True)
class VideoFormat:
    """ffmpeg's arguments for a kind of file.

    opaque: encoder and pixels of pictures (H, W, 3); transparent: of pictures (H, W, 4), or empty
    where the kind has no transparency; sound: its encoder, or empty where it has no sound;
    subtitles: the codec of their track, or empty where it has none.
    """

    opaque: Sequence[str]
    transparent: Sequence[str]
    sound: Sequence[str]
    container: Sequence[str]
    subtitles: str


VIDEO_FORMATS = {
    "mp4": VideoFormat(  # yuv420p is what all players decode
        ("-pix_fmt", YUV, "-c:v", "libx264", "-preset", "veryfast", "-crf", "18",
         "-x264-params", SEARCH),
        (),
        ("-c:a", "aac", "-b:a", "160k"),
        ("-movflags", "+faststart", "-f", "mp4"),
        "mov_text",
    ),
    "mov": VideoFormat(  # ProRes 422 HQ, and 4444 with alpha
        (*HD, "-pix_fmt", "yuv422p10le", "-c:v", "prores_ks", "-profile:v", "hq"),
        (*HD, "-pix_fmt", "yuva444p10le", "-c:v", "prores_ks", "-profile:v", "4444"),
        ("-c:a", "pcm_s16le"),
        ("-f", "mov"),
        "mov_text",
    ),
    "webm": VideoFormat(  # VP9; alpha is a second stream inside, which forbids alternate references
        ("-pix_fmt", YUV, "-c:v", "libvpx-vp9", "-b:v", "0", "-crf", "24",
         "-cpu-used", "4"),
        (*HD, "-pix_fmt", "yuva420p", "-c:v", "libvpx-vp9", "-b:v", "0", "-crf", "24",
         "-cpu-used", "4", "-auto-alt-ref", "0"),
        ("-c:a", "libopus", "-b:a", "128k"),
        ("-f", "webm"),
        "webvtt",
    ),
    "png": VideoFormat(  # a folder of pictures 000001.png, ...
        ("-pix_fmt", "rgb24", "-c:v", "png"), ("-pix_fmt", "rgba", "-c:v", "png"), (),
        ("-f", "image2"), "",
    ),
}  # fmt: skip
PICTURES = "png"
FOLDER_ENDING = "_png"  # of a folder of pictures


def is_yuv(kind: VideoFormat, shape: tuple[int, ...]) -> bool:
    """Whether pictures (H, W, 3 or 4) are piped as planes of YUV, which have even sides."""
    height, width, channels = shape
    return channels == 3 and YUV in kind.opaque and height % 2 == width % 2 == 0


def kind_of(path: Path) -> str:
    """The key in `VIDEO_FORMATS` of a path; raises `ValueError` for another ending."""
    kind = PICTURES if path.name.endswith(FOLDER_ENDING) else path.suffix[1:].lower()
    if kind not in VIDEO_FORMATS:
        raise ValueError(f"{path}: expected an ending of {', '.join(VIDEO_FORMATS)}")
    return kind


def check_video_format(name: str, transparent: bool) -> None:
    """Raise `UserError` if a kind of file cannot hold pictures with transparency."""
    if transparent and not VIDEO_FORMATS[name].transparent:
        able = ", ".join(key for key, kind in VIDEO_FORMATS.items() if kind.transparent)
        raise UserError(
            f"--background transparent: {name} has no transparency; give --video_format {able}"
        )


def is_picture_folder(path: Path) -> bool:
    """Whether a folder holds nothing but pictures 000001.png and so on."""
    return all(file.suffix == ".png" and file.stem.isdecimal() for file in path.iterdir())
