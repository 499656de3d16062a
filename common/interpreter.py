"""One line instead of a traceback where the interpreter lacks what the project needs.

Every script imports this module before anything else: importing it installs an excepthook. An
import of a package from requirements.txt that fails then ends the script with one line and exit
code 2. So does any error on a Python that is too old. All other errors keep their traceback.

This file has to run on old interpreters and without packages, so it uses neither new syntax nor
other modules of the project.
"""

import os
import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
VENV = PROJECT / ".venv"
REQUIREMENTS = (PROJECT / "requirements.txt", PROJECT / "synthetic/requirements.txt")
OLDEST_PYTHON = (3, 10)


def advice(error):
    """The line to print for an uncaught `error`; "" where its traceback is needed."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    if not script or PROJECT not in Path(script).resolve().parents:
        return ""  # another program imports the project
    if sys.version_info < OLDEST_PYTHON:
        version, oldest = (".".join(map(str, v)) for v in (sys.version_info[:2], OLDEST_PYTHON))
        return f"Python {version}, expected {oldest} or newer; {_set_up()}"
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package in sys.modules:
        return ""
    for file in REQUIREMENTS:
        if file.is_file() and package in _packages_of(file):
            return f"package {package}: not installed for {sys.executable}; {_remedy(file)}"
    return ""  # a module of the project is missing


def _packages_of(requirements):
    """Names in a requirements file, spelled as they are imported."""
    names = re.findall(r"^[A-Za-z][\w.-]*", requirements.read_text(encoding="utf-8"), re.MULTILINE)
    return [name.replace("-", "_") for name in names]


def _remedy(requirements):
    if VENV.is_dir() and VENV.resolve() != Path(sys.prefix).resolve():
        return f"activate the project's environment: {_activate()}"
    if VENV.is_dir() or requirements != REQUIREMENTS[0]:
        return f"install it: pip install -r {_short(requirements)}"
    return _set_up()


def _set_up():
    return (
        f"set up the project's environment: make demo, or python -m venv {_short(VENV)}, "
        f"{_activate()}, pip install -r {_short(REQUIREMENTS[0])}"
    )


def _activate():
    if os.name == "nt":
        return _short(VENV / "Scripts/activate")
    return f"source {_short(VENV / 'bin/activate')}"


def _short(path):
    """`path` relative to the current folder where it lies below that, else absolute."""
    folder = Path.cwd()
    return str(path.relative_to(folder) if folder in path.parents else path)


def _hook(kind, error, traceback):
    line = advice(error)
    if not line:
        _previous_hook(kind, error, traceback)
        return
    print(f"error: {line}", file=sys.stderr)
    raise SystemExit(2)  # the exit code: Python honours SystemExit from an excepthook


_previous_hook, sys.excepthook = sys.excepthook, _hook
