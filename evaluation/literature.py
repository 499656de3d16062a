"""Published scores of other methods, as printed, to stand above a run's own; with their sources.

Only figures that a public source shows are here; what was looked for and not found says so. They
are NOT comparable across papers: three papers give SelfTalk three values on the same test set,
because regions, frame rates, speaker labels and even the unit differ. To compare methods, predict
with each and score them all with metrics.py.
"""

from dataclasses import dataclass

NOT_FOUND = "not found"
METHODS = (
    "VOCA", "FaceFormer", "CodeTalker", "SelfTalk", "FaceXHuBERT", "FaceDiffuser", "ScanTalk",
    "UniTalker",
)  # fmt: skip
WARNING = (
    "The published rows are not comparable with this run, nor with each other: papers differ in "
    "lip region, frame rate, speaker labels and unit, and give one method several values. To "
    "compare methods, score the predictions of each with `python metrics.py`."
)


@dataclass(frozen=True)
class Published:
    """One printed value. unit: as printed, power of ten included; note: whose measurement."""

    method: str
    metric: str
    value: str
    unit: str
    source: str
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """The published rows of one test split, and how its metrics are printed in the field.

    n_vertices tells the benchmark from another data set of its name. scales: metric -> the power
    of ten that the printed values leave out, None where no source shows it. trap: what the
    printed "mm" really is.
    """

    n_vertices: int
    scales: dict[str, float | None]
    unit: str
    rows: tuple[Published, ...]
    trap: str


_VOCA = "wizwand.com/paper/68fa65c11e209131cea0c378"
_FACEFORMER = "wizwand.com/paper/68fa6c141e209131cea31ff8"
_CODETALKER = "wizwand.com/paper/68fa6ef21e209131cea4314d"
_FACEDIFFUSER = "wizwand.com/paper/68fa70991e209131cea4c1dd"
_PWC_FACEFORMER = "paperswithcode.com/paper/faceformer-speech-driven-3d-facial-animation"
_PWC_CODETALKER = "paperswithcode.com/paper/codetalker-speech-driven-3d-facial-animation"
_SELFTALK = "arXiv 2306.10799"
_UNITALKER_19 = "github.com/X-niper/UniTalker/issues/19"
_UNITALKER_28 = "github.com/X-niper/UniTalker/issues/28"
_LISTING = "benchmark listing"
_LISTED = "its own paper, as listed"

# SelfTalk's and UniTalker's tables print 1e-5 mm; UniTalker's code returns 8.14e-06 for its 0.814
# (issue 19), so what is printed is the bare output of CodeTalker's formula.
_E5, _E4 = "×1e-5 mm", "×1e-4 mm"
_VOCASET_ROWS = (
    Published("VOCA", "lve", "4.9245", _E5, _VOCA, _LISTING),
    Published("FaceFormer", "lve", "4.1090", _E5, _FACEFORMER, _LISTING),
    # CodeTalker's own paper gives none: its authors hold unseen speakers unfit for such numbers
    # (github.com/Doubiiu/CodeTalker/issues/35).
    Published("CodeTalker", "lve", "3.9445", _E5, _CODETALKER, _LISTING),
    Published("SelfTalk", "lve", "3.2238", _E5, f"{_SELFTALK}, Table 1", "its own paper"),
    Published("SelfTalk", "lve", "0.9626", _E5, _UNITALKER_28, "as UniTalker's paper measured it"),
    Published("SelfTalk", "fdd", "4.0912", "power of ten not found", _UNITALKER_28,
              "its own paper, Table 1"),
    Published("SelfTalk", "fdd", "1.0511", "power of ten not found", _UNITALKER_28,
              "as UniTalker's paper measured it"),
    Published("FaceDiffuser", "lve", "3.2432", _E5, _FACEDIFFUSER, _LISTING),
    Published("UniTalker", "lve", "0.814", _E5, _UNITALKER_19, "its own paper, UniTalker-B"),
)  # fmt: skip
_BIWI_ROWS = (
    Published("VOCA", "lve", "6.5563", _E4, _VOCA, _LISTING),
    Published("FaceFormer", "lve", "5.3077", _E4, _PWC_FACEFORMER, _LISTING),
    Published("FaceFormer", "lve", "5.3742", _E4, "github.com/EvelynFan/FaceFormer/issues/45",
              "its own paper"),
    Published("FaceFormer", "fdd", "4.6408", _E5, _PWC_FACEFORMER, _LISTING),
    Published("CodeTalker", "lve", "4.7914", _E4, _PWC_CODETALKER, _LISTED),
    Published("CodeTalker", "fdd", "4.1170", _E5, _PWC_CODETALKER, _LISTED),
    Published("SelfTalk", "lve", "4.2485", _E4, _SELFTALK, "its own paper"),
    Published("SelfTalk", "fdd", "3.5761", _E5, _SELFTALK, "its own paper"),
    Published("FaceDiffuser", "lve", "4.7823", _E4, _FACEDIFFUSER, _LISTING),
    Published("FaceDiffuser", "mve", "6.8088", "power of ten not found", _FACEDIFFUSER, _LISTING),
)  # fmt: skip

BENCHMARKS: dict[tuple[str, str], Benchmark] = {
    ("vocaset", "test"): Benchmark(
        n_vertices=5_023,
        scales={"lve": 1e-5, "fdd": None, "mve": None},
        unit="m²",
        rows=_VOCASET_ROWS,
        # 4.1e-5 m² = 41 mm², root 6.4 mm; 4.1e-5 mm would be 41 nanometres.
        trap="Printed as \"mm\", LVE and FDD are squared distances in the data's own unit, metres: "
        "4.1e-5 is 41 mm², a lip vertex 6.4 mm off (4.1e-5 mm would be 41 nanometres).",
    ),
    ("BIWI", "test_a"): Benchmark(
        n_vertices=23_370,
        scales={"lve": 1e-4, "fdd": 1e-5, "mve": None},
        unit="unit²",
        rows=_BIWI_ROWS,
        # sqrt(4.8e-4) = 0.0219 units; the 14 subjects were found at 174 to 201 mm a unit
        # (FaceFormer's issue 45). A retrained CodeTalker scored by CodeTalker's own script gives
        # 5.2776e-04 and 4.4944e-05 (github.com/Doubiiu/CodeTalker/issues/25).
        trap="Printed as \"mm\", LVE and FDD are squared distances in the data's own unit, about "
        "0.19 m: 4.8e-4 is the square of 0.022 units, a lip vertex 4 mm off (4.8e-4 mm would be "
        "half a micrometre).",
    ),
    ("BIWI_6", "test_a"): Benchmark(
        n_vertices=3_895,
        scales={"lve": None, "fdd": None, "mve": None},
        unit="unit²",
        rows=(),
        trap="LVE and FDD are squared distances in the data's own unit.",
    ),
}  # fmt: skip


def benchmark(name: str, split: str, n_vertices: int) -> Benchmark | None:
    """The published rows that a split's scores may stand under; None for any other data."""
    found = BENCHMARKS.get((name, split))
    return found if found is not None and found.n_vertices == n_vertices else None


def rows_of(found: Benchmark) -> list[Published]:
    """The rows of every method in the order of `METHODS`; one that has none says "not found"."""
    rows = []
    for method in METHODS:
        known = [row for row in found.rows if row.method == method]
        rows += known or [Published(method, "lve", NOT_FOUND, "", "")]
    return rows


def comparison(found: Benchmark, runs: dict[str, dict[str, float]], regions: str) -> str:
    """A Markdown table of the published rows with the `runs` under them, and the warnings.

    runs: label -> {"lve", "fdd", "mve"} in the data's own unit (LVE and FDD squared); regions: the
    vertices that they were measured on, in words.
    """
    metrics = [m for m in found.scales if m == "lve" or any(r.metric == m for r in found.rows)]
    lines = [WARNING, "", found.trap, ""]
    lines += [_line("", *(_heading(found, m) for m in metrics), "whose figure", "source")]
    lines += ["|---" * (len(metrics) + 3) + "|"]
    merged: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows_of(found):
        merged.setdefault((row.method, row.note, row.source), {})[row.metric] = row.value
    for (method, note, source), values in merged.items():
        lines.append(
            _line(method, *(values.get(m, "-") for m in metrics), note or "-", source or "-")
        )
    for label, values in runs.items():
        printed = [_printed(values[m], found.scales[m]) for m in metrics]
        lines.append(_line(label, *printed, f"this run on {regions}", "results.json"))
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _heading(found: Benchmark, metric: str) -> str:
    scale = found.scales[metric]
    unit = found.unit if metric != "mve" else found.unit.removesuffix("²")
    if scale is None:
        return f"{metric.upper()} ({unit}; power of ten of the printed values not found)"
    return f'{metric.upper()} (×{scale:.0e} {unit}, printed as "mm")'.replace("e-0", "e-")


def _printed(value: float, scale: float | None) -> str:
    return f"{value:.4e}" if scale is None else f"{value / scale:.4f}"
