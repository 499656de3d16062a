"""Every number in which data sets and models differ, as frozen dataclasses, and the recipes.

A `Recipe` is one run: which data (`DatasetSpec`), which network
(`ModelConfig`), how it is trained (`TrainConfig`). A checkpoint carries its `ModelConfig` and the
`DatasetSpec` it was trained on as JSON, so that no flag is needed to rebuild the model.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT_ROOT = Path(__file__).resolve().parent
BUNDLED_MODEL = PROJECT_ROOT / "synthetic/model.safetensors"
SAMPLE_RATE = 16_000  # Hz, what every wav2vec 2.0 model expects


@dataclass(frozen=True)
class Split:
    """The clips of a split: every sentence of `sentences` by every subject of `subjects`."""

    subjects: tuple[str, ...]
    sentences: tuple[int, ...]  # numbers as in the file names, from 1
    prefix: str = ""  # before the number, where a folder holds two kinds of clips: BIWI's "e"
    clips: tuple[str, ...] = ()  # full clip names instead, where files are named differently


@dataclass(frozen=True)
class Box:
    """A box in the data set's unit; its vertices are a region where there is no region file."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    subject: str = ""  # whose template is used; the mean of all templates when empty or unknown


@dataclass(frozen=True)
class DatasetSpec:
    """A data set on disk: `<root>/wav`, `<root>/vertices_npy`, templates, topology, regions.

    `dataset.prepared.locate` finds files that lie elsewhere.
    """

    name: str
    root: str  # folder of the prepared data, relative to the project or absolute
    fps: int  # frames per second of the vertices that the network predicts
    source_fps: int | str  # frames per second on disk, such as 60 or "30000/1001"
    n_vertices: int
    metres_per_unit: float
    templates: str  # subject -> neutral mesh: .pkl, .npz or a folder of .ply/.obj
    topology: str  # faces: .ply, .obj or an .npz with `faces`
    lips_region: str  # index list for LVE, the lip reader and the lip measures
    upper_region: str  # index list for FDD
    inner_lips: str = ""  # indices in pairs that touch when the mouth is shut: upper, lower, ...
    phones: str = ""  # JSON lines {"name", "segments": [[phone, start_s, end_s], ...]}
    splits: dict[str, Split] = field(default_factory=dict)
    speech_pool: str = ""  # extra training speech kept as audio + phones (synthetic only)
    other_roots: tuple[str, ...] = ()  # where other projects keep the same prepared folders
    boxes: dict[str, Box] = field(default_factory=dict)  # "lips", "upper": where there is no file
    max_drift_s: float = 0.0  # by which sound and motion of own data may differ; 0: one frame
    source: str = ""  # where to get the data and how to prepare them, for error messages

    def path(self, relative: str) -> Path:
        """`relative` resolved against the project folder; absolute paths stay as they are."""
        return PROJECT_ROOT / relative


@dataclass(frozen=True)
class ModelConfig:
    """The network's dimensions; stored in every checkpoint.

    `encoder` is the transformers config (such as Wav2Vec2Config) as a plain dict with its
    `model_type`, so that the architecture is rebuilt offline.
    """

    encoder: dict[str, Any]
    n_vertices: int
    fps: int
    fold: int  # k: features are resampled to fps·k and k frames are folded into one
    layout: str = "MEAEME"  # M Mamba layer, E MoE-Mamba layer, A Transformer layer
    tie_layers: bool = False  # all layers of a letter are one module, as in the release
    d_model: int = 512
    d_state: int = 16  # mamba_ssm defaults (paper, section 3)
    d_conv: int = 4
    expand: int = 2
    moe_d_state: int = 8
    moe_d_conv: int = 8
    n_experts: int = 2
    top_k: int = 2
    n_heads: int = 8
    n_kv_heads: int = 4
    rope_rank: int = 16  # of the learnt correction; 0: plain RoPE
    d_ff: int = 2048
    dropout: float = 0.0
    vertex_rank: int = 0  # > 0: vertex head of that many learnt components; 0: one full matrix
    units_per_metre: float = 1.0  # of the data; the vertex head's output is multiplied by it
    mix_layers: bool = False  # features are a learnt mean of all the encoder's states
    model: str = "jambatalk"  # whose decoder, a key of MODELS
    prior_share: float = 0.4  # of a run's steps that train CodeTalker's motion prior
    subjects: tuple[str, ...] = ()  # of the training split, where the decoder has their styles


@dataclass(frozen=True)
class TrainConfig:
    """How a run is trained. Loss weights as SelfTalk and the paper: 1000, 1000, 0.001, 0.0001.

    Mesh losses are computed in `loss_unit`, whatever the unit of the files: data in millimetres
    train as the same data in metres do.
    """

    epochs: int = 100
    batch_size: int = 1  # clips per batch, on each process
    accumulate: int = 1  # batches per optimizer step
    learning_rate: float = 1e-4
    encoder_learning_rate: float = 1e-5
    warmup_steps: int = 200
    weight_decay: float = 0.01
    grad_clip: float = 1.0  # norm
    loss_unit: float = 1.0  # metres
    w_vertex: float = 1000.0
    w_velocity: float = 1000.0
    w_latent: float = 1e-3
    w_ctc: float = 1e-4
    w_balance: float = 1e-2
    w_code: float = 1.0  # of CodeTalker's codes
    w_lips: float = 0.0  # of an additional vertex and velocity loss of the lips, not in the paper
    w_details: float = 0.0  # of an additional vertex loss of tongue and brows, in takes only
    closure_gain: float = 0.0  # extra weight, in that loss, of frames in which the lips touch
    noisy_gain: float = 0.0  # added to closure_gain where the sound is noisy, in takes only
    w_open: float = 0.0  # of a loss of lips too close where the true ones are open, open at rest
    max_clip_s: float = 0.0  # longer training clips are cropped at random; 0: no cropping
    steps_per_epoch: int = 0  # > 0: clips are drawn repeatedly; 0: one pass over them
    takes: int = 0  # recordings made of the speech pool, whose features are cached (synthetic only)
    ema_decay: float = 0.0  # > 0: weights averaged with this decay are validated and saved
    augment: bool = False
    checkpointing: bool = False  # activations are computed twice: less memory, a third more time
    lean: bool = False  # Adam's moments in bfloat16: half of the optimizer's memory
    preview_every: int = 10  # epochs between two previews of a validation clip; 0: none
    seed: int = 1


# Fields of earlier versions that run.json and last.pt may still have; they are ignored.
RETIRED_FIELDS = ("train.compile",)


@dataclass(frozen=True)
class Recipe:
    """Data, network and training of a run; `wav2vec2` is the pre-trained encoder and teacher."""

    dataset: DatasetSpec
    model: ModelConfig
    train: TrainConfig
    wav2vec2: str


@dataclass(frozen=True)
class Decoder:
    """A decoder that `--model` names."""

    path: str = ""  # module and class; "" for the layers of the layout string
    has_styles: bool = False  # one for each training subject: `ModelConfig.subjects` is set


MODELS = {  # name -> whose decoder
    "jambatalk": Decoder(),
    "selftalk": Decoder("baselines.selftalk.SelfTalkDecoder"),
    "faceformer": Decoder("baselines.faceformer.FaceFormerDecoder", has_styles=True),
    "voca": Decoder("baselines.voca.VOCADecoder", has_styles=True),
    "facexhubert": Decoder("baselines.facexhubert.FaceXHuBERTDecoder", has_styles=True),
    "facediffuser": Decoder("baselines.facediffuser.FaceDiffuserDecoder", has_styles=True),
    "codetalker": Decoder("baselines.codetalker.CodeTalkerDecoder", has_styles=True),
}
LAYERS = {"M": "Mamba", "E": "MoE-Mamba", "A": "Transformer"}  # letter of a layout -> its layer

# Ablated orders of the decoder (authors' poster): variant -> layouts for N = 1 (vocaset) and N = 2
# (BIWI). N x [two layers], Transformer, N x [two layers], one more. `--set model.layout=B` takes
# the one as long as the recipe's.
LAYOUTS: dict[str, tuple[str, str]] = {
    "A": ("MEAEME", "MEMEAEMEME"),  # [M,E] A [E,M] E, the paper's choice
    "B": ("EMAEME", "EMEMAEMEME"),  # [E,M] A [E,M] E
    "C": ("MEAMEM", "MEMEAMEMEM"),  # [M,E] A [M,E] M
    "D": ("EMAMEM", "EMEMAMEMEM"),  # [E,M] A [M,E] M
}

# facebook/wav2vec2-large-xlsr-53 and every model fine-tuned from it: the paper's encoder.
XLSR_LARGE: dict[str, Any] = dict(
    model_type="wav2vec2", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16,
    intermediate_size=4096, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True,
    layerdrop=0.0, apply_spec_augment=True, mask_time_prob=0.05, feat_proj_dropout=0.05,
    hidden_dropout=0.05, activation_dropout=0.05, attention_dropout=0.1,
)  # fmt: skip

# The encoder of Moonshine tiny in synthetic/encoder: frozen, trained on human speech.
MOONSHINE_TINY: dict[str, Any] = {"model_type": "moonshine", "pad_head_dim_to_multiple_of": 8}

SUBJECTS = (
    "ada", "ben", "chidi", "mei", "omar", "zola", "kenji", "greta", "lina", "theo", "nora", "ravi",
)  # fmt: skip
SENTENCES = tuple(range(1, 41))

SYNTHETIC = DatasetSpec(
    name="synthetic",
    root="synthetic/data",
    fps=30,
    source_fps=60,
    n_vertices=6_045,
    metres_per_unit=1.0,
    templates="synthetic/head.npz",
    topology="synthetic/head.npz",
    lips_region="synthetic/lips.txt",
    upper_region="synthetic/upper.txt",
    inner_lips="synthetic/inner_lips.txt",
    phones="synthetic/data/corpus_speech/index.jsonl",
    splits={  # FaceFormer's split of VOCASET: 8 / 2 / 2 subjects; held-out sentences for the rest
        "train": Split(tuple(SUBJECTS[:8]), SENTENCES),
        "val": Split(tuple(SUBJECTS[8:10]), SENTENCES[20:]),
        "test": Split(tuple(SUBJECTS[10:]), SENTENCES[20:]),
    },
    speech_pool="synthetic/data/speech",
    source="python -m synthetic.make_corpus, then python vocaset/process_voca_data.py "
    "--raw synthetic/data/raw --out synthetic/data (synthetic/README.md)",
)

# FaceFormer's splits of VOCASET and BIWI, which all its followers use.
VOCASET_SUBJECTS = tuple(
    f"FaceTalk_{name}_TA"
    for name in (
        "170728_03272", "170904_00128", "170725_00137", "170915_00223",
        "170811_03274", "170913_03279", "170904_03276", "170912_03278",
        "170811_03275", "170908_03277", "170809_00138", "170731_00024",
    )
)  # fmt: skip

VOCASET = DatasetSpec(
    name="vocaset",
    root="vocaset/data",
    fps=30,
    source_fps=60,
    n_vertices=5_023,
    metres_per_unit=1.0,
    templates="vocaset/data/templates.pkl",
    topology="vocaset/data/FLAME_sample.ply",
    lips_region="vocaset/data/FLAME_masks.pkl:lips",
    upper_region="vocaset/data/fdd.txt",
    splits={
        "train": Split(VOCASET_SUBJECTS[:8], SENTENCES),
        "val": Split(VOCASET_SUBJECTS[8:10], SENTENCES[20:]),
        "test": Split(VOCASET_SUBJECTS[10:], SENTENCES[20:]),
    },
    other_roots=("vocaset",),
    boxes={  # lips: 287 vertices with 242 of FLAME's 250; upper: 1,631 with 1,275 of 1,501
        "lips": Box((-0.030, -0.062, 0.040), (0.030, -0.030, 1.0)),
        "upper": Box((-0.055, -0.025, 0.030), (0.055, 0.070, 1.0)),
    },
    source='sign in at https://voca.is.tue.mpg.de, take "Training Data (8 GB)", then '
    "python vocaset/process_voca_data.py (vocaset/README.md)",
)

BIWI_SEEN = ("F2", "F3", "F4", "M3", "M4", "M5")
BIWI_UNSEEN = ("F1", "F5", "F6", "F7", "F8", "M1", "M2", "M6")

BIWI = DatasetSpec(
    name="BIWI",
    root="BIWI/data",
    fps=25,
    source_fps=25,
    n_vertices=23_370,
    metres_per_unit=0.1856,  # root of each face's area; mean of the 14 in FaceFormer's issue 45
    templates="BIWI/data/templates.pkl",
    topology="BIWI/data/BIWI.ply",
    lips_region="BIWI/data/lve.txt",
    upper_region="BIWI/data/fdd.txt",
    splits={
        "train": Split(BIWI_SEEN, SENTENCES[:32], "e"),
        "val": Split(BIWI_SEEN, SENTENCES[32:36], "e"),
        "test_a": Split(BIWI_SEEN, SENTENCES[36:], "e"),
        "test_b": Split(BIWI_UNSEEN, SENTENCES[36:], "e"),
    },
    other_roots=("BIWI",),
    boxes={  # lips: 5,913 vertices with 4,698 of lve.txt's 4,996; upper: 8,070 with 7,461 of 7,784
        "lips": Box((-0.20, -1.0, -1.0), (0.20, -0.08, 1.0)),
        "upper": Box((-0.32, 0.02, -0.05), (0.32, 1.0, 1.0)),
    },
    source="the B3D(AC)^2 corpus, then python BIWI/process_biwi_data.py (BIWI/README.md)",
)

BIWI_6 = dataclasses.replace(
    BIWI,
    name="BIWI_6",
    root="BIWI/data6",
    n_vertices=3_895,
    metres_per_unit=1.0,
    other_roots=("BIWI_6",),
    boxes={  # lips: the release's 758 vertices exactly; upper: 411 with 380 of ScanTalk's 402
        "lips": Box((-0.035, -0.080, -1.0), (0.035, -0.035, 1.0), "F1"),
        "upper": Box((-0.045, 0.027, 0.010), (0.045, 0.069, 1.0), "F1"),
    },
    templates="BIWI/data6/templates.pkl",
    topology="BIWI/data6/F1.obj",
    lips_region="BIWI/data6/BIWI_lip.pkl",
    upper_region="BIWI/data6/upper_indices.npy",
)

PAPER_ENCODER = "jonatasgrosman/wav2vec2-large-xlsr-53-english"
# Losses in squared metres start near 1e-3; a balance loss of weight 1e-2 would be far larger.
PAPER_TRAIN = TrainConfig(w_balance=1e-5)

RECIPES: dict[str, Recipe] = {
    "synthetic": Recipe(
        dataset=SYNTHETIC,
        model=ModelConfig(
            encoder=MOONSHINE_TINY, n_vertices=6_045, fps=30, fold=2, layout="MEAEME",
            d_model=192, n_heads=8, n_kv_heads=2, d_ff=576, dropout=0.1, vertex_rank=24,
            mix_layers=True,
        ),
        train=TrainConfig(
            epochs=8, steps_per_epoch=400, batch_size=8, learning_rate=1e-3,
            encoder_learning_rate=1e-3, max_clip_s=6.0, takes=1000, ema_decay=0.998,
            # squared metres are small: with the paper's 1000 the other losses would be far larger
            w_vertex=1e5, w_velocity=1e5, w_lips=1e5, w_details=3e4,
            closure_gain=3.0,
        ),
        wav2vec2="synthetic/encoder",
    ),
    "vocaset": Recipe(
        dataset=VOCASET,
        model=ModelConfig(encoder=XLSR_LARGE, n_vertices=5_023, fps=30, fold=1),
        train=PAPER_TRAIN,
        wav2vec2=PAPER_ENCODER,
    ),
    "BIWI": Recipe(
        dataset=BIWI,
        model=ModelConfig(
            encoder=XLSR_LARGE, n_vertices=23_370, fps=25, fold=2, layout="MEMEAEMEME",
            d_model=1024, n_heads=4, n_kv_heads=2,
        ),
        train=dataclasses.replace(PAPER_TRAIN, learning_rate=1e-5, loss_unit=0.1856),  # data's own
        wav2vec2=PAPER_ENCODER,
    ),
    "BIWI_6": Recipe(
        dataset=BIWI_6,
        model=ModelConfig(
            encoder=XLSR_LARGE, n_vertices=3_895, fps=25, fold=2, layout="MEMEAEMEME",
            d_model=1024, n_heads=4, n_kv_heads=2,
        ),
        train=dataclasses.replace(PAPER_TRAIN, learning_rate=1e-5),
        wav2vec2=PAPER_ENCODER,
    ),
}  # fmt: skip
