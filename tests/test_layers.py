"""Who imports whom: a module imports only from layers to its left, anywhere in its code."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (
    ("compiling", "errors"),
    ("config", "dataset_json", "scan_chunked", "scan_kernels"),
    (
        "adam_kernels",
        "array_files",
        "attention",
        "augment",
        "batches",
        "faults",
        "linear",
        "losses",
        "overrides",
        "patching",
        "published",
        "raster",
        "scan_compiled",
        "speech_features",
        "stopping",
    ),
    (
        "audio_files",
        "cache",
        "compact_adam",
        "distributed",
        "mesh_files",
        "occlusion",
        "planned_loader",
        "scan",
        "wav2vec",
    ),
    (
        "decoded_audio",
        "mamba",
        "prediction_folders",
        "prepared_data",
        "run_state",
        "shading",
        "transformer",
    ),
    ("data_loader", "pretrained", "regions"),
    ("lip_reader", "metrics", "moe", "release_network", "render_gl"),
    ("jambatalk", "release", "render", "results"),
    ("dataset_folder", "networks", "records", "scoring", "speaker", "validation"),
    ("hearing", "plots", "preview", "resuming"),
    ("learning",),
    ("optimization",),
    ("training",),
    ("demo", "main"),
)
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}


def imports(path: Path) -> set[str]:
    """Top-level names of everything that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_every_root_module_has_a_layer() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == set(LEVEL)


def test_modules_import_only_from_layers_to_their_left() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, level in LEVEL.items()
        for other in imports(ROOT / f"{module}.py") & set(LEVEL)
        if LEVEL[other] >= level
    ]
    assert not wrong


def test_layers_of_the_network_take_no_config() -> None:
    for module in ("scan", "mamba", "transformer", "moe"):
        assert "config" not in imports(ROOT / f"{module}.py")


def test_the_network_does_not_know_the_lip_reader() -> None:
    assert not imports(ROOT / "jambatalk.py") & {"lip_reader", "losses", "training"}
    assert "main" not in imports(ROOT / "demo.py")
