"""Probes and switches of scale that fail, with fakes in place of RLlib's env runners."""

from types import SimpleNamespace
from unittest.mock import Mock, call

import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback.core.probing import ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import prober
from rl_scaling_callback.rllib.rescale import Switch


@pytest.mark.parametrize(
    ("hung", "restarts", "killed", "error"),
    [
        ([], True, [], "A round of probes"),  # merely late
        ([2], True, [2], "hung in a probe for 300 s"),
        ([1, 2], False, [], "restart_failed_env_runners is False"),
    ],
)
def test_only_env_runners_that_stay_silent_are_restarted(monkeypatch, caplog, hung, restarts, killed, error):
    def wait(pings, num_returns, timeout):
        assert timeout == 300.0
        return [ping for ping in pings if ping not in hung], [ping for ping in pings if ping in hung]

    monkeypatch.setattr(prober, "ray", ray := Mock(wait=wait))
    actors = {runner: Mock(**{"ping.remote.return_value": runner}) for runner in (1, 2)}
    manager = Mock(actors=lambda: actors, is_actor_healthy=actors.__contains__)
    group = Mock(_worker_manager=manager, healthy_env_runner_ids=lambda: [1, 2], foreach_env_runner=lambda *_, **__: [])
    config = PPOConfig().environment("CartPole-v1").fault_tolerance(restart_failed_env_runners=restarts)
    with pytest.raises(ProbeError, match=error):
        prober.Prober(SimpleNamespace(config=config, env_runner_group=group)).measure([Scale(2, 1)])
    assert ray.kill.call_args_list == [call(actors[runner], no_restart=False) for runner in killed]
    assert manager.set_actor_state.call_args_list == [call(runner, healthy=False) for runner in killed]
    assert "Waiting up to 300 s" in caplog.text


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
