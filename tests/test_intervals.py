"""Pooled figures and their bootstrap intervals."""

import numpy as np
import pytest

from benchmarks.intervals import (
    amplitude,
    auc,
    correlation,
    cross_correlation,
    lag,
    moments,
    pooled,
    ratio,
)

RNG = np.random.default_rng(5)
TRACKS = [(x := RNG.normal(size=n), 0.4 * x + RNG.normal(size=n)) for n in (31, 47, 53, 29, 37)]


def test_sums_of_clips_give_numpys_correlation_and_amplitude():
    x, y = (np.concatenate(side) for side in zip(*TRACKS, strict=True))
    sums = [moments(*track) for track in TRACKS]
    assert pooled(correlation, sums).value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert pooled(amplitude, sums).value == pytest.approx(x.std() / y.std())


def test_a_constant_track_has_no_correlation_and_amplitude_zero():
    sums = moments(np.full(7, 0.1), np.arange(7.0))
    assert np.isnan(correlation(sums)) and amplitude(sums) == 0


def test_the_interval_is_that_of_resampled_clips():
    sums = [moments(*track) for track in TRACKS]
    figure = pooled(correlation, sums)
    rng = np.random.default_rng(11)
    drawn = [correlation(np.sum([sums[i] for i in rng.integers(0, 5, 5)], 0)) for _ in range(3000)]
    assert figure.low == pytest.approx(np.percentile(drawn, 2.5), abs=0.02)
    assert figure.high == pytest.approx(np.percentile(drawn, 97.5), abs=0.02)
    assert pooled(correlation, sums) == figure  # a fixed seed


def test_one_clip_and_equal_clips():
    assert np.isnan(pooled(ratio, [np.array([1, 4])]).low)
    assert pooled(ratio, [np.array([1, 4])] * 3) == (0.25, 0.25, 0.25)
    assert np.isnan(pooled(ratio, [np.array([0, 0])] * 2).value)


def test_auc_counts_pairs_of_all_clips():
    lower, higher = [np.array([1.0, 3.0]), np.array([])], [np.array([2.0]), np.array([3.0, 0.0])]
    # 1 < 2, 1 < 3, 1 > 0; 3 > 2, 3 = 3, 3 > 0
    assert auc(lower, higher).value == pytest.approx(2.5 / 6)
    assert np.isnan(auc([np.array([])], [np.array([1.0])]).value)


@pytest.mark.parametrize("late", [-3, 0, 5])
def test_the_lag_of_a_shifted_track(late):
    track = np.convolve(RNG.normal(size=300), np.hanning(9), "same")
    sums = cross_correlation(np.roll(track, late), track)
    assert lag(sums) == pytest.approx(late, abs=0.1)
    assert lag(np.stack([sums, sums])).shape == (2,)
    assert np.isnan(lag(0 * sums))
