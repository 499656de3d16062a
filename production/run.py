"""A run of demo.py: its recordings, one after the other, to vertices, videos and exports."""

import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, message_of, printable, reason_of, report
from common.frame_rates import rate_text
from common.stop_signals import noting_interrupt
from common.whole_file import unfinished_name, whole_file
from config import SAMPLE_RATE
from dataset.faces import faces_of
from export.clip import Clip
from export.formats import write_formats
from files.arrays import GrowingNpy
from production.added import Added, adding
from production.ahead import made_ahead
from production.jobs import Job, by_inode, check_job, existing_folder
from production.motion import Arriving, resampled, smoothed, swinging
from production.plan import Plan
from production.record import Record
from production.speaker import Speaker, load_speaker, say, topology_of
from production.subtitles import draw_subtitles
from rendering.animation import RENDER_THREADS
from rendering.face import appearance
from speech.timing import covering_frames

if TYPE_CHECKING:
    from production.sound import Speech
    from rendering.renderer import Renderer
    from speech.stored_speech import StoredSpeech

PREDICTED_AHEAD = 64  # meshes: drawing them takes longer than predicting a window
ON_INTERRUPT = "ending the files after the frames so far; press Ctrl-C again to end at once"


def draw(
    plan: Plan,
    job: Job,
    renderer: "Renderer",
    meshes: Iterable[NDArray],
    n_frames: int,
    fps: Fraction | int,
) -> None:
    """Draw meshes (V, 3) as they come and mux them with the recording into the video of a job.

    Where they are fewer than `n_frames`, the video ends with them.
    """
    from production.progress import with_progress
    from rendering.burnt_subtitles import burnt
    from rendering.video import write_video

    overlays = draw_subtitles(plan, float(n_frames / fps))
    cues = () if plan.burn_subtitles else plan.cues
    if plan.turn:
        meshes = swinging(meshes, fps, plan.turn, renderer.camera.centre)
    frames = renderer.frames(meshes, workers=min(RENDER_THREADS, os.cpu_count() or 1))
    frames = with_progress(frames, n_frames, fps, f"drawing ({plan.renderer})", plan.quiet)
    frames = burnt(frames, overlays, fps)
    sound = job.recording, plan.audio_track, plan.start_s
    write_video(job.video, frames, n_frames, fps, *sound, cues, may_end_early=True)


def clip_of(plan: Plan, job: Job, speaker: Speaker, vertices: NDArray, added: Added) -> Clip:
    """What `--export` writes; vertices: (T, V, 3)."""
    spec = speaker.spec
    return Clip(
        vertices=vertices,
        template=speaker.template,
        faces=faces_of(spec, plan.template),
        fps=Fraction(plan.fps or spec.fps),
        metres_per_unit=spec.metres_per_unit,
        name=job.name,
        colors=appearance(spec, speaker.name).get("colors"),
        topology=topology_of(spec),
        audio=None if plan.start_s else job.recording,
        mesh=plan.template,
        curve_gains=plan.curve_gains,
        **added.export_fields(len(vertices)),
    )


def export(plan: Plan, job: Job, speaker: Speaker, vertices: NDArray, added: Added) -> list[Path]:
    """Write what --export and --character ask for; the paths. vertices: (T, V, 3)."""
    clip, folder = clip_of(plan, job, speaker, vertices, added), job.npy.parent
    with redirect_stdout(io.StringIO()) if plan.quiet else nullcontext():
        paths = write_formats(clip, plan.export, folder, plan.glb_targets, speaker.character)
    if speaker.character:
        from production.sound_beside import write_sound

        sound = folder / f"{job.name}_character.wav"
        if sound.exists() and any(sound.samefile(other.recording) for other in plan.jobs):
            raise UserError(
                f"--out {folder}: {sound} is a recording of this run; name another folder"
            )
        write_sound(sound, job.recording, plan.audio_track, plan.start_s, plan.end_s)
        paths.append(sound)
    return paths


def motion(
    plan: Plan, speaker: Speaker, audio: "StoredSpeech", fps: Fraction | int
) -> Iterator[NDArray[np.float32]]:
    """Yield the meshes (V, 3) of a recording at `fps` as they are predicted.

    While pictures are drawn, a thread predicts the following ones.
    """
    model_fps, n_frames = speaker.spec.fps, covering_frames(len(audio), fps)
    meshes = speaker.checkpoint.meshes(audio, speaker.template, model_fps, speaker.name)
    if speaker.renderer is not None:
        meshes = made_ahead(meshes, PREDICTED_AHEAD)
    if fps != model_fps:
        shape = covering_frames(len(audio), model_fps), *speaker.template.shape
        meshes = resampled(Arriving(meshes, shape), model_fps, fps, n_frames)
    if plan.smooth_ms:
        meshes = smoothed(meshes, fps, plan.smooth_ms / 1000)
    return meshes if speaker.gains is None else speaker.gains.meshes(meshes)


def until(stopped: Callable[[], bool], meshes: Iterator[NDArray]) -> Iterator[NDArray]:
    """Yield `meshes` until `stopped`; raises `KeyboardInterrupt` where that is before the first."""
    for n_frames, mesh in enumerate(meshes):
        if stopped():
            if n_frames == 0:
                raise KeyboardInterrupt
            return
        yield mesh


def make(
    plan: Plan, job: Job, speaker: Speaker, speech: "Speech", part: str, record: Record | None
) -> None:
    """Predict, draw and write one recording; part: "[1/9] " or ""; record: of several recordings.

    Frames are written and drawn as they are predicted. No result replaces an older file before all
    are complete. After Ctrl-C, what was made so far is kept under the names of `unfinished_name`,
    and `KeyboardInterrupt` says so. Raises `UserError`, after the vertices and the video are
    written, for motion that a format of --export cannot hold.
    """
    fps, audio = plan.fps or speaker.spec.fps, speech.audio
    n_frames = covering_frames(len(audio), fps)
    say(
        plan,
        f"{part}{job.recording}: {len(audio) / SAMPLE_RATE:.2f} s for the face {speaker.name}, "
        f"{n_frames} frames at {rate_text(Fraction(fps))} fps",
    )
    if job.result.exists():
        say(plan, f"{job.result} exists and will be replaced")
    out = job.npy.parent
    try:
        out.mkdir(parents=True, exist_ok=True)
        meshes = motion(plan, speaker, audio, fps)
        with adding(plan, speaker.rig, speech, n_frames, fps, out) as added:
            files, refusal = write_results(plan, job, speaker, meshes, n_frames, added)
        if refusal is not None:
            raise refusal
        if record is not None:
            record.note_done(job, [job.npy, job.result, *files])
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({reason_of(error)})") from error


def write_results(
    plan: Plan,
    job: Job,
    speaker: Speaker,
    meshes: Iterator[NDArray],
    n_frames: int,
    added: Added,
) -> tuple[list[Path], UserError | None]:
    """Write the results of `n_frames` meshes (V, 3): paths of exports, and what these refused.

    Raises `KeyboardInterrupt` as `make`.
    """
    from production.progress import with_progress

    fps, paths, refusal = plan.fps or speaker.spec.fps, [], None

    def name(path: Path) -> Path:
        return path if npy.n_frames == n_frames else unfinished_name(path)

    with whole_file(job.npy, lambda: name(job.npy)) as partial:
        with (
            noting_interrupt(ON_INTERRUPT) as stopped,
            GrowingNpy(partial, speaker.template.shape) as npy,
        ):
            written = npy.appended(added.to_files(until(stopped, meshes)))
            if speaker.renderer is None:
                for _ in with_progress(written, n_frames, fps, "predicting", plan.quiet):
                    pass
            else:
                draw(plan, job, speaker.renderer, added.to_pictures(written), n_frames, fps)
        if (plan.export or speaker.character) and not stopped():
            try:
                paths = export(plan, job, speaker, np.load(partial, mmap_mode="r"), added)
            except UserError as error:
                refusal = error
            say(plan, *paths)
    if stopped():
        made = " and ".join(str(name(path)) for path in dict.fromkeys((job.result, job.npy)))
        raise KeyboardInterrupt(
            f"interrupted after {float(npy.n_frames / fps):.1f} of "
            f"{float(n_frames / fps):.1f} s; what was made is in {made}"
        )
    return paths, refusal


@contextmanager
def noting_failures(plan: Plan, job: Job, failed: list[Job]) -> Iterator[None]:
    """Of several recordings, report the error of one and add it to `failed`; else raise it."""
    try:
        yield
    except (UserError, OSError) as error:
        if not plan.several:
            raise
        report(f"error: {message_of(error)}")
        failed.append(job)


def run(plan: Plan) -> list[Job]:
    """Make all recordings of a plan, print their results; the jobs that failed."""
    from production.sound import load_speech

    cut = plan.start_s, plan.end_s, plan.lip_offset_ms
    speaker, failed, skipped, kept = None, [], [], by_inode(plan.recordings)
    record = None
    if plan.several and plan.jobs:
        record = Record(plan.jobs[0].npy.parent, plan.flags(), plan.shard)
    for number, job in enumerate(plan.jobs, 1):
        speech, part = None, f"[{number}/{len(plan.jobs)}] " if plan.several else ""
        with noting_failures(plan, job, failed):
            check_job(job, kept)
            if record is not None and not plan.overwrite:
                if record.is_done(job):
                    say(plan, f"{part}{job.recording}: skipped, {job.result} is newer; "
                              "--overwrite makes it again")  # fmt: skip
                    skipped.append(job)
                    continue
                record.check_owner(job)
            folder = existing_folder(job.npy.parent)
            speech = load_speech(job.recording, plan.audio_track, *cut, folder)
        if speech is None:
            continue
        speaker = speaker or load_speaker(plan)
        with noting_failures(plan, job, failed):
            make(plan, job, speaker, speech, part, record)
            print(printable(str(job.result)), flush=True)
    if plan.several:
        n_made = len(plan.jobs) - len(skipped) - len(failed)
        names = ": " + ", ".join(str(job.recording) for job in failed) if failed else ""
        share = "" if plan.shard is None else f"shard {plan.shard}: "
        say(plan, f"{share}{len(plan.jobs)} recordings: {n_made} made, {len(skipped)} skipped, "
                  f"{len(failed)} failed{names}")  # fmt: skip
    return failed
