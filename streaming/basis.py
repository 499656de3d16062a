"""The face of a live page in one message: neutral mesh, colours and the components of the head.

A little-endian uint32 with the length of a JSON header, the header, then the arrays that it names,
each at a multiple of 4 bytes. The vertices of a frame are template + mean + coefficients times
components, in metres; components are int16 with a scale each. Openness and gloss are those of
`rendering.shading`.
"""

import json
import struct

import numpy as np
from numpy.typing import NDArray

from dataset.faces import faces_of
from dataset.regions import find_inner_lips
from jambatalk import Checkpoint
from rendering.face import appearance
from rendering.occlusion import measure_openness

LARGEST = 32_767  # of int16
GREY = 0.7  # colour of a face without colours


def face_message(checkpoint: Checkpoint, subject: str, template: NDArray[np.float32]) -> bytes:
    """The message for a subject; template: (V, 3) in the data set's unit.

    The model's vertex head must have components (rank > 0).
    """
    model, spec = checkpoint.model, checkpoint.spec
    metres = spec.metres_per_unit
    last = model.head.offsets
    units = model.config.units_per_metre * metres
    components = units * last.weight.detach().float().numpy().T  # (rank, 3V)
    scale = np.maximum(np.abs(components).max(axis=1), 1e-12) / LARGEST
    look, faces = appearance(spec, subject), faces_of(spec, None)
    colors = look.get("colors", np.full_like(template, GREY))
    gloss = look.get("gloss", np.zeros(len(template)))
    openness = measure_openness(template.astype(np.float64), faces)
    framed = metres * template[look.get("framed", np.ones(len(template), bool))]
    arrays = {
        "template": (metres * template).astype("<f4"),
        "mean": (units * last.bias.detach().numpy()).astype("<f4"),
        "components": np.rint(components / scale[:, None]).astype("<i2"),
        "scale": scale.astype("<f4"),
        "faces": faces.astype("<u4"),
        "colors": np.rint(255 * np.clip(colors, 0, 1)).astype("u1"),
        "openness": np.rint(255 * np.clip(openness, 0, 1)).astype("u1"),
        "gloss": np.rint(255 * np.clip(gloss, 0, 1)).astype("u1"),
    }
    sides = find_inner_lips(spec)
    header = {
        "subject": subject, "fps": spec.fps, "n_vertices": len(template),
        "inner_lips": [side[0] for side in sides] if sides else None,
        "low": framed.min(axis=0).tolist(), "high": framed.max(axis=0).tolist(),
    }  # fmt: skip
    return packed(header, arrays)


def packed(header: dict, arrays: dict[str, NDArray]) -> bytes:
    """The bytes of a header and of arrays; their place, type and shape stand in the header."""
    places, body, offset = [], [], 0
    for name, array in arrays.items():
        data = array.tobytes()
        data += b"\0" * (-len(data) % 4)
        places.append({"name": name, "type": array.dtype.name, "shape": array.shape,
                       "offset": offset})  # fmt: skip
        body.append(data)
        offset += len(data)
    text = json.dumps(header | {"arrays": places}).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<I", len(text)) + text + b"".join(body)
