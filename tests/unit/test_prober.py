"""Probes and switches of scale that fail, and twins that don't affect training, with fakes in place of RLlib's env runners."""

import random
import signal
import time
from contextlib import suppress
from types import SimpleNamespace
from unittest.mock import Mock, call

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.common import AddObservationsFromEpisodesToBatch
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import MeanStdFilter

from rl_scaling_callback.core.probing import ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import prober, twins
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


# ---------------------------------------------------------------- twins


class Env(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    closed = False

    def close(self):
        self.closed = True


class Counter(ConnectorV2):
    """Has state, but doesn't tell by `get_state`."""

    calls = 0

    def __call__(self, **kwargs):
        self.calls += 1


class Runner:
    """An env runner made of given parts."""

    def __init__(self, env=None, module=None, connector=None):
        spaces = Env.observation_space, Env.action_space
        self.env = gym.vector.SyncVectorEnv([lambda: gym.wrappers.TimeLimit(env or Env(), 9)] * 2)
        self.module = SimpleNamespace(_rl_modules={"policy": module or SimpleNamespace()})
        nested = ConnectorPipelineV2(*spaces, connectors=[connector or AddObservationsFromEpisodesToBatch()])
        self._env_to_module = ConnectorPipelineV2(*spaces, connectors=[nested])


def test_closing_twins_closes_each_in_spite_of_a_time_limit_and_leaves_the_generators_alone():
    stopped = []

    class Slow:
        def stop(self):
            random.random()
            np.random.rand()
            stopped.append(self)
            time.sleep(10)

    runner = SimpleNamespace()
    twins._twins_of(runner).by_envs |= {1: (one := Slow()), 2: (other := Slow())}
    before = random.getstate(), np.random.get_state()[1].tolist()
    twins.close(runner, seconds=0.1)
    assert stopped == [other, one]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize(
    ("shared", "is_found"),
    [
        ({"env": Env()}, True),
        ({"module": SimpleNamespace()}, True),
        ({"connector": MeanStdFilter()}, True),
        ({"connector": Counter()}, True),
        ({"connector": AddObservationsFromEpisodesToBatch()}, False),
        ({}, False),
    ],
)
def test_shared_object_with_state_is_found(shared, is_found):
    original, twin = Runner(**shared), Runner(**shared)
    assert twins.shared_part(original, twin) is (next(iter(shared.values())) if is_found else None)
    del twin  # gymnasium closes vector envs then
    assert not original.env.envs[0].unwrapped.closed


def test_twin_gets_copies_of_all_states():
    state = {"rl_module": {"counts": [1]}, "weights_seq_no": 3}
    given = {}
    twins._copy_state(SimpleNamespace(get_state=lambda: state), SimpleNamespace(set_state=given.update))
    assert given == {"rl_module": {"counts": [1]}}
    given["rl_module"]["counts"].append(0)
    assert state == {"rl_module": {"counts": [1]}, "weights_seq_no": 3}


def test_no_alarm_is_left_behind_by_a_time_limit():
    handler = signal.getsignal(signal.SIGALRM)
    for seconds in (1e-9, 1e-6, 1e-4, 1e-3) * 50:
        with suppress(twins.Overdue), twins.time_limit(seconds):
            time.sleep(1e-3)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert signal.getsignal(signal.SIGALRM) is handler
