import pytest

pytest.importorskip("ray.tune", reason="needs Ray")

from ray.tune.search import Searcher

from rl_scaling_callback.sweeping.searcher import ScalingSearcher


def test_resumed_search_has_the_rest_of_its_budget(tmp_path):
    now = [1000.0]
    state = str(tmp_path / "state")
    first = ScalingSearcher([1, 2], [1], budget_s=60, clock=lambda: now[0])
    now[0] += 45
    first.save(state)
    now[0] = 5.0  # the clock of another process
    resumed = ScalingSearcher([1, 2], [1], budget_s=60, clock=lambda: now[0])
    resumed.restore(state)
    assert "0.2 of 1 min left" in resumed.time_left()
    assert isinstance(resumed.suggest("one"), dict)
    resumed.restore(state)
    now[0] += 16
    assert resumed.suggest("two") == Searcher.FINISHED
