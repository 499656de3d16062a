"""The subtitles of a run: whether they fit the recording, and their pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, report
from production.jobs import Job
from rendering.subtitles import Cue, load_cues, part_of
from rendering.video_formats import VIDEO_FORMATS, kind_of

if TYPE_CHECKING:
    from production.plan import Plan
    from rendering.burnt_subtitles import Overlay


def subtitles_of(path: Path | None, burn: bool, jobs: Sequence[Job]) -> tuple[Cue, ...]:
    """The cues of --subtitles. Raises `UserError` where no video of the run can have them."""
    if path is None:
        if burn:
            raise UserError("--burn_subtitles: draws those of --subtitles FILE.srt; add it")
        return ()
    video = jobs[0].video
    if len(jobs) > 1 or video is None:
        raise UserError(f"--subtitles {path}: expected one recording and its video")
    if not (burn or VIDEO_FORMATS[kind_of(video)].subtitles):
        raise UserError(
            f"--subtitles {path}: {kind_of(video)} has no track of subtitles; add "
            "--burn_subtitles, or give --video_format mp4, mov or webm"
        )
    return load_cues(path)


def draw_subtitles(plan: "Plan", seconds: float) -> "list[Overlay]":
    """The pictures for --burn_subtitles of `seconds` from --start on; [] for a track or none.

    Raises `UserError` as `check_times`, and for letters that no font has.
    """
    check_times(plan, seconds)
    if not plan.burn_subtitles:
        return []
    from rendering.burnt_subtitles import draw_overlays

    return draw_overlays(part_of(plan.cues, plan.start_s, seconds), plan.size)


def check_times(plan: "Plan", seconds: float) -> None:
    """Warn of subtitles after the recording's end; raise `UserError` if all of them are there.

    seconds: length of the part that is spoken. With --end, what follows is left out on purpose.
    """
    if not plan.cues or plan.end_s is not None:
        return
    end_s = plan.start_s + seconds
    late = [cue for cue in plan.cues if cue.start_ms >= 1000 * end_s]
    if not late:
        return
    message = (
        f"--subtitles: {len(late)} of {len(plan.cues)} begin after the end of the recording "
        f"({late[0].start_ms / 1000:.2f} s, expected less than {end_s:.2f} s); is the file that of "
        "another recording?"
    )
    if len(late) == len(plan.cues):
        raise UserError(message)
    report(f"warning: {message}")
