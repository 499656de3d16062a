"""How a face looks: colours and gloss of the subjects whose appearance is known."""

import numpy as np
from numpy.typing import NDArray

from config import DatasetSpec
from synthetic.head import HEAD_FILE, load_head

GLOSS = {"eye": 1.0, "teeth": 0.35, "tongue": 0.35}  # of parts whose name contains the key


def appearance(spec: DatasetSpec, subject: str) -> dict[str, NDArray]:
    """Keyword arguments of `Renderer`: colours (V, 3) sRGB 0 to 1 and gloss (V,) 0 to 1.

    Only the synthetic head has them; {} for every other topology. A subject without colours of its
    own gets those of the first.
    """
    if spec.path(spec.topology) != HEAD_FILE:
        return {}
    head = load_head()
    gloss = np.zeros(len(head.colors))
    for part, indices in head.parts.items():
        gloss[indices] = max((value for key, value in GLOSS.items() if key in part), default=0.0)
    return {"colors": head.subject_colors.get(subject, head.colors), "gloss": gloss}
