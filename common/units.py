"""Names of the units of vertices, for logs, tables and JSON."""

NAMES = {1.0: "m", 0.01: "cm", 0.001: "mm"}  # metres per unit -> its name
UNNAMED = "unit"  # of the data; BIWI's is about 0.19 m
FACE_M = (0.12, 0.6)  # metres across a face or a head, at least and at most


def unit_name(metres_per_unit: float) -> str:
    """ "m", "cm" or "mm"; "unit" for another length."""
    return NAMES.get(round(metres_per_unit, 9), UNNAMED)


def guess_unit(extent: float) -> str:
    """The unit of a face that is `extent` across, along its longest axis; "unit" if none fits."""
    low, high = FACE_M
    fitting = [name for metres, name in NAMES.items() if low <= extent * metres <= high]
    return fitting[0] if fitting else UNNAMED


def metric_units(unit: str) -> dict[str, str]:
    """Metric -> its unit, where vertices are in `unit`."""
    return {
        "lve": f"{unit}²", "fdd": f"{unit}²", "abs_fdd": f"{unit}²", "mve": unit,
        "jitter": f"{unit}/s²", "opening_r": "1", "sync_ms": "ms", "mtm_ms": "ms", "cer": "ratio",
    }  # fmt: skip
