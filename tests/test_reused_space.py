"""Reused memory: one block per thread and dtype, also after a first call in inference mode."""

from concurrent.futures import ThreadPoolExecutor

import torch

from layers.reused_space import ReusedSpace


def test_a_call_overwrites_what_the_last_gave_in_the_same_thread_alone() -> None:
    space = ReusedSpace()
    first = space.take((3, 5), torch.float32)
    assert first.shape == (3, 5)
    assert space.take((2, 7), torch.float32).data_ptr() == first.data_ptr()
    assert space.take((3, 5), torch.float64).dtype == torch.float64
    assert space.take((3, 5), torch.float32).data_ptr() == first.data_ptr()
    with ThreadPoolExecutor(1) as other:
        theirs = other.submit(space.take, (3, 5), torch.float32).result()
    assert theirs.data_ptr() != first.data_ptr()


def test_a_block_of_inference_mode_can_be_written_in_training() -> None:
    space = ReusedSpace()
    with torch.inference_mode():
        space.take((11,), torch.float32)
    torch.add(torch.ones(11), 1, out=space.take((11,), torch.float32))
    assert not space.take((11,), torch.float32).is_inference()
