"""Smaller files of published weights: `python release.py convert vocaset.pth vocaset.safetensors`.

`load_release("vocaset.pth")` loads such weights for prediction. The code is in `released/`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

from common.errors import Parser, run_cli
from released.weights import convert
from released.weights import load_release as load_release


def main(argv: Sequence[str] | None = None) -> None:
    """`python release.py convert IN OUT [--half]`."""
    parser = Parser(description="Published JambaTalk weights.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("convert", help="keep only the weights that prediction needs")
    command.add_argument("source", type=Path, metavar="IN", help="vocaset.pth or biwi.pth")
    command.add_argument("target", type=Path, metavar="OUT", help="the .safetensors to write")
    command.add_argument(
        "--half", action="store_true", help="as float16: 22 %% of the size of IN instead of 43 %%"
    )
    args = parser.parse_args(argv)
    convert(args.source, args.target, args.half)
    sizes = [path.stat().st_size / 1e6 for path in (args.source, args.target)]
    print(f"{args.target}: {sizes[1]:.0f} MB of {sizes[0]:.0f} MB")


if __name__ == "__main__":
    sys.exit(run_cli(main))
