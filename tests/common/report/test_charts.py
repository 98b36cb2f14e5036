"""Ticks of charts: round, between the ends, none missing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from warpzoo.report.charts import chart_of, ticks


@pytest.mark.parametrize("count", range(1, 60))
def test_the_first_frame_is_marked_and_the_last_if_it_is_round(count: int) -> None:
    frames = [int(text) for text, _ in chart_of("x", {"a": [0.5] * count}, {}).columns]
    assert frames[0] == 0
    step = frames[1] if len(frames) > 1 else count
    assert step in (1, 2, 5, 10)
    assert frames == [*range(0, count, step)]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_ticks_are_evenly_between_the_ends(low: float, wide: float, most: int) -> None:
    found = np.array(ticks(low, low + wide, most))
    steps = np.diff(found)
    step = steps[0] if len(steps) else wide
    assert len(found) <= most + 1
    np.testing.assert_allclose(steps, step, rtol=1e-3)
    assert found.min() >= low - 1e-5 * step - 1e-9 * abs(low)
    assert found.max() <= low + wide + 1e-5 * step + 1e-9 * abs(low)
    assert found.min() - step < low
    assert found.max() + step > low + wide
