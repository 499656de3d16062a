"""How a face looks: colours, gloss, outline and framing of the bundled subjects."""

import numpy as np
from numpy.typing import NDArray

from config import DatasetSpec
from synthetic.head import HEAD_FILE, Head, load_head

GLOSS = {"eye": 1.0, "teeth": 0.35, "tongue": 0.35}  # of parts whose name contains the key
FLAT_PARTS = ("brow", "lashes")  # parts that lie on the skin, and follow its triangles
NECK = 0.016  # metres below the chin down to which a picture shows the whole head


def appearance(spec: DatasetSpec, subject: str) -> dict[str, NDArray]:
    """Keyword arguments of `Renderer`.

    colors: (V, 3) sRGB 0 to 1; gloss: (V,) 0 to 1; rounded, framed: (V,) bool. Only the synthetic
    head has them; {} for every other topology. A subject without colours of its own gets those of
    the first.
    """
    if spec.path(spec.topology) != HEAD_FILE:
        return {}
    head = load_head()
    gloss = np.zeros(len(head.colors))
    for part, indices in head.parts.items():
        gloss[indices] = max((value for key, value in GLOSS.items() if key in part), default=0.0)
    template = head.templates.get(subject, next(iter(head.templates.values())))
    return {
        "colors": head.subject_colors.get(subject, head.colors),
        "gloss": gloss,
        "rounded": _rounded(head),
        "framed": template[:, 1] > template[head.landmarks["chin"], 1] - NECK,
    }


def _rounded(head: Head) -> NDArray[np.bool_]:
    """(V,) the outer skin, teeth, tongue and eyes. The lips keep their exact contact."""
    outer = np.zeros(len(head.colors), bool)
    outer[head.landmarks["chin"]] = True
    reached = 0
    while reached < outer.sum():  # the lips are the border to the inside of the mouth
        reached = outer.sum()
        outer[head.faces[outer[head.faces].any(axis=1)]] = True
        outer[head.lips] = False
    for part, indices in head.parts.items():
        if part != "skin":
            outer[indices] = not any(key in part for key in FLAT_PARTS)
    return outer
