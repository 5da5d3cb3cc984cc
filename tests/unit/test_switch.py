from types import SimpleNamespace

import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.switch import Switch


def test_all_env_runners_are_back_after_a_failed_switch():
    actors = {1: "one", 2: "two", 3: "three"}
    manager = SimpleNamespace(_actors=dict(actors))
    used = []

    def get_state(**_):
        used.append(len(manager._actors))
        raise RuntimeError("lost the learner")

    algorithm = SimpleNamespace(
        env_runner_group=SimpleNamespace(_worker_manager=manager), learner_group=SimpleNamespace(get_state=get_state)
    )
    with pytest.raises(RuntimeError, match="lost the learner"):
        Switch(algorithm).train(Scale(2, 1))
    assert used[0] == 2
    assert manager._actors == actors
