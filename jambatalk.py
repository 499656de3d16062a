"""JambaTalk (Jafari, Berretti, Basu, arXiv 2408.01627): speech to a moving face mesh.

The network is a speech encoder, a hybrid decoder and a vertex head. The decoder is described by a
layout string: M is a Mamba layer, E a Mamba layer with a mixture of experts, A a Transformer layer
with grouped-query attention and LRL-RoPE (paper, figure 2, and the authors' poster). The vertex
head gives offsets from the neutral face; it is zero at initialisation, so that training starts from
the neutral face.

`load_checkpoint(path).animate("speech.wav")` animates a face; docs/python.md shows more.

B batch, S samples at 16 kHz, A audio frames, T mesh frames, V vertices, D decoder width,
C0 and C convolutional and transformer width of the encoder, k encoder frames per mesh frame.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from baselines.conditioning import ConditionedDecoder, make_given, style_weights
from baselines.registry import make_layers
from common.device import pick_device
from common.errors import UserError, reason_of
from common.overrides import check, from_dict
from config import BUNDLED_MODEL, DatasetSpec, ModelConfig, Recipe, TrainConfig
from dataset.faces import choose_face, find_faces
from files.models import built_without_memory, load_model_file, misfits, save_model_file
from files.shipped import check_shipped
from layers import NORM_EPS
from layers.fast_dropout import Dropout
from layers.fast_linear import large_weights, make_fast
from layers.rms_norm import RMSNorm
from layers.vertex_head import VertexHead
from rendering.animation import Animation, check_fps, resample_motion
from speech.clip_audio import ClipAudio
from speech.encoder_backend import check_backend
from speech.features import fold, length_mask
from speech.precision import coarsen
from speech.recording import check_clip, check_speech, load_recording
from speech.stored_speech import StoredSpeech
from speech.timing import covering_frames, mesh_frames, samples_for
from wav2vec import SpeechEncoder

if TYPE_CHECKING:
    from released.network import ReleasedJambaTalk

SILENT_PART = 300  # frames of a digitally silent clip that `stream` yields at once
HEADER = "jambatalk"  # key of the JSON in a model file's header

Source = str | Path | NDArray | Tensor  # of a recording: a file or samples


class JambaTalk(nn.Module):
    """Speech and a neutral face to a moving face."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SpeechEncoder(config.encoder, config.fps, config.fold, config.mix_layers)
        self.project = nn.Linear(self.encoder.width, config.d_model)
        self.layers = make_layers(config)
        self.norm = RMSNorm(config.d_model, eps=NORM_EPS)
        self.dropout = Dropout(config.dropout)
        self.head = VertexHead(config.d_model, config.n_vertices, config.vertex_rank)
        self.checkpointing = False

    def checkpoint_activations(self) -> None:
        """In training, keep no activations inside layers; the backward pass recomputes them."""
        self.checkpointing = True
        self.encoder.kind.checkpoint_activations(self.encoder.body)

    def forward(
        self,
        audio: Tensor,
        template: Tensor,
        lengths: Tensor | None = None,
        conv: Tensor | None = None,
        styles: Tensor | None = None,
        motion: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Vertices (B, T, V, 3) in the template's unit, and the decoder's own losses (B,).

        audio: (B, S) float32 at 16 kHz, zero mean and unit variance over each clip; template:
        (B, V, 3); lengths: (B,) samples of each clip of a padded batch, None if all have S; conv:
        (B, N, C0) of `SpeechEncoder.convolve` if they are cached; styles, motion: as for `hidden`.
        Raises `ValueError` for audio that is not a floating tensor (B, S).
        """
        check_speech(audio, "(B, S)", 2)
        features = self.encoder(audio, lengths, conv)  # (B, T, k·C)
        mask = self.frame_mask(lengths, features)  # (B, T) or None
        x, own_loss = self.hidden(features, mask, styles, motion)  # (B, T, D), (B,)
        return template[:, None] + self.offsets(x), own_loss

    def offsets(self, x: Tensor) -> Tensor:
        """The head's input (B, T, D) to offsets (B, T, V, 3)."""
        offsets, units = self.head(x), self.config.units_per_metre
        return offsets if units == 1 else offsets * units  # a pass over all vertices

    def hidden(
        self,
        features: Tensor,
        mask: Tensor | None = None,
        styles: Tensor | None = None,
        motion: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encoder features (B, T, k·C) to the head's input (B, T, D) and own losses (B,).

        styles: (B, N) of `style_weights`, None for equal weights; motion: (B, T or fewer, M) of
        `VertexHead.motion_of_offsets`, the truth in training. Both are used by decoders of other
        systems alone. The losses are those of routers, or of such a decoder.
        """
        x = self.dropout(self.project(features))
        own_loss = x.new_zeros(len(x), dtype=torch.float32)
        for layer in self.layers:
            arguments = (x, mask)
            if isinstance(layer, ConditionedDecoder):
                arguments += (make_given(x, self.config, self.motion_of, styles, motion),)
            if self.checkpointing and self.training:
                x = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                x = layer(*arguments)
            if isinstance(x, tuple):
                x, layer_loss = x
                own_loss = own_loss + layer_loss
        return self.norm(x), own_loss

    def motion_of(self, x: Tensor) -> Tensor:
        """Motion (B, T, M) of a decoder's output (B, T, D)."""
        return self.head.motion(self.norm(x))

    def frame_mask(self, lengths: Tensor | None, features: Tensor) -> Tensor | None:
        """(B, T) bool, True on the frames of `features` (B, T, k·C) that a clip's samples reach."""
        if lengths is None:
            return None
        frames = self.encoder.mesh_lengths(lengths)
        return length_mask(frames, features.shape[1], features.device)

    @torch.inference_mode()
    def stream(
        self, audio: Tensor | StoredSpeech, template: Tensor, subject: str | None = None
    ) -> Iterator[Tensor]:
        """Yield vertices (n, V, 3) of one clip in order, T = mesh_frames(S, fps) frames in all.

        audio: (S,) float32 at 16 kHz with zero mean and unit variance over the clip, at least 45
        ms, or stored speech; template: (V, 3); subject: whose style, see `style_weights`. Raises
        `ValueError` for other input. The clip is processed in windows (`speech.windows`), so that
        memory does not grow with S. The model is left in evaluation mode.
        """
        self.eval()
        fps, k = self.config.fps, self.config.fold
        check_clip(audio, template, samples_for(1, fps), self.config.n_vertices)
        n_frames = mesh_frames(len(audio), fps)
        if not audio.any():  # digital silence has no variance to normalise
            for start in range(0, n_frames, SILENT_PART):
                yield template.expand(min(SILENT_PART, n_frames - start), *template.shape)
            return
        lead_in, features = self.encoder.reader_from_rest(ClipAudio(audio, template.device))
        styles = style_weights([subject], self.config).to(template.device)
        tail, begin = None, lead_in
        for start, stop, fade_start, fade_stop in self.encoder.kind.windows.plan(
            lead_in + n_frames, fps
        ):
            states = self.encoder.transform(features(start * k, stop * k))
            hidden, _ = self.hidden(fold(states, k), styles=styles)
            hidden = hidden[:, begin - start : fade_stop - start]  # without other windows' frames
            offsets = self.offsets(hidden)[0]  # (n, V, 3)
            if tail is not None:
                n = len(tail)
                fade = torch.linspace(0, 1, n + 2, device=offsets.device)[1:-1, None, None]
                offsets[:n] = torch.lerp(tail, offsets[:n], fade)
            tail = offsets[fade_start - begin : fade_stop - begin]
            yield offsets[: fade_start - begin].add_(template)  # behind it nothing was added
            begin = fade_start

    def predict(self, audio: Tensor, template: Tensor, subject: str | None = None) -> Tensor:
        """Vertices (T, V, 3) of one clip, T = mesh_frames(S, fps); arguments as for `stream`."""
        first, *others = self.stream(audio, template, subject)
        return torch.cat([first, *others]) if others else first


class Checkpoint(NamedTuple):
    """A trained model and its data set: `model, spec = load_checkpoint()`.

    model: a `JambaTalk`, or a `released.network.ReleasedJambaTalk` for published weights.
    """

    model: "JambaTalk | ReleasedJambaTalk"
    spec: DatasetSpec

    def animate(
        self,
        recording: Source | Sequence[Source],
        subject: str | None = None,
        template: str | Path | NDArray[np.float32] | None = None,
        fps: int | None = None,
        sample_rate: int | None = None,
    ) -> Animation | list[Animation]:
        """The face that speaks a recording; a list of them for a list or tuple of recordings.

        recording: a file in any audio format, or samples (N,) or (N, channels), int16 or floating,
        at `sample_rate` Hz. subject: whose face, by default the data set's first. template: a face
        of your own in the same topology, as a mesh file or an array (V, 3). fps: frames a second,
        by default the model's; other rates are interpolated. All recordings are read before the
        first prediction. Raises `UserError` for files and faces that cannot be used, `ValueError`
        for samples, rates and frame rates that cannot.
        """
        fps = self.spec.fps if fps is None else check_fps(fps)
        several = isinstance(recording, list | tuple)
        name, face = choose_face(self.spec, subject, template)
        faces = find_faces(self.spec, template)
        sources = recording if several else [recording]
        animations = [
            Animation(
                self.vertices(sound.audio, face, fps, name),
                fps,
                faces,
                name,
                face,
                self.spec,
                sound,
            )
            for sound in [load_recording(source, sample_rate) for source in sources]
        ]
        return animations if several else animations[0]

    def vertices(
        self, audio: NDArray[np.float32] | StoredSpeech, template: NDArray[np.float32], fps: int,
        subject: str | None = None,
    ) -> NDArray[np.float32]:  # fmt: skip
        """`meshes` in one array (T, V, 3)."""
        result = np.empty((covering_frames(len(audio), fps), *template.shape), np.float32)
        for frame, mesh in zip(result, self.meshes(audio, template, fps, subject), strict=True):
            frame[:] = mesh
        return result

    def meshes(
        self, audio: NDArray[np.float32] | StoredSpeech, template: NDArray[np.float32], fps: int,
        subject: str | None = None,
    ) -> Iterator[NDArray[np.float32]]:  # fmt: skip
        """Yield vertices (V, 3) at `fps` frames a second that cover the whole clip, in order.

        audio: (S,) as `data_loader.load_wav` returns it, or stored speech; template: (V, 3) in the
        data set's unit; subject: as for `JambaTalk.stream`. Runs on the GPU if there is one. Raises
        `UserError` where the motion is not finite.
        """
        device = pick_device()[0]
        if not isinstance(audio, StoredSpeech):
            audio = torch.from_numpy(audio).to(device)
        template = torch.from_numpy(template).to(device)
        chunks = self.model.to(device).stream(audio, template, subject)
        predicted = (mesh for chunk in chunks for mesh in chunk.cpu().numpy())
        n_frames = covering_frames(len(audio), fps)
        for mesh in resample_motion(predicted, self.spec.fps, fps, n_frames):
            if not np.isfinite(mesh).all():
                raise UserError("the predicted motion is not finite; use another checkpoint")
            yield mesh


def save_checkpoint(
    path: str | Path, model: JambaTalk, spec: DatasetSpec, half: bool = False
) -> None:
    """Write one .safetensors with config and data spec as JSON in its header; whole or not at all.

    half: store weights as float16 (they are read back as float32).
    """
    header = {"model": dataclasses.asdict(model.config), "dataset": dataclasses.asdict(spec)}
    dtype = torch.float16 if half else torch.float32
    weights = {
        name: value.detach().to("cpu", dtype).contiguous()
        for name, value in model.state_dict().items()
    }
    save_model_file(path, weights, HEADER, header)


def load_checkpoint(
    path: str | Path | None = None,
    dataset: str | None = None,
    encoder_backend: str = "torch",
    precision: str = "fp32",
    device: torch.device | None = None,
) -> Checkpoint:
    """The model and data set of a checkpoint, in evaluation mode on the CPU.

    path: a file that `save_checkpoint` wrote, or the authors' published weights (vocaset.pth,
    biwi.pth, or what release.py makes of them); None loads the bundled model. dataset: a key of
    `config.RECIPES`, needed only where published weights fit several data sets. encoder_backend:
    of `speech.encoder_backend.BACKENDS`. precision: of `layers.PRECISIONS`, see `speech.precision`;
    only "fp32" keeps weights that can be trained or saved. device: that it is chosen for, by
    default `pick_device`'s. Large weights stay memory-mapped as they are stored; half precision is
    widened when it is used (call the model's `float()` before training). Nothing is downloaded or
    unpickled. Raises `UserError` for a file that is missing, damaged or of another kind, and for a
    `dataset`, backend or precision that the model cannot have or that is not installed.
    """
    from released.topology import published_dataset
    from released.weights import is_release, load_release

    if encoder_backend == "onnx" and precision != "fp32":
        raise UserError(f"--precision {precision}: needs --encoder_backend torch")
    check_backend(encoder_backend)
    device = device or pick_device()[0]
    path = BUNDLED_MODEL if path is None else Path(path)
    if is_release(path):
        if encoder_backend != "torch":
            raise UserError(f"{path}: published weights need --encoder_backend torch")
        model = load_release(path)
        coarsen(model.audio_encoder, [model], model.vertice_map_r, precision, device)
        make_fast(model)
        return Checkpoint(model, published_dataset(path, dataset, model.config))
    checkpoint = _load_own(path)
    if dataset not in (None, checkpoint.spec.name):
        raise UserError(f"dataset {dataset}: {path} is a model for {checkpoint.spec.name}")
    model = checkpoint.model
    if encoder_backend == "onnx":
        model.encoder.kind.use_onnx(model.encoder.body.float())
    parts = [model.layers, model.head] if model.head.coefficients is None else [model.layers]
    coarsen(model.encoder.body, parts, model.head, precision, device)
    make_fast(model)
    return checkpoint


def _load_own(path: Path) -> Checkpoint:
    """The content of a file that `save_checkpoint` wrote."""
    check_shipped(path)
    weights, header = load_model_file(path, HEADER)
    try:
        config = from_dict(ModelConfig, header["model"])
        spec = from_dict(DatasetSpec, header["dataset"])
        check(Recipe(spec, config, TrainConfig(), ""))
        model = built_without_memory(lambda: JambaTalk(config))
        wrong = misfits(model, weights)
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from error
    except (ValueError, KeyError) as error:
        raise UserError(
            f"checkpoint {path}: its header does not describe a model ({reason_of(error)})"
        ) from error
    if wrong:
        raise UserError(f"checkpoint {path}: weights do not fit its config ({wrong[0]})")
    if any(buffer.is_meta for buffer in model.buffers()):  # not in the file: computed when built
        model = JambaTalk(config)
    stored = large_weights(model)
    widened = {name: w if name in stored else w.float() for name, w in weights.items()}
    model.load_state_dict(widened, assign=True)
    return Checkpoint(model.eval(), spec)
