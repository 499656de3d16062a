"""Frame counts against hand counts and each other."""

import pytest
import torch

from speech.timing import audio_frames, frame_lengths, mesh_frames, samples_for


def test_audio_frames_by_hand() -> None:
    assert [audio_frames(n) for n in (400, 719, 720, 16_000)] == [1, 1, 2, 49]
    assert mesh_frames(16_000, 30) == 29
    with pytest.raises(ValueError, match="399 samples, expected at least 400"):
        audio_frames(399)


def test_lengths_of_a_tensor_are_those_of_its_numbers() -> None:
    samples = [400, 719, 720, 16_001]
    assert frame_lengths(torch.tensor(samples)).tolist() == [frame_lengths(n) for n in samples]


@pytest.mark.parametrize("fps", [25, 30, 50])
def test_samples_for_is_the_smallest_number_for_a_frame_count(fps: int) -> None:
    for frames in range(1, 200):
        smallest = samples_for(frames, fps)
        assert mesh_frames(smallest, fps) == frames
        if smallest > 400:
            assert mesh_frames(smallest - 1, fps) < frames
        else:  # one window: fewer samples are no audio at all
            with pytest.raises(ValueError, match="399 samples"):
                mesh_frames(smallest - 1, fps)
