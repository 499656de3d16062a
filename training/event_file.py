"""TensorBoard's event file of a run, written without a thread.

torch's SummaryWriter writes in a thread, which prints a traceback where the disk is full.
"""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class EventFile:
    """Scalars and pictures of a run; every call appends whole records and closes the file.

    first_step: later steps in older event files of the folder are hidden. Raises `OSError` of the
    disk, as all methods do.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        log = SessionLog(status=SessionLog.START)
        self._append(Event(file_version="brain.Event:2"), Event(step=first_step, session_log=log))

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Append a curve's next point for each name."""
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard.summary import scalar

        self._append(*(Event(step=step, summary=scalar(k, v)) for k, v in values.items()))

    def add_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Append a picture (H, W, 3)."""
        from tensorboard.compat.proto.event_pb2 import Event
        from torch.utils.tensorboard.summary import image

        self._append(Event(step=step, summary=image(name, picture, dataformats="HWC")))

    def _append(self, *events: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        records = io.BytesIO()
        for event in events:
            event.wall_time = time.time()
            RecordWriter(records).write(event.SerializeToString())
        with open(self.path, "ab") as file:
            file.write(records.getbuffer())
