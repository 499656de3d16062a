"""Items of an iterator that a thread makes while earlier ones are used."""

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")


def made_ahead(items: Iterable[Item], n: int) -> Iterator[Item]:
    """Yield items, of which a thread makes up to `n` before they are asked for.

    What making them raises is raised here, at its place. Where the caller stops early, the thread
    ends after the item that it is making, and is waited for.
    """
    made: SimpleQueue[tuple[Item | None, BaseException | None]] = SimpleQueue()
    room, ended = threading.Semaphore(n), threading.Event()

    def make() -> None:
        error: BaseException = StopIteration()
        try:
            for item in items:
                made.put((item, None))
                room.acquire()
                if ended.is_set():
                    return
        except BaseException as raised:  # raised again in the caller's thread
            error = raised
        made.put((None, error))

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
            room.release()
    finally:
        ended.set()
        room.release()
        thread.join()
