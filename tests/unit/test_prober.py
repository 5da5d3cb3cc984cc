"""Env runners that don't answer a probe in time, with fakes in place of RLlib's."""

import logging
from types import SimpleNamespace

import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

import ray
from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback.core.probing import ProbeError, ProbeTimeoutError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import prober
from rl_scaling_callback.rllib.prober import Prober


class Group:
    """Env runners 1 and 2; none answers a probe in time. Answers a ping, in the end: all but those in `hung`."""

    local_env_runner = None

    def __init__(self, hung):
        self.hung, self.killed, self.healthy = hung, [], [1, 2]
        self._worker_manager = self
        self._actors = {runner: SimpleNamespace(ping=SimpleNamespace(remote=lambda of=runner: of)) for runner in (1, 2)}

    def num_remote_env_runners(self):
        return 2

    def healthy_env_runner_ids(self):
        return self.healthy

    def foreach_env_runner(self, function, **options):
        return []

    def set_actor_state(self, runner, healthy):
        self.healthy = [each for each in self.healthy if each != runner]


@pytest.fixture
def measure(monkeypatch):
    def measure(hung, restarts=True):
        group = Group(hung)
        waited = []

        def wait(pings, num_returns, timeout):
            waited.append(timeout)
            return [ping for ping in pings if ping not in hung], [ping for ping in pings if ping in hung]

        def kill(actor, no_restart):
            group.killed.append(actor.ping.remote())
            assert no_restart is False

        monkeypatch.setattr(prober, "ray", SimpleNamespace(wait=wait, kill=kill, exceptions=ray.exceptions))
        config = PPOConfig().environment("CartPole-v1").fault_tolerance(restart_failed_env_runners=restarts)
        live = SimpleNamespace(config=config, env_runner_group=group, iteration=0)
        with pytest.raises(ProbeError) as error:
            Prober(live).measure([Scale(2, 1)])
        assert waited == [prober._HUNG_AFTER_S]
        return group, error.value

    return measure


def test_env_runners_that_are_late_are_waited_for(measure, caplog):
    with caplog.at_level(logging.WARNING):
        group, error = measure(hung=[])
    assert isinstance(error, ProbeTimeoutError)
    assert group.killed == []
    assert group.healthy == [1, 2]
    assert "Waiting up to 300 s" in caplog.text


def test_only_env_runners_that_stay_silent_are_restarted(measure):
    group, error = measure(hung=[2])
    assert "hung in a probe for 300 s" in str(error)
    assert group.killed == [2]
    assert group.healthy == [1]


def test_no_env_runner_is_killed_if_it_would_not_be_restarted(measure):
    group, error = measure(hung=[1, 2], restarts=False)
    assert "restart_failed_env_runners is False" in str(error)
    assert group.killed == []
