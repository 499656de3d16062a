"""Curves to engines over UDP: OSC with VMC's addresses, and the format of Live Link Face.

Both send a packet for each frame to an engine that listens: VSeeFace, Warudo, VMC and others for
OSC, Unreal's Live Link and all that reads it for the other. A lost packet is a lost frame.
"""

import socket
import struct
import uuid
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from export.live_link import ARKIT_UNITS, COLUMNS
from streaming.engine import Frame

LIVE_LINK_VERSION = 6
SUBJECT_NAME = "JambaTalk"


def address_of(text: str, flag: str) -> tuple[str, int]:
    """(host, port) of "HOST:PORT"; raises `UserError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise UserError(f"{flag} {text}: expected HOST:PORT, such as 127.0.0.1:39539")
    return host.strip("[]"), int(port)


def curves_of(frame: Frame) -> NDArray[np.float32]:
    """The curves (52,) of a frame of a stream with curves."""
    return frame.values if frame.curves is None else frame.curves


class Sender:
    """Sends a packet for each frame to an address (host, port); `UserError` for an unknown host."""

    def __init__(self, address: tuple[str, int]) -> None:
        try:
            family, kind, _, _, self.target = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[
                0
            ]
        except OSError as error:
            raise UserError(f"address {address[0]}: {error.strerror}") from error
        self.socket = socket.socket(family, kind)
        self.socket.setblocking(False)

    def send(self, frames: Sequence[Frame], fps: int) -> None:
        """Send frames that have curves; what the system refuses is lost."""
        for frame in frames:
            try:
                self.socket.sendto(self.packet(frame, fps), self.target)
            except OSError:  # nobody listens, or the buffer is full
                continue

    def packet(self, frame: Frame, fps: int) -> bytes:
        """The packet of a frame."""
        raise NotImplementedError


class OscSender(Sender):
    """A bundle of `/VMC/Ext/Blend/Val name value` and `/VMC/Ext/Blend/Apply`.

    https://protocol.vmc.info/english; OSC 1.0: https://opensoundcontrol.stanford.edu/spec-1_0.html
    """

    def packet(self, frame: Frame, fps: int) -> bytes:
        """As `Sender`."""
        messages = [
            osc_message("/VMC/Ext/Blend/Val", name, float(value))
            for name, value in zip(ARKIT_UNITS, curves_of(frame), strict=True)
        ]
        messages.append(osc_message("/VMC/Ext/Blend/Apply"))
        immediately = struct.pack(">q", 1)
        parts = [struct.pack(">i", len(message)) + message for message in messages]
        return osc_text("#bundle") + immediately + b"".join(parts)


def osc_message(address: str, *arguments: str | float) -> bytes:
    """An OSC message with texts and float32 numbers."""
    tags, data = ",", b""
    for argument in arguments:
        is_text = isinstance(argument, str)
        tags += "s" if is_text else "f"
        data += osc_text(argument) if is_text else struct.pack(">f", argument)
    return osc_text(address) + osc_text(tags) + data


def osc_text(text: str) -> bytes:
    """A text that ends with 1 to 4 zeros, a multiple of 4 bytes."""
    data = text.encode("ascii") + b"\0"
    return data + b"\0" * (-len(data) % 4)


class LiveLinkSender(Sender):
    """Packets of Epic Games' Live Link Face app, big-endian.

    Version, identity of the device and name of the subject with their lengths, the frame's time
    (number, fraction, rate), the number of values and the 61 values in the app's order. (As read by
    JimWest's PyLiveLinkFace, https://github.com/JimWest/PyLiveLinkFace.)
    """

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address)
        self.device = str(uuid.uuid4()).upper()

    def packet(self, frame: Frame, fps: int) -> bytes:
        """As `Sender`."""
        return live_link_packet(self.device, SUBJECT_NAME, frame.index, fps, curves_of(frame))


def live_link_packet(device: str, subject: str, index: int, fps: int, curves: NDArray) -> bytes:
    """The packet of a frame; curves: (52,) in the order of `ARKIT_UNITS`."""
    values = np.zeros(len(COLUMNS))
    values[: len(ARKIT_UNITS)] = curves
    texts = b"".join(struct.pack(">i", len(text)) + text.encode() for text in (device, subject))
    time = struct.pack(">ifii", index, 0.0, fps, 1)
    head = struct.pack(">B", LIVE_LINK_VERSION) + texts + time
    return head + struct.pack(f">B{len(values)}f", len(values), *values)
