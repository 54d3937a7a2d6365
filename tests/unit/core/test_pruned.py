"""What leaving trials out early saves, by hand."""

from __future__ import annotations

import pytest

from bench.core import pruned


def test_the_share_is_of_all_steps_that_trials_would_have_trained() -> None:
    assert pruned.share_saved([(5, 20), (10, 20)], [20, 40]) == pytest.approx(25 / 100)
    assert pruned.share_saved([(5, 20)], []) == pytest.approx(15 / 20)
    assert pruned.share_saved([], [20, 40]) is None


def test_in_words() -> None:
    assert pruned.told(1200, 0.427) == "1,200 pruned (43% of the steps saved)"
    assert pruned.told(2, None) == "2 pruned"
