"""A small folder of "own data" to try the format with: `python -m synthetic.example_data my_head`.

Two of the bundled heads speak pieces of the bundled recordings, moved by the shipped model, written
as anybody's captured data would be: wav/, vertices_npy/ in millimetres at 30 fps, templates/ as
.ply. What is trained on it can only copy the shipped model.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import common.interpreter  # noqa: F401  first: explains missing packages

import numpy as np

from common.errors import Parser, UserError, run_cli, writable_folder
from config import PROJECT_ROOT, SAMPLE_RATE

SUBJECTS = ("ada", "ben")
CLIP_S = 2.0
MM = 1000.0  # in a metre


def write_example(folder: Path, n_clips: int) -> None:
    """Write up to `n_clips` clips (as many as the recordings give) and two templates."""
    import soundfile
    import torch
    import trimesh

    from jambatalk import load_checkpoint
    from speech.audio import normalise, read_audio
    from synthetic.head import load_head

    model, _ = load_checkpoint()
    head = load_head()
    for part in ("wav", "vertices_npy", "templates"):
        (folder / part).mkdir(exist_ok=True)
    for subject in SUBJECTS:
        mesh = trimesh.Trimesh(head.templates[subject] * MM, head.faces, process=False)
        mesh.export(folder / "templates" / f"{subject}.ply")
    pieces = []
    for path in sorted((PROJECT_ROOT / "demo/wav").glob("*.*")):
        if path.suffix in (".wav", ".flac"):
            audio, step = read_audio(path), round(CLIP_S * SAMPLE_RATE)
            pieces += [audio[i : i + step] for i in range(0, len(audio) - step + 1, step)]
    for number, audio in enumerate(pieces[:n_clips]):
        subject = SUBJECTS[number % len(SUBJECTS)]
        name = f"{subject}_{number // len(SUBJECTS) + 1:02d}"
        template = torch.from_numpy(head.templates[subject])
        vertices = model.predict(torch.from_numpy(normalise(audio)), template).numpy() * MM
        soundfile.write(folder / "wav" / f"{name}.wav", audio, SAMPLE_RATE)
        np.save(folder / "vertices_npy" / f"{name}.npy", vertices)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", help="folder to write to, about 4 MB a clip")
    parser.add_argument("--clips", type=int, default=10, help="clips of 2 s (default 10)")
    args = parser.parse_args(argv)
    if args.clips < 1:
        raise UserError(f"--clips {args.clips}: wanted 1 or more")
    write_example(writable_folder(args.folder), args.clips)
    print(f"{args.folder}: now python main.py --dataset {args.folder} --base synthetic")


if __name__ == "__main__":
    sys.exit(run_cli(main))
