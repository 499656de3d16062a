"""The data files that come with the project, and whether they are whole.

SHA256SUMS lists their hashes in the format of sha256sum (`sha256sum -c SHA256SUMS` checks all of
them). The model and the encoder are compared with it when they are loaded: 24 ms of one core for
their 31 MB. The other files have checksums of their own (.npz, .flac), or are examples that users
may change. `python -m files.shipped` writes the list anew, after a file was rebuilt on purpose.
"""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

from common.errors import Parser, UserError, run_cli
from common.whole_file import write_whole
from config import PROJECT_ROOT
from files.content_index import hash_file

SUMS = PROJECT_ROOT / "SHA256SUMS"
SHIPPED = (  # patterns; text files are left out, as git may change the ends of their lines
    "synthetic/*.safetensors", "synthetic/*.npz", "synthetic/encoder/*.safetensors",
    "demo/wav/*.wav", "demo/wav/*.flac", "my_head/wav/*.wav", "my_head/vertices_npy/*.npy",
    "tests/data/*.npz",
)  # fmt: skip
LFS_POINTER = b"version https://git-lfs"  # the beginning of what git leaves without git-lfs


@cache
def recorded() -> dict[str, str]:
    """Path in the project, with slashes, -> SHA-256 of the shipped file; {} without SHA256SUMS."""
    if not SUMS.is_file():
        return {}
    rows = (line.split("  ", 1) for line in SUMS.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in rows}


def check_shipped(path: Path) -> None:
    """Raise `UserError` where `path` is a file of the project that differs from the shipped one.

    A file that is missing, or that the project does not ship, passes.
    """
    path = path.resolve()
    if not path.is_relative_to(PROJECT_ROOT) or not path.is_file():
        return
    name = path.relative_to(PROJECT_ROOT).as_posix()
    digest = recorded().get(name)
    if digest is None or hash_file(path) == digest:
        return
    restore = f"restore it: git checkout -- {name}"
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{path}: a pointer of git-lfs, not the file itself; git lfs pull")
    raise UserError(
        f"{path}: {path.stat().st_size} bytes, not the file that came with the project: a damaged "
        f"or partial download? {restore}; or, if you replaced it: python -m files.shipped"
    )


def shipped_files() -> list[Path]:
    """The data files of the project, sorted."""
    return sorted(path for pattern in SHIPPED for path in PROJECT_ROOT.glob(pattern))


def main(argv: Sequence[str] | None = None) -> None:
    """Write SHA256SUMS."""
    Parser(description="Write the hashes of the project's data files.").parse_args(argv)
    lines = [f"{hash_file(p)}  {p.relative_to(PROJECT_ROOT).as_posix()}" for p in shipped_files()]
    write_whole(SUMS, "\n".join(lines) + "\n")
    print(f"{SUMS}: {len(lines)} files")


if __name__ == "__main__":
    sys.exit(run_cli(main))
