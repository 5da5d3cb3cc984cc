from types import SimpleNamespace

import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.rescale import Switch


def test_all_env_runners_are_back_after_a_failed_switch():
    pools = {1: "one", 2: "two", 3: "three"}, {1: "healthy", 2: "healthy", 3: "dead"}
    manager = SimpleNamespace(_actors=dict(pools[0]), _remote_actor_states=dict(pools[1]))
    used = []

    def get_state(**_):
        used.append((len(manager._actors), len(manager._remote_actor_states)))
        raise RuntimeError("lost the learner")

    group = SimpleNamespace(_worker_manager=manager, fetch_ready_async_reqs=lambda timeout_seconds: None)
    algorithm = SimpleNamespace(env_runner_group=group, learner_group=SimpleNamespace(get_state=get_state))
    with pytest.raises(RuntimeError, match="lost the learner"):
        Switch(algorithm).train(Scale(2, 1))
    assert used[0] == (2, 2)
    assert (manager._actors, manager._remote_actor_states) == pools
