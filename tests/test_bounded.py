"""Bounded least squares of many frames against scipy's solver of one."""

import numpy as np
from scipy.optimize import lsq_linear

from export.bounded import bounded_solution


def test_the_solution_is_that_of_scipy():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(29, 7)) @ np.diag([1, 1, 1, 0.1, 0.1, 3, 3])
    matrix[:, 1] = matrix[:, 0] + 0.05 * matrix[:, 1]  # nearly dependent columns
    upper = np.array([1.0, 1.0, 1.0, 1.5, 1.0, 0.3, 1.0])
    frames = rng.normal(scale=2.0, size=(23, 29))
    solution = bounded_solution(matrix.T @ matrix, frames @ matrix, upper)
    expected = [lsq_linear(matrix, frame, (0, upper), "bvls", 1e-14).x for frame in frames]
    np.testing.assert_allclose(solution, expected, atol=1e-7)
    assert ((solution == 0) | (solution == upper)).any() and (solution > 0).any()


def test_frames_that_the_bounds_allow_are_solved_exactly():
    matrix = np.random.default_rng(1).normal(size=(11, 5))
    truth = np.random.default_rng(2).uniform(0, 1, (3, 5))
    solution = bounded_solution(matrix.T @ matrix, truth @ matrix.T @ matrix, np.ones(5))
    np.testing.assert_allclose(solution, truth, atol=1e-12)
