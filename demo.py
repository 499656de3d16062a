"""From a recording to a talking head: `python demo.py --wav_path speech.wav`.

Writes `<out>/<name>.mp4`, the head speaking the recording, and `<out>/<name>.npy`, its vertices
(T, V, 3) float32 in the unit of the model's training data; <name> is that of the recording. Frame t
is the instant t / fps after --start, and the frames cover the recording. `--export` adds files that
other programs open.

`--checkpoint` also takes the weights that the paper's authors published (vocaset.pth, biwi.pth);
`--dataset` names the data set whose templates and topology they are for.
"""

import sys
from collections.abc import Sequence

import common.interpreter  # noqa: F401  first: explains missing packages

from common.errors import EXIT_PARTLY, run_cli
from common.start_up import collect_seldom, leave_out_meta_kernels, prepare_process
from production.flags import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code. The last line for one recording is the path of its result."""
    args = parse(argv)
    prepare_process()
    from production.plan import check  # loads numpy, for which --help does not wait
    from production.run import run

    return EXIT_PARTLY if run(check(args)) else 0


if __name__ == "__main__":
    collect_seldom()
    leave_out_meta_kernels()
    sys.exit(run_cli(main))
