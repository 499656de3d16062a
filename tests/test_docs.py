"""What the pages say is true: messages, commands, links, the length of the README."""

import ast
import contextlib
import io
import re
import runpy
import shlex
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TROUBLESHOOTING = ROOT / "docs/troubleshooting.md"
TABLES = [TROUBLESHOOTING, ROOT / "vocaset/README.md", ROOT / "BIWI/README.md"]  # of messages
FOLDERS = ("docs", "vocaset", "BIWI", "synthetic", "demo/wav")
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]
PAGES += [page for folder in FOLDERS for page in sorted((ROOT / folder).glob("*.md"))]
# In a message of a table: what stands for a name or number that varies.
PLACEHOLDER = re.compile(r"\.\.\.|\b(?:N|M|X|CLIPS?|DIR|NAME|FILE|RUN|HOST)\b|\b\d+\b")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def source_texts() -> str:
    """Every string of the code, one a line; what an f-string formats is a NUL character."""
    texts = []
    for path in ROOT.rglob("*.py"):
        first = path.relative_to(ROOT).parts[0]
        if first == "tests" or first.startswith("."):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                texts.append("".join(parts))
    return "\n".join(texts)


def messages(page: Path) -> list[str]:
    """The code spans in the first column of a page's tables, after its heading "Errors" if any."""
    text = page.read_text(encoding="utf-8").rpartition("## Errors\n")[2]
    rows = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    return [span for row in rows for span in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("page", TABLES, ids=name_of)
def test_every_message_of_a_table_is_in_the_code(page: Path) -> None:
    missing = []
    for message in messages(page):
        pieces = PLACEHOLDER.split(message.removeprefix("warning: "))
        pieces = [piece.strip(" :;,") for piece in pieces]
        pieces = [piece for piece in pieces if re.search("[A-Za-z]{2}", piece)]
        assert pieces, f"{message!r}: no words to look for"
        missing += [f"{message!r}: {p!r}" for p in pieces if p not in source_texts()]
    assert not missing


def sort_key(message: str) -> str:
    """The words of a message, lower case, without placeholders and a leading "warning"."""
    words = re.findall(r"[a-z]+", PLACEHOLDER.sub(" ", message).lower())
    return " ".join(words[1:] if words[0] == "warning" else words)


def test_the_messages_are_sorted() -> None:
    rows = re.findall(r"^\| `([^`]+)`", TROUBLESHOOTING.read_text(encoding="utf-8"), re.MULTILINE)
    keys = [sort_key(message) for message in rows]
    assert keys == sorted(keys)


def commands(page: Path) -> list[list[str]]:
    """The `python ...` and `torchrun ...` commands of a page, in words; "python" or so is cut."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    found = [re.match(r"(?:python|torchrun --n\S+) (.*)", line) for line in lines]
    return [shlex.split(match[1], comments=True) for match in found if match]


@cache
def help_of(script: str, *arguments: str) -> str:
    """What a script, or a module for names without .py, prints for `--help`."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr("sys.argv", [script, *arguments, "--help"])
        with contextlib.suppress(SystemExit):
            if script.endswith(".py"):
                runpy.run_path(str(ROOT / script), run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
    return output.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_name_scripts_that_exist_and_flags_that_they_know(page: Path) -> None:
    unknown = []
    for words in commands(page):
        if words[0] == "-m":
            words = words[1:]
        script, arguments = words[0], words[1:]
        if script in ("venv", "pip", "pytest"):
            continue
        module = script if script.endswith(".py") else f"{script.replace('.', '/')}.py"
        package = ROOT / script / "__main__.py"
        assert (ROOT / module).is_file() or package.is_file(), " ".join(words)
        flags = [word for word in arguments if word.startswith("--") and word != "--help"]
        subcommand = arguments[:1] if script == "release.py" else ()
        text = help_of(script, *subcommand) if flags else ""
        unknown += [f"{script} {f}" for f in flags if not re.search(rf"{f}(?![\w-])", text)]
    assert not unknown


def headings(page: Path) -> set[str]:
    """The anchors that a page's headings have on a code hosting site."""
    text = page.read_text(encoding="utf-8")
    titles = [title.lower() for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= 1100
