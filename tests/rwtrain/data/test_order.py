"""The order of samples: a permutation, seekable anywhere, the same for every world size."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rwtrain.data.order import permute, random_uniform, sample_at


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**63))
def test_permute_hits_every_value_once(size: int, seed: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, seed)), np.arange(size))


def test_any_position_is_found_without_the_ones_before() -> None:
    size, far = 12_345_678_901, 10**10
    alone = permute(np.array([far]), size, 5)[0]
    assert permute(np.arange(far - 3, far + 3), size, 5)[3] == alone
    assert 0 <= alone < size


def test_an_epoch_has_every_sample_once_and_the_next_another_order() -> None:
    first, second = sample_at(np.arange(100), 100, 3), sample_at(np.arange(100, 200), 100, 3)
    assert np.array_equal(np.sort(first), np.arange(100))
    assert np.array_equal(np.sort(second), np.arange(100))
    assert not np.array_equal(first, second)


def test_positions_are_spread_evenly() -> None:
    halves = permute(np.arange(10_000), 10_000, 1) < 5000
    runs = np.count_nonzero(np.diff(halves))  # a fair coin changes side about 5,000 times, with a deviation of 50
    assert 4700 < runs < 5300
    assert abs(random_uniform(0, np.arange(100_000)).mean() - 0.5) < 0.005


def test_position_ten_billion_of_an_endless_stream() -> None:
    size, far = 3_000_000_007, 10**10
    around = sample_at(np.arange(far - 4, far + 4), size, 11)
    assert sample_at(far, size, 11) == around[4]
    assert len(set(around.tolist())) == 8
