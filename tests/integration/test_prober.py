"""Probes of running Algorithms: results, absence of side effects, and failures."""

import functools
import gc
import math
import os
import random
import re
import signal
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import ray
import torch
from envs import CostlyEnv
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.env.multi_agent_env import make_multi_agent
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils.replay_buffers.prioritized_episode_buffer import PrioritizedEpisodeReplayBuffer
from ray.tune.utils import flatten_dict
from tuning import off_policy, tiny, tiny_ppo

from rl_scaling_callback.core.probing import ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import prober as prober_module
from rl_scaling_callback.rllib.prober import Prober
from rl_scaling_callback.rllib.rescale import Switch

pytestmark = pytest.mark.usefixtures("cluster")

STEP_S = 0.01
ONE = Scale(1, 1)

quick = functools.partial(Prober, probe_seconds=0.02, max_seconds=30)


def filtered(env=None, spaces=None, device=None):
    return MeanStdFilter()


def on_runners(algorithm, function):
    return algorithm.env_runner_group.foreach_env_runner(function)


def process_of(env_runner):
    return os.getpid()


COUNT = re.compile(r"(num_(?!.*throughput)|(agent_|module_)?episode_(?!duration))")


class Seen(RLlibCallback):
    """Writes the return of each episode to a file per env runner."""

    def __init__(self, folder):
        super().__init__()
        self._folder = Path(folder)

    def on_episode_end(self, *, episode, env_runner, **kwargs):
        with (self._folder / str(env_runner.worker_index)).open("a") as file:
            file.write(f"{episode.get_return()!r}\n")


def train(config, folder, scales, iterations=2):
    """Train with a round of probes of `scales` after each iteration; return everything that training produces."""
    folder.mkdir()
    algorithm, results = config.callbacks(functools.partial(Seen, folder)).build_algo(), []
    if algorithm.local_replay_buffer is not None:
        algorithm.local_replay_buffer.rng = np.random.default_rng(7)  # RLlib doesn't seed it
    with closing(quick(algorithm)) as prober:
        for _ in range(iterations):
            if scales:
                before = random.getstate()
                assert [probes.keys() for probes in prober.measure(scales)] == [set(scales)]
                assert random.getstate() == before
            results.append(algorithm.train())
            on_runners(algorithm, lambda env_runner: None)  # wait until the weights have arrived
    state = algorithm.get_state()
    twins = on_runners(algorithm, lambda env_runner: hasattr(env_runner, "_scaling_twins"))
    algorithm.stop()
    assert not any(twins)
    sampled = [flatten_dict(result["env_runners"]) for result in results]
    return {
        "weights": state["learner_group"]["learner"]["rl_module"],
        "runner": state["env_runner"],
        "keys": [{key for key in flatten_dict(result) if not key.startswith("perf/")} for result in results],  # of 0.7 s and more
        "counts": [{key: value for key, value in each.items() if COUNT.match(key)} for each in sampled],
        "returns": {path.name: path.read_text() for path in folder.iterdir()},
    }


CONFIGS = {
    "PPO with a MeanStdFilter": lambda: tiny_ppo(runners=2, envs=2).env_runners(env_to_module_connector=filtered),
    "DQN": lambda: off_policy(DQNConfig(), runners=1, envs=2),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_training_is_bit_identical_with_probes(config, tmp_path):
    runners = config().num_env_runners
    scales = [Scale(0, 1), *(Scale(r, e) for r in range(1, runners + 1) for e in (1, 3))]
    without = train(config(), tmp_path / "without", [])
    if ray.__version__ < "2.60":
        try:
            np.testing.assert_equal(train(config(), tmp_path / "again", []), without)
        except AssertionError:
            pytest.skip("this release of RLlib doesn't repeat itself with a seed")
    probed = train(config(), tmp_path / "probed", scales)
    assert all(without["returns"].values())
    assert len(without["counts"][-1]) > 10
    np.testing.assert_equal(probed, without)


@pytest.fixture(scope="module")
def algorithm():
    algorithm = tiny_ppo(CostlyEnv, runners=2, envs=2, step_s=STEP_S).build_algo()
    yield algorithm
    algorithm.stop()


def live_envs(env_runner):
    gc.collect()
    return sum(isinstance(thing, CostlyEnv) for thing in gc.get_objects())


@pytest.mark.alone
def test_env_of_known_cost(algorithm):
    scales = [Scale(0, 1), ONE, Scale(2, 1), Scale(1, 2), Scale(2, 2)]
    before = on_runners(algorithm, live_envs)
    with closing(Prober(algorithm)) as prober:
        rounds = prober.measure(scales, rounds=2)
    assert on_runners(algorithm, live_envs) == before
    assert len(rounds) == 2
    # Envs of one runner step one after another, runners in parallel.
    for scale in scales:
        runners = max(1, scale.num_env_runners)
        assert median(probes[scale].seconds_per_step for probes in rounds) * runners == pytest.approx(1.2 * STEP_S, rel=0.2)
        for probes in rounds:
            assert len(probes[scale].busy) == runners
            assert max(probes[scale].busy) <= probes[scale].seconds


def test_only_complete_rounds_count(algorithm):
    with closing(Prober(algorithm, probe_seconds=0.3, max_seconds=1.4)) as prober:
        rounds = prober.measure([ONE, Scale(2, 1)], rounds=20)
    assert 1 <= len(rounds) < 4
    assert all(probes.keys() == {ONE, Scale(2, 1)} for probes in rounds)


class CustomRunner(SingleAgentEnvRunner):
    """A custom env runner class whose `sample` takes no arguments."""

    def sample(self):
        return super().sample()


MultiAgentCartPole = make_multi_agent("CartPole-v1")

KINDS = {
    "multi-agent PPO": lambda: tiny_ppo(MultiAgentCartPole, runners=0, num_agents=2).multi_agent(
        policies={"a", "b"}, policy_mapping_fn=lambda agent, *args, **kwargs: "ab"[agent]
    ),
    "a custom env runner": lambda: tiny_ppo(runners=0).env_runners(env_runner_cls=CustomRunner),
    "complete episodes": lambda: tiny_ppo(runners=0).env_runners(batch_mode="complete_episodes"),
    "SAC": lambda: off_policy(SACConfig(), "Pendulum-v1", runners=0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_algorithms(kind, built):
    algorithm = built(KINDS[kind]())
    runners = algorithm.config.num_env_runners
    with closing(quick(algorithm)) as prober:
        rounds = prober.measure([Scale(runners, 1), Scale(runners, 4)], rounds=2)
    for probes in rounds:
        for scale, probe in probes.items():
            assert 1e-5 < probe.seconds_per_step < 0.5
            assert probe.env_steps >= scale.parallelism
    assert math.isfinite(prober.env_steps_per_update(Scale(runners, 4))) == (kind == "SAC")


def test_replay_buffer(monkeypatch, built):
    """Probes include adding to it, but leave it as it was; iterations at other scales fill it between probes."""
    add = PrioritizedEpisodeReplayBuffer.add
    added = []

    def slow_add(self, episodes, *args):
        time.sleep(0.02)
        added.append(sum(map(len, episodes)))
        return add(self, episodes, *args)

    algorithm = built(off_policy(DQNConfig(), envs=4).reporting(min_sample_timesteps_per_iteration=32))
    buffer = algorithm.local_replay_buffer
    algorithm.train()
    switch, scales = Switch(algorithm), (ONE, Scale(1, 2))
    with closing(quick(algorithm)) as prober:
        for _ in range(2):
            size = buffer.get_num_timesteps()
            with monkeypatch.context() as patch:
                patch.setattr(PrioritizedEpisodeReplayBuffer, "add", slow_add)
                (probes,) = prober.measure(scales)
            assert buffer.get_num_timesteps() == size
            for probe in probes.values():
                assert probe.seconds_per_step > 0.02 / probe.scale.parallelism
                assert probe.sync > 0
            for scale in scales:
                switch.train(scale)
            assert buffer.get_num_timesteps() >= size + 2 * 32
    assert {1, 2} <= set(added) <= {1, 2, 3}  # 3: one of two envs was reset, which is no env step


class OneOfAKind(gym.Wrapper):
    """An env whose second instance in a process fails in the way a file says."""

    made = 0

    def __init__(self, config):
        super().__init__(gym.make("CartPole-v1"))
        OneOfAKind.made += 1
        if OneOfAKind.made > 1 and config.worker_index > 0:
            how = Path(config["file"]).read_text()
            if how == "raise":
                raise RuntimeError("port 5005 is in use")
            if how == "wait":
                time.sleep(1000)
            if "in native code" in how:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
                time.sleep(1000 if "for good" in how else 5.5)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
            if how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            self._fail = how == "fail later"

    def step(self, action):
        if getattr(self, "_fail", False):
            raise ConnectionError("the simulator has gone")
        return super().step(action)


def generators(env_runner):
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_failures_do_not_affect_training(tmp_path, monkeypatch, built):
    monkeypatch.setattr(prober_module, "_GRACE_S", 1.0)
    monkeypatch.setattr(prober_module, "_HUNG_AFTER_S", 5.0)
    file = tmp_path / "how"
    algorithm = built(tiny_ppo(OneOfAKind, file=str(file)))
    runner = functools.partial(algorithm.env_runner_group.foreach_env_runner, local_env_runner=False)
    algorithm.train()
    (before,), (pid,) = runner(generators), runner(process_of)
    prober = Prober(algorithm, probe_seconds=0.02, max_seconds=3)
    slow = "more than 3 s"
    for how, message in {"raise": "port", "fail later": "ConnectionError", "wait": slow, "wait in native code": slow}.items():
        file.write_text(how)
        started = time.perf_counter()
        with pytest.raises(ProbeError, match=message):
            prober.measure([ONE])
        assert time.perf_counter() - started < (9 if "native" in how else 7)
        assert runner(generators) == [before]
    assert runner(process_of) == [pid]
    assert algorithm.train()["env_runners"]["num_env_steps_sampled"] >= 96
    for how, message in {"die": "died", "wait in native code for good": "hung"}.items():
        file.write_text(how)
        with pytest.raises(ProbeError, match=message):
            prober.measure([ONE])
        # RLlib replaces the env runner.
        until, new = time.perf_counter() + 30, []
        while not new and time.perf_counter() < until:
            algorithm.train()
            new = runner(process_of)
        assert new not in ([], [pid])
        (pid,) = new
    prober.close()


def test_algorithms_that_cannot_be_probed(algorithm, tmp_path):
    old = tiny_ppo().api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    for config, message in [
        (old, "old API stack"),
        (tiny(APPOConfig()), "sampling overlaps learning"),
        (BCConfig().environment("CartPole-v1").offline_data(input_=[str(tmp_path)]), "recorded data"),
        (tiny_ppo().offline_data(output=str(tmp_path)), "record their episodes"),
    ]:
        with pytest.raises(ProbeError, match=message):
            Prober(SimpleNamespace(config=config, env_runner_group=algorithm.env_runner_group))
    with pytest.raises(ProbeError, match=r"3r×1e.*2 env runners"):
        quick(algorithm).measure([ONE, Scale(3, 1)])
