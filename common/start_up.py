"""What a process sets before torch is loaded: memory pages, threads, collection of garbage.

Variables that the user has set are left as they are.
"""

import atexit
import gc
import importlib
import math
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

CPU_FOLDER = Path("/sys/devices/system/cpu")
QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")  # of a container, on Linux
META_KERNELS = "torch._meta_registrations"
COLLECT_AFTER = 50_000, 20, 100  # new objects, and collections of younger ones; of gc.set_threshold


def prepare_process() -> None:
    """Set what torch, OpenMP and MKL read when they are loaded; call it first in a script.

    THP_MEM_ALLOC_ENABLE: torch asks Linux for pages of 2 MB. A step's meshes are tens of megabytes,
    which the C library maps anew every time: with pages of 4 kB the kernel spends a fourth of a
    small network's step on page faults. Blocks that stay in the heap (glibc's mallopt) were 7 %
    faster still. But torch asks for aligned blocks, so freed ones often do not fit the next of the
    same size, and the heap grows.

    OMP_WAIT_POLICY: idle threads sleep. Otherwise they take the time of other programs: beside
    them, 60 s through the small model took 7 to 14 s with two threads, 1 s with this.

    OMP_NUM_THREADS: one thread for each core that this process may use.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "MKL_NUM_THREADS" not in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def collect_seldom() -> None:
    """Let Python look for cyclic garbage less often, and not at the exit; for short commands.

    While torch is imported, the collector looks at hundreds of thousands of new objects again and
    again, and finds nothing: 0.25 s of processor. At the exit it does so once more: 0.3 s. Garbage
    without cycles is freed at once as before. Not for training, where cycles may hold large
    tensors.
    """
    gc.set_threshold(*COLLECT_AFTER)
    atexit.register(gc.freeze)


def leave_out_meta_kernels() -> None:
    """Let torch be imported without its Python functions for the device "meta"; 0.3 s of processor.

    They find the shapes of results for torch.compile and torch.export. Most functions that networks
    are built of are compiled. The module is loaded where a name of it is used, and by
    `load_meta_kernels`.
    """
    if "torch" in sys.modules:
        return
    placeholder = ModuleType(META_KERNELS)

    def attribute(name: str) -> Any:
        if name.startswith("__"):  # Python looks for these in every module
            raise AttributeError(name)
        load_meta_kernels()
        return getattr(sys.modules[META_KERNELS], name)

    placeholder.__getattr__ = attribute
    sys.modules[META_KERNELS] = placeholder


def load_meta_kernels() -> bool:
    """Load what `leave_out_meta_kernels` left out; False where nothing is missing."""
    module = sys.modules.get(META_KERNELS)
    if module is None or module.__spec__ is not None:
        return False
    del sys.modules[META_KERNELS]
    importlib.import_module(META_KERNELS)
    return True


def usable_cores() -> int:
    """Cores of this process: of its affinity, two threads of a core counted once, and its quota."""
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows: nothing limits a process
        return os.cpu_count() or 1
    cores = len({_core_of(cpu) for cpu in os.sched_getaffinity(0)})
    try:
        quota, period = QUOTA_FILE.read_text().split()
        return max(min(cores, math.ceil(int(quota) / int(period))), 1)
    except (OSError, ValueError):  # no file, or "max": no limit
        return cores


def _core_of(cpu: int) -> str:
    """The list of the CPUs that share a core with `cpu`; its own number where it is not known."""
    try:
        return (CPU_FOLDER / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)
