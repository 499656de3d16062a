"""A small folder of "own data" to try the format: `python -m synthetic.example_data my_head`.

Two of the bundled heads speak pieces of the bundled recordings, animated by the shipped model. The
folder has the layout of captured data: wav/, vertices_npy/ in millimetres at 30 fps, templates/ as
.ply. A model trained on it can only imitate the shipped model.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

from common.errors import Parser, UserError, run_cli, writable_folder
from common.whole_file import whole_file
from config import PROJECT_ROOT, SAMPLE_RATE
from dataset.clip_files import make_folders, write_clip

SUBJECTS = ("ada", "ben")
CLIP_S = 2.0
MM = 1000.0  # per metre


def write_example(folder: Path, n_clips: int) -> None:
    """Write two templates and `n_clips` clips of 2 s, or fewer if the recordings are shorter."""
    import torch
    import trimesh

    from jambatalk import load_checkpoint
    from speech.audio import normalise, read_audio
    from synthetic.head import load_head

    model, _ = load_checkpoint()
    head = load_head()
    make_folders(folder)
    (folder / "templates").mkdir(exist_ok=True)
    for subject in SUBJECTS:
        mesh = trimesh.Trimesh(head.templates[subject] * MM, head.faces, process=False)
        with whole_file(folder / "templates" / f"{subject}.ply") as partial:
            mesh.export(partial)
    pieces = []
    for path in sorted((PROJECT_ROOT / "demo/wav").glob("[!.]*.*")):
        if path.suffix in (".wav", ".flac"):
            audio, step = read_audio(path), round(CLIP_S * SAMPLE_RATE)
            pieces += [audio[i : i + step] for i in range(0, len(audio) - step + 1, step)]
    for number, audio in enumerate(pieces[:n_clips]):
        subject = SUBJECTS[number % len(SUBJECTS)]
        name = f"{subject}_{number // len(SUBJECTS) + 1:02d}"
        template = torch.from_numpy(head.templates[subject])
        vertices = model.predict(torch.from_numpy(normalise(audio)), template).numpy() * MM
        write_clip(folder, name, vertices, audio, SAMPLE_RATE)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, check, write, print the command that trains on the folder."""
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", help="folder to write to, about 4 MB a clip")
    parser.add_argument("--clips", type=int, default=10, help="clips of 2 s (default 10)")
    args = parser.parse_args(argv)
    if args.clips < 1:
        raise UserError(f"--clips {args.clips}: expected 1 or more")
    write_example(writable_folder(args.folder), args.clips)
    print(f"{args.folder}: continue with python main.py --dataset {args.folder} --base synthetic")


if __name__ == "__main__":
    sys.exit(run_cli(main))
