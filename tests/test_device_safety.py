"""Network, losses and a training step as a GPU runs them, on torch's meta device.

Meta tensors have shapes but no values, so code takes the paths of a GPU with them. `DeviceWatch`
lists the lines of the project that are wrong or slow there: tensors made without a device, values
read on the host (which waits for the GPU), tensors of two devices in one call. Where a value may be
read, or torch has no kernel for meta tensors, the watch returns a value of the right shape.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode

import config
from files.cache import Cache
from jambatalk import JambaTalk
from layers.moe import TopKRouter
from lip_reader import LipReader
from speech.moonshine import Moonshine
from speech.pretrained import load_pretrained
from speech.timing import mesh_frames
from tests.toy import CLIPS, KEYS, LIPS, TRAIN, V, clip, moonshine_folder, networks, together
from training.networks import Networks
from training.processes import Group
from training.step import TrainingStep
from wav2vec import SpeechEncoder, TextTeacher

META = torch.device("meta")
TORCH = str(Path(torch.__file__).parent)
OTHERS = ("tests", ".venv")  # folders of the project whose calls are not judged
FACTORIES = {
    getattr(torch, name)
    for name in ("zeros", "ones", "full", "empty", "arange", "range", "linspace", "logspace",
                 "tensor", "as_tensor", "asarray", "rand", "randn", "randint", "randperm", "eye",
                 "hann_window", "hamming_window", "tril_indices", "triu_indices")
}  # fmt: skip
READS = {
    getattr(Tensor, name)
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__",
                 "nonzero", "masked_select", "unique", "unique_consecutive", "allclose", "equal")
} | {torch.nonzero, torch.masked_select, torch.unique, torch.unique_consecutive}  # fmt: skip
MAY_MIX = {Tensor.to, Tensor.copy_, F.ctc_loss}  # ctc_loss takes lengths on the host, see below
NEEDED_READS = {  # file and function: reason
    "training/step.py _sum_over_processes": "losses are reported and checked, once a step",
    "wav2vec.py decode_text": "the length of a text depends on its values, once a batch",
    "training/teacher_targets.py compute": "the cache is on disk, once a clip and run",
    "speech/recording.py check_normalised": "wrong input is refused, once a clip",
    "jambatalk.py stream": "digital silence is not normalised, once a clip",
    "layers/moe.py _route": "frames are gathered per expert, where some experts are not used",
}


class DeviceWatch(TorchFunctionMode):
    """Collects `faults`, "file:line: what", of the calls that the project's code makes."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in flat([*args, *kwargs.values()]) if isinstance(x, Tensor)]
        reads = function in READS and any(x.device == META for x in tensors)
        if place := project_line():
            file, caller, line = place
            name = getattr(function, "__name__", "")
            devices = sorted({x.device.type for x in tensors if x.ndim})  # a scalar may be on a CPU
            fault = ""
            if function in FACTORIES and kwargs.get("device") is None:
                fault = "without a device"
            elif reads and f"{file} {caller}" not in NEEDED_READS:
                fault = "reads a value on the host"
            elif len(devices) > 1 and function not in MAY_MIX:
                fault = f"of tensors on {' and '.join(devices)}"
            if fault:
                self.faults.append(f"{file}:{line}: {name} {fault}")
        if reads:
            return value_of(function, tensors[0])
        if function is torch._fused_adamw_:
            return None
        if function is F.ctc_loss:
            logits, targets, *lengths = args
            assert targets.device == logits.device and not any(x.is_meta for x in lengths)
            return logits.sum(dim=(0, 2))  # (A, B, K) to (B,)
        return function(*args, **kwargs)


def flat(values: Sequence[Any]) -> list[Any]:
    """Arguments, with lists and tuples among them opened one level."""
    return [x for value in values for x in (value if isinstance(value, list | tuple) else [value])]


def project_line() -> tuple[str, str, int] | None:
    """File, function and line of the call, if code of the project makes it."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.startswith(TORCH):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename) if frame is not None else Path()
    if not path.is_relative_to(config.PROJECT_ROOT):
        return None
    file = path.relative_to(config.PROJECT_ROOT)
    if file.parts[0] in OTHERS:
        return None
    return file.as_posix(), frame.f_code.co_name, frame.f_lineno


def value_of(read: Callable, x: Tensor) -> Any:
    """What a read of the meta tensor `x` returns: as if its values were 1, 0, 1, 0 and so on."""
    values = (torch.arange(x.numel(), device="cpu") + 1).remainder(2).to(x.dtype).view(x.shape)
    if read is Tensor.cpu:
        return values
    value = getattr(values, read.__name__)()
    return value.to(META) if isinstance(value, Tensor) else value


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> DeviceWatch:
    """A watch that also sees backward passes: torch leaves a mode off while it handles a call."""
    watch, run_backward = DeviceWatch(), torch.autograd._engine_run_backward

    def watched_backward(*args: Any, **settings: Any) -> Any:
        with watch:
            return run_backward(*args, **settings)

    monkeypatch.setattr(torch.autograd, "_engine_run_backward", watched_backward)
    return watch


@pytest.fixture(autouse=True)
def meta_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch refuses autocast and fused AdamW on meta tensors; here autocast changes no dtype."""
    real, is_enabled = torch.autocast, torch.is_autocast_enabled

    def autocast(kind: str, *args: Any, **settings: Any) -> Any:
        return nullcontext() if kind == "meta" else real(kind, *args, **settings)

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(
        torch, "is_autocast_enabled", lambda kind: kind != "meta" and is_enabled(kind)
    )
    adam = sys.modules["torch.optim.adam"]
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)


def skip_without_meta_backward() -> None:
    layer = weight_norm(torch.nn.Linear(2, 2)).to(META)  # the encoder's positions have one
    try:
        layer(torch.zeros(1, 2, device=META)).sum().backward()
    except NotImplementedError:
        pytest.skip(f"torch {torch.__version__} has no backward of weight norm on meta tensors")


def on_meta(nets: Networks) -> Networks:
    for part in (nets.model, nets.reader, nets.teacher):
        part.to(META)
    nets.inner_lips = nets.inner_lips.to(META)
    nets.average = AveragedModel(nets.model)
    return nets


def with_one_expert_a_frame(model: JambaTalk) -> None:
    for module in model.modules():
        if isinstance(module, TopKRouter):
            module.top_k = 1


class Plan:
    """Replaces `dataset.batch_plan.BatchPlan`; every clip of a batch counts."""

    counted = 3

    def advance(self) -> None: ...


PADDED, WHOLE = together(*CLIPS), together(*CLIPS) | {"keys": KEYS}


@pytest.mark.parametrize("batch", [PADDED, WHOLE, CLIPS[0]], ids=["padded", "cached", "one clip"])
@pytest.mark.parametrize(
    "kind, changes, sparse",
    [
        ("layer", {"accumulate": 2}, False),
        ("group", {"lean": True}, True),
        ("layer", {"w_lips": 0.0}, False),
    ],
)
def test_a_training_step_neither_mixes_devices_nor_waits(
    kind: str, changes: dict, sparse: bool, batch: dict, watch: DeviceWatch, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Masks, accumulation, lip reader, experts, checkpointing, averaged weights, targets."""
    skip_without_meta_backward()
    monkeypatch.setattr("training.teacher_targets.same_convolutions", lambda *_: True)
    train = dataclasses.replace(TRAIN, ema_decay=0.9, **changes)
    nets = on_meta(networks(kind))
    nets.model.checkpoint_activations()
    if sparse:
        with_one_expert_a_frame(nets.model)
    step = TrainingStep(nets, LIPS.to(META), train, 10, Group(), torch.float32)
    step.attach_teacher(None, None)
    step.targets.cache = Cache(tmp_path, {})
    with watch:
        losses = step([batch] * train.accumulate, Plan())
        step([batch] * train.accumulate, Plan())
    assert not watch.faults, "\n".join(watch.faults)
    assert {"vertex", "velocity", "balance", "latent", "ctc", "gradient_norm"} <= losses.keys()


def test_a_step_on_takes_neither_mixes_devices_nor_waits(
    watch: DeviceWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cached features of Moonshine, low-rank motion, the loss of details."""
    monkeypatch.setattr("training.teacher_targets.same_convolutions", lambda *_: True)
    teacher = TextTeacher(load_pretrained(moonshine_folder(tmp_path)))
    encoder = {"model_type": "moonshine"} | OTHER_KINDS["moonshine"]
    nets = networks()
    nets.model = JambaTalk(
        dataclasses.replace(nets.model.config, encoder=encoder, vertex_rank=4, mix_layers=True)
    )
    nets.model.encoder.freeze_features()
    nets.teacher, nets.reader = teacher, LipReader(len(LIPS), 16, 1, 30, d_model=32)
    nets = on_meta(nets)
    batch = together(clip(1.5, 1), clip(1.5, 2))
    frames, n_states = batch.pop("vertices").shape[1], Moonshine.native_lengths(24_000)
    batch |= {
        "conv": torch.zeros(2, n_states, 3 * 16, dtype=torch.float16),
        "curves": torch.zeros(2, frames, 5), "basis": torch.zeros(5, V, 3),
        "details": torch.tensor([1, 9]),
    }  # fmt: skip
    train = dataclasses.replace(TRAIN, ema_decay=0.9, w_details=1.0)
    step = TrainingStep(nets, LIPS.to(META), train, 10, Group(), torch.float32)
    step.attach_teacher(None, None)
    with watch:
        losses = step([batch], Plan())
    assert not watch.faults, "\n".join(watch.faults)
    assert {"vertex", "velocity", "lips", "details", "latent"} <= losses.keys()


OTHER_KINDS = {
    "wav2vec2-bert": dict(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        conformer_conv_dropout=0.0, conv_depthwise_kernel_size=3,
    ),
    "moonshine": dict(
        hidden_size=16, intermediate_size=32, encoder_num_hidden_layers=2,
        encoder_num_attention_heads=2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize("mix_layers", [False, True])
def test_another_kind_of_encoder_neither_mixes_devices_nor_waits(
    kind: str, mix_layers: bool, watch: DeviceWatch
) -> None:
    config = {"model_type": kind} | OTHER_KINDS[kind]
    encoder = SpeechEncoder(config, 30, 2, mix_layers).eval().to(META)
    with watch:
        features = encoder(PADDED["audio"].to(META), PADDED["audio_samples"])
    assert not watch.faults, "\n".join(watch.faults)
    assert features.device == META


def test_the_gradients_of_bfloat16_autocast_stay_on_the_device(
    watch: DeviceWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: True)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.bfloat16)
    head = networks().model.head.to(META)
    with watch:
        head(torch.randn(2, 5, 24, device=META)).sum().backward()
    assert not watch.faults, "\n".join(watch.faults)
    assert head.offsets.weight.grad.device == META


@pytest.mark.parametrize("sparse", [False, True])
def test_streaming_neither_mixes_devices_nor_waits(sparse: bool, watch: DeviceWatch) -> None:
    model = on_meta(networks()).model
    if sparse:
        with_one_expert_a_frame(model)
    samples = 16_000 * 40  # several windows
    with watch:
        audio = torch.randn(samples, device=META)
        parts = list(model.stream(audio, torch.randn(V, 3, device=META)))
    assert not watch.faults, "\n".join(watch.faults)
    assert all(part.device == META for part in parts)
    assert sum(len(part) for part in parts) == mesh_frames(samples, 30)


@pytest.mark.parametrize(
    "code, fault",
    [
        ("torch.zeros(3)", "zeros without a device"),
        ("torch.tensor([1.0])", "tensor without a device"),
        ("torch.linspace(0, 1, 4)", "linspace without a device"),
        ("float(x.sum())", "__float__ reads a value on the host"),
        ("x.sum().item()", "item reads a value on the host"),
        ("bool(x.any())", "__bool__ reads a value on the host"),
        ("x.cpu()", "cpu reads a value on the host"),
        ("x.nonzero()", "nonzero reads a value on the host"),
        ("x.gather(0, y)", "gather of tensors on cpu and meta"),
        ("x[y]", "__getitem__ of tensors on cpu and meta"),
        ("torch.nn.functional.embedding(y, x[:, None])", "embedding of tensors on cpu and meta"),
    ],
)
def test_the_watch_names_the_line(
    code: str, fault: str, watch: DeviceWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "PROJECT_ROOT", tmp_path)
    values = {"torch": torch, "x": torch.ones(4, device=META), "y": torch.ones(2).long()}
    with watch:
        exec(compile(f"\n{code}", tmp_path / "part.py", "exec"), values)
    assert watch.faults == [f"part.py:2: {fault}"]


def test_the_watch_accepts_what_is_safe(
    watch: DeviceWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "PROJECT_ROOT", tmp_path)
    values = {"torch": torch, "x": torch.ones(4, device=META), "y": torch.ones(2).long()}
    code = "x.new_zeros(3); torch.zeros_like(x); torch.zeros(2, device=x.device); y.tolist(); 2 * x"
    with watch:
        exec(compile(code, tmp_path / "part.py", "exec"), values)
    assert watch.faults == []


def test_every_needed_read_is_still_there() -> None:
    for place in NEEDED_READS:
        file, function = place.split()
        assert f"def {function}(" in (config.PROJECT_ROOT / file).read_text(encoding="utf-8")
