"""Windows in which the decoder processes a clip, so that memory does not grow with its length."""

from collections.abc import Iterator
from typing import NamedTuple


class Window(NamedTuple):
    """A window of mesh frames, and the frames in which it is cross-faded with the next window."""

    start: int  # first frame that is decoded
    stop: int  # behind the last one
    fade_start: int  # from here on the result fades to the next window's; `stop` for the last one
    fade_stop: int


class Windows(NamedTuple):
    """The pattern of the windows, in seconds.

    Window i decodes from hop·i - before to hop·(i + 1) + after. Its result fades to the next one's
    from hop·(i + 1) + fade[0] to hop·(i + 1) + fade[1]. A rest of at most hop + joined is the last
    window's.
    """

    hop: float
    before: float
    after: float
    fade: tuple[float, float]
    joined: float

    def plan(self, n_frames: int, fps: int) -> Iterator[Window]:
        """The windows of a clip of `n_frames` frames at `fps` frames a second, in order."""
        hop, begin = round(self.hop * fps), 0
        fade_start, fade_stop = (hop + round(seconds * fps) for seconds in self.fade)
        while True:
            start = max(begin - round(self.before * fps), 0)
            if n_frames - begin <= hop + round(self.joined * fps):
                yield Window(start, n_frames, n_frames, n_frames)
                return
            stop = min(begin + hop + round(self.after * fps), n_frames)
            yield Window(start, stop, begin + fade_start, begin + fade_stop)
            begin += hop


WHOLE_CLIPS = Windows(hop=10, before=0, after=2, fade=(0, 2), joined=4)  # trained on whole clips
SHORT = Windows(hop=2, before=2, after=2, fade=(-0.25, 0.25), joined=1)  # trained on 6 s
