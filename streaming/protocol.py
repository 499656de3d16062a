"""What a live session says over its WebSocket: docs/streaming.md, "Protocol".

Sound comes in as binary messages of raw samples, little-endian; frames go out as binary messages:
a header of 24 bytes (`HEADER`), then float32 values, all little-endian. All else is JSON text.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streaming.engine import CONTEXT_S, LOOK_AHEAD_S, OUTPUTS, Frame
from streaming.resampler import MAX_RATE, MIN_RATE

HEADER = struct.Struct("<4sBBHIId")  # magic, version, output, frames, values a frame, index, time_s
MAGIC, VERSION = b"JTLK", 1
FORMATS = {"s16": np.dtype("<i2"), "f32": np.dtype("<f4")}
COMMANDS = ("end", "reset", "ping")


class BadMessage(ValueError):
    """A message that ends its session; the text is for its sender."""


@dataclass(frozen=True)
class Settings:
    """What a session asks for in the query of its address."""

    rate: int = 16_000  # Hz of the samples
    format: str = "s16"  # of FORMATS
    output: str = "coefficients"  # of OUTPUTS
    subject: str | None = None
    look_ahead_s: float = LOOK_AHEAD_S
    context_s: float = CONTEXT_S


def settings_of(query: Mapping[str, str]) -> Settings:
    """The settings in a query; `BadMessage` for a value that cannot be used, or an unknown name."""
    values: dict[str, Any] = {key: value for key, value in query.items() if key != "token"}
    unknown = sorted(values.keys() - Settings.__dataclass_fields__.keys())
    if unknown:
        known = ", ".join(Settings.__dataclass_fields__)
        raise BadMessage(f"{unknown[0]}: unknown; expected one of {known}")
    for name, kind in (("rate", int), ("look_ahead_s", float), ("context_s", float)):
        if name in values:
            try:
                values[name] = kind(values[name])
            except ValueError as error:
                raise BadMessage(f"{name} {values[name]!r}: expected a number") from error
    settings = Settings(**values)
    if not MIN_RATE <= settings.rate <= MAX_RATE:
        raise BadMessage(f"rate {settings.rate}: expected {MIN_RATE} to {MAX_RATE} Hz")
    for name, known in (("format", tuple(FORMATS)), ("output", OUTPUTS)):
        if getattr(settings, name) not in known:
            expected = ", ".join(known)
            raise BadMessage(f"{name} {getattr(settings, name)!r}: expected one of {expected}")
    return settings


def samples_of(message: bytes, settings: Settings) -> NDArray:
    """Samples (n,) of a binary message; `BadMessage` for a part of a sample."""
    dtype = FORMATS[settings.format]
    if len(message) % dtype.itemsize:
        raise BadMessage(
            f"{len(message)} bytes are not whole samples of {dtype.itemsize} bytes "
            f"({settings.format})"
        )
    return np.frombuffer(message, dtype)


def command_of(message: str) -> str:
    """The command in a text message: {"type": "end"}; `BadMessage` for another text."""
    try:
        content = json.loads(message)
    except ValueError as error:
        raise BadMessage("text that is not JSON; sound comes in binary messages") from error
    command = content.get("type") if isinstance(content, dict) else None
    if command not in COMMANDS:
        raise BadMessage(f"type {command!r}: expected one of {', '.join(COMMANDS)}")
    return command


def frames_message(frames: list[Frame], output: str) -> bytes:
    """The binary message of frames that follow each other; at least one."""
    values = np.stack([frame.values for frame in frames]).reshape(len(frames), -1)
    header = HEADER.pack(
        MAGIC, VERSION, OUTPUTS.index(output), len(frames), values.shape[1], frames[0].index,
        frames[0].time_s,
    )  # fmt: skip
    return header + values.astype("<f4").tobytes()
