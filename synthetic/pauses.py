"""Cut the phone before a pause where the audio falls silent.

The neural engines extend the last phone of a phrase 100 to 350 ms into the following silence, so
that lips would stay open, or closed, long after the voice. With the cut, compared with
pocketsphinx on 14 clips each, the jaw's correlation rises from 0.918 to 0.961 (hibari) and from
0.944 to 0.957 (Kokoro), and the share of silent frames with closed lips from 0.93 to 1.00 and from
0.94 to 0.98. The other engines do not change.
"""

from collections.abc import Sequence

import numpy as np

from config import SAMPLE_RATE
from synthetic.phones import SILENCE, Segment

HOP = 160  # samples, 10 ms
DROP_DB = 32.0  # below loud speech (the 85th percentile); a quieter frame is silent
RELEASE_S = 0.03  # the phone ends this long after its last loud frame
SHORTEST_S = 0.04  # minimum length of a cut phone


def trim_before_pauses(segments: Sequence[Segment], audio: np.ndarray) -> list[Segment]:
    """`segments` with the phone before each pause cut where the audio falls silent.

    audio: (S,) clean speech at 16 kHz, any scale. The pause begins where the phone now ends; no
    other boundary moves.
    """
    frames = len(audio) // HOP
    blocks = audio[: frames * HOP].reshape(frames, HOP).astype(np.float64)
    power = np.pad((blocks**2).mean(1), 1)
    power = 0.25 * power[:-2] + 0.5 * power[1:-1] + 0.25 * power[2:]  # (frames,)
    loud = power > np.percentile(power, 85) * 10 ** (-DROP_DB / 10) if frames else power > 0
    trimmed = list(segments)
    for i in range(1, len(trimmed)):
        phone, start, end = trimmed[i - 1]
        if trimmed[i].phone != SILENCE or phone == SILENCE:
            continue
        first = round(start * SAMPLE_RATE) // HOP
        audible = np.flatnonzero(loud[first : -(-round(end * SAMPLE_RATE) // HOP)])
        last = (first + audible[-1] + 1) * HOP / SAMPLE_RATE + RELEASE_S if len(audible) else start
        cut = min(end, max(last, start + SHORTEST_S))
        trimmed[i - 1] = Segment(phone, start, cut)
        trimmed[i] = Segment(SILENCE, cut, trimmed[i].end_s)
    return trimmed
