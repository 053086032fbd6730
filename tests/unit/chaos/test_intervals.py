"""Arithmetic of intervals."""

from tests.chaos.intervals import merged, overlap


def test_overlapping_and_touching_intervals_become_one() -> None:
    assert merged([(5, 7), (1, 3), (2, 4), (4, 5), (9, 9)]) == [(1, 7)]


def test_the_overlap_is_the_time_inside() -> None:
    assert overlap([(0, 2), (4, 6)], 1, 5) == 2
    assert overlap([(0, 2)], 2, 5) == 0
