"""How near every stage is to what this machine can do: `python -m benchmarks.floors`.

The stages of 10 s of speech through the paper's network for VOCASET (random weights), and of the
picture of the bundled head. Operations and bytes are counted from the shapes (`counts`). The peak
is measured in the same run: a matrix product of 1,024 in float32, and a copy of 256 MB. The floor
of a stage is operations / peak or bytes / bandwidth, whichever is longer; the share is floor /
time.

Drawing, encoding and decoding of sound have no operations that follow from their shapes: their
floor is that of the bytes alone, which no program reaches. Times are processor seconds of one
thread, the least of `--repeats` calls, because peak and bandwidth are the best that was measured,
too. The last line is JSON: the shares.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import common.interpreter  # noqa: F401  first: explains missing packages

import torch
from torch import Tensor

from benchmarks import counts
from benchmarks.bench_scan import make_inputs, scan_forward
from benchmarks.counts import Count
from benchmarks.processor import kind_of_processor
from common.errors import Parser, UserError, run_cli
from config import BUNDLED_MODEL, RECIPES, SAMPLE_RATE, ModelConfig
from jambatalk import JambaTalk, load_checkpoint
from layers.fast_linear import make_fast
from production.jobs import bundled_recording
from speech.audio import read_audio
from speech.clip_audio import ClipAudio

SEED, SECONDS, SIZE, N_PICTURES = 1, 10, 800, 30
GEMM, COPY_BYTES = 1_024, 1 << 28
CONFIG: ModelConfig = RECIPES["vocaset"].model


class Stage(NamedTuple):
    """A stage: its name, what is counted, and what is timed."""

    name: str
    count: Count
    run: Callable[[], object]


class Peak(NamedTuple):
    """Of this machine, in this run: operations a second, and bytes a second."""

    operations: float
    bytes: float

    def floor_s(self, count: Count) -> float:
        """Seconds that a stage takes at least."""
        return max(count.operations / self.operations, count.bytes / self.bytes)


def processor_s() -> float:
    """Processor seconds of this process and of the children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def least_s(run: Callable[[], object], repeats: int) -> float:
    """Least processor seconds of a call, after one that is not counted."""
    run()
    seconds = []
    for _ in range(repeats):
        started = processor_s()
        run()
        seconds.append(processor_s() - started)
    return min(seconds)


def measure_peak(repeats: int) -> Peak:
    """The peak of one thread."""
    a, b, product = (torch.rand(GEMM, GEMM) for _ in range(3))
    block, copy = torch.zeros(2, COPY_BYTES // 4)
    gemm_s = least_s(lambda: [torch.mm(a, b, out=product) for _ in range(8)], repeats) / 8
    return Peak(2 * GEMM**3 / gemm_s, 2 * COPY_BYTES / least_s(lambda: copy.copy_(block), repeats))


def random_network() -> JambaTalk:
    """The paper's network with small random weights."""
    torch.manual_seed(SEED)
    with torch.device("meta"):
        network = JambaTalk(CONFIG)
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    for weight in network.parameters():
        weight.uniform_(-0.03, 0.03)
    make_fast(network)  # as a checkpoint is loaded
    return network


def encoder_stages(network: JambaTalk) -> list[Stage]:
    """Convolutions and transformer of `SECONDS` of sound."""
    body, n_frames = network.encoder.body, SECONDS * CONFIG.fps * CONFIG.fold
    shape = body.config
    audio = torch.randn(SECONDS * SAMPLE_RATE)
    audio = (audio - audio.mean()) / audio.std(correction=0)

    def convolve() -> Tensor:
        return network.encoder.reader(ClipAudio(audio, audio.device))(0, n_frames)

    features = convolve()
    convolutions = counts.wav2vec_convolutions(
        len(audio), shape.conv_dim, shape.conv_kernel, shape.conv_stride
    )
    transformer = counts.wav2vec_transformer(
        n_frames, shape.conv_dim[-1], shape.hidden_size, shape.intermediate_size,
        shape.num_hidden_layers, shape.num_conv_pos_embeddings,
        shape.num_conv_pos_embedding_groups,
    )  # fmt: skip
    return [
        Stage("encoder convolutions", convolutions, convolve),
        Stage("encoder transformer", transformer, partial(network.encoder.transform, features)),
    ]


def decoder_stages(network: JambaTalk) -> list[Stage]:
    """The parts of the decoder, each in all the layers that have it."""
    n_frames, d_inner = SECONDS * CONFIG.fps, CONFIG.expand * CONFIG.d_model
    x, u = torch.randn(1, n_frames, CONFIG.d_model), torch.randn(1, n_frames, d_inner)
    by_kind = {
        kind: [layer for k, layer in zip(CONFIG.layout, network.layers, strict=True) if k == kind]
        for kind in "MEA"
    }
    blocks = [layer.mamba for layer in (*by_kind["M"], *by_kind["E"])]
    inputs = [make_inputs(d_inner, block.d_state, n_frames, "cpu") for block in blocks]

    def each(modules: Sequence[Callable], value: Tensor) -> Callable[[], object]:
        return lambda: [module(value) for module in modules]

    return [
        Stage("decoder scan", counts.scans(CONFIG, n_frames),
              lambda: [scan_forward(values, "auto") for values in inputs]),
        Stage("depthwise convolution", counts.depthwise_convolutions(CONFIG, n_frames),
              each([block.convolve for block in blocks], u)),
        Stage("experts", counts.experts(CONFIG, n_frames),
              each([layer.moe for layer in by_kind["E"]], x)),
        Stage("attention", counts.decoder_attention(CONFIG, n_frames),
              each([layer.attention for layer in by_kind["A"]], x)),
        Stage("vertex head", counts.vertex_head(CONFIG, n_frames), each([network.head], x)),
    ]  # fmt: skip


def picture_stages(folder: Path) -> list[Stage]:
    """Sound decoding, drawing, encoding; of the bundled recording and head."""
    from rendering.face import appearance
    from rendering.renderer import Renderer
    from rendering.video import write_video

    wav, video = bundled_recording(), folder / "video.mp4"
    animation = load_checkpoint(BUNDLED_MODEL).animate(wav)
    meshes = animation.vertices[:N_PICTURES]
    renderer = Renderer(
        animation.faces, animation.template, size=SIZE,
        **appearance(animation.dataset, animation.subject),
    )  # fmt: skip
    pictures = [renderer.frame(mesh) for mesh in meshes]

    def encode() -> None:
        write_video(video, pictures, N_PICTURES, animation.fps)

    encode()
    shape = N_PICTURES, SIZE
    return [
        Stage("sound decoding", counts.sound(wav.stat().st_size, len(read_audio(wav))),
              partial(read_audio, wav)),
        Stage(f"drawing {N_PICTURES} frames", counts.pictures(*shape, meshes.shape[1]),
              lambda: [renderer.frame(mesh) for mesh in meshes]),
        Stage(f"encoding {N_PICTURES} frames", counts.encoding(*shape, video.stat().st_size),
              encode),
    ]  # fmt: skip


def report(stages: Sequence[Stage], peak: Peak, repeats: int) -> dict[str, float]:
    """Print the table; the share of each stage."""
    print(f"{kind_of_processor()}, one thread: {peak.operations / 1e9:.0f} GFLOP/s, "
          f"copy {peak.bytes / 1e9:.1f} GB/s")  # fmt: skip
    print("| stage | GFLOP | MB | time ms | floor ms | limit | share |")
    print("|---|---|---|---|---|---|---|")
    shares = {}
    for name, count, run in stages:
        seconds, floor = least_s(run, repeats), peak.floor_s(count)
        shares[name] = round(floor / seconds, 3)
        limit = "bytes" if floor > count.operations / peak.operations else "operations"
        print(
            f"| {name} | {count.operations / 1e9:.2f} | {count.bytes / 1e6:.1f} | "
            f"{1e3 * seconds:.1f} | {1e3 * floor:.2f} | {limit} | {100 * shares[name]:.1f} % |",
            flush=True,
        )
    return shares


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and the JSON line."""
    parser = Parser(prog="python -m benchmarks.floors", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="calls of each; default: 5")
    repeats = parser.parse_args(argv).repeats
    if repeats < 1:
        raise UserError(f"--repeats {repeats}: expected 1 or more")
    torch.set_num_threads(1)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        peak, network = measure_peak(repeats), random_network()
        stages = [
            *encoder_stages(network), *decoder_stages(network), *picture_stages(Path(folder))
        ]  # fmt: skip
        print(json.dumps(report(stages, peak, repeats)))


if __name__ == "__main__":
    sys.exit(run_cli(main))
