"""Who imports whom: a wing imports only from wings to its left, anywhere in its code."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WINGS = (  # left to right; a module of the root is a wing of its own
    ("config",),
    ("common",),
    ("files", "layers"),
    ("speech", "synthetic.head", "baselines"),
    ("dataset", "wav2vec"),
    ("data_loader", "lip_reader"),
    ("rendering", "released"),
    ("jambatalk", "metrics"),
    ("evaluation", "synthetic"),
    ("training", "export"),
    ("production", "streaming"),
)
LEVEL = {wing: level for level, wings in enumerate(WINGS) for wing in wings}


def modules() -> dict[str, ast.Module]:
    """Dotted name -> syntax tree of every module of the root and the wings."""
    paths = list(ROOT.glob("*.py"))
    for wing in LEVEL:
        paths += (ROOT / wing).glob("*.py")
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name: ast.parse(path.read_text()) for name, path in names.items()}


def main_guard(tree: ast.Module) -> ast.If | None:
    """The `if __name__ == "__main__"` of a file that is also a command."""
    guards = (n for n in tree.body if isinstance(n, ast.If) and "__main__" in ast.dump(n.test))
    return next(guards, None)


def imports(tree: ast.Module) -> set[str]:
    """Dotted names of all that a file imports, but for what only its command line needs."""
    guard = main_guard(tree)
    nodes = [n for part in tree.body if part is not guard for n in ast.walk(part)]
    names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return names


def wing_of(name: str) -> str | None:
    """The wing that a dotted name belongs to; None for scripts and packages from outside."""
    parts = name.split(".")
    return next((w for w in (".".join(parts[:2]), parts[0]) if w in LEVEL), None)


def arrows() -> set[tuple[str, str, str]]:
    """(importing module, its wing, wing imported from), commands left out."""
    trees = modules()
    commands = {name for name, tree in trees.items() if "." in name and main_guard(tree)}
    return {
        (name, wing_of(name), wing_of(other))
        for name, tree in trees.items()
        if wing_of(name) and name not in commands
        for other in imports(tree)
        if wing_of(other) and wing_of(other) != wing_of(name)
    }  # fmt: skip


def test_wings_import_only_from_wings_to_their_left() -> None:
    wrong = [f"{name} imports {to}" for name, wing, to in arrows() if LEVEL[to] >= LEVEL[wing]]
    assert not sorted(wrong)


def test_every_file_has_a_wing_or_is_a_command() -> None:
    for name, tree in modules().items():
        assert wing_of(name) or main_guard(tree), name
    assert len(list(ROOT.glob("*.py"))) <= 10


def test_layers_import_no_config_and_the_network_no_lip_reader() -> None:
    imported = arrows()
    assert not [name for name, wing, to in imported if wing == "layers" and to == "config"]
    assert not [name for name, wing, to in imported if wing == "jambatalk" and to == "lip_reader"]
    demo = imports(modules()["demo"])
    assert not [name for name in demo if re.match(r"main|training", name)]


def wings_diagram() -> str:
    """A mermaid flow chart of WINGS: one box a level; arrows lead to the levels that import it."""
    boxes = [f'  {i}["{"<br>".join(wings)}"]' for i, wings in enumerate(WINGS)]
    order = "  " + " --> ".join(str(i) for i in range(len(WINGS)))
    return "\n".join(["```mermaid", "flowchart LR", *boxes, order, "```"])


def test_the_diagram_of_wings_is_the_order_that_the_import_test_enforces() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert wings_diagram() in page, wings_diagram()
