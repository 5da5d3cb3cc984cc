"""What a probed baseline must not get wrong: trials whose iterations differ from short probes of the same scale."""

import math
import os
import time
from functools import partial

import pytest

pytest.importorskip("ray")

from envs import CostlyEnv
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from tuning import costly

from rl_scaling_callback import ScalingCallback

pytestmark = pytest.mark.usefixtures("cluster")

probing = partial(ScalingCallback, probe=True)


class Untimed(PPO):
    """A PPO with a `training_step` that uses none of RLlib's timers, and only samples."""

    def training_step(self):
        _, metrics = synchronous_parallel_sample(
            worker_set=self.env_runner_group,
            max_env_steps=self.config.total_train_batch_size,
            _uses_new_env_runners=True,
            _return_metrics=True,
        )
        getattr(self.metrics, "aggregate" if hasattr(self.metrics, "aggregate") else "merge_and_log_n_dicts")(
            metrics, key="env_runners"
        )


class Resetting(CostlyEnv):
    """An env whose later resets take as long as 100 steps of 2 ms. Its episodes have 100 steps."""

    is_first = True

    def reset(self, **options):
        time.sleep(0.0 if self.is_first else 0.2)
        self.is_first, self._steps = False, 0
        return super().reset(**options)

    def step(self, action):
        self._steps += 1
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self._steps % 100 == 0, info


class Task(CostlyEnv):
    """An env with a task, as in RLlib's `TaskSettableEnv`: the duration of its steps."""

    def get_task(self):
        return self._step_s

    def set_task(self, task):
        self._step_s = task


class Hidden(CostlyEnv):
    """An env that changes in a way that can't be seen from outside."""

    def harden(self):
        self._step_s = 0.02


class Dying(CostlyEnv):
    """An env that ends the process of env runner 2 after 60 steps."""

    steps = 0

    def __init__(self, config):
        super().__init__(config)
        self._dies = config.worker_index == 2 and config.num_workers == 2

    def step(self, action):
        Dying.steps += 1
        if self._dies and Dying.steps > 400:
            os._exit(1)
        return super().step(action)


def train(config, iterations, between=lambda algorithm, iteration: None):
    algorithm = config.build_algo()
    try:
        results = []
        for iteration in range(iterations):
            between(algorithm, iteration)
            results.append(algorithm.train()["scaling"])
        return results
    finally:
        algorithm.stop()


def warnings_of(caplog):
    return [record.message for record in caplog.records if record.name == "rl_scaling_callback"]


def test_sampling_outside_rllibs_timers(caplog):
    config = PPOConfig(algo_class=Untimed).environment(CostlyEnv, env_config={"step_s": 0.002})
    config.training(train_batch_size_per_learner=160, minibatch_size=80, num_epochs=1)
    config.env_runners(num_env_runners=2, num_envs_per_env_runner=4).callbacks(probing)
    for scaling in train(config, 5):
        assert scaling["sps"] > 0
        assert math.isnan(scaling["speedup"])
        assert (scaling["comparable"], scaling["baseline"]["source"]) == (0.0, "")
    (warning,) = warnings_of(caplog)
    assert "training_step" in warning
    assert "ENV_RUNNER_SAMPLING_TIMER" in warning


def test_expensive_resets_are_part_of_the_reference(caplog):
    # 400 steps of 2 ms with four resets of 0.2 s: 1.6 s at any number of envs that step one after another.
    config = costly(Resetting, batch=400, step_s=0.002).env_runners(num_env_runners=1, num_envs_per_env_runner=4)
    *_, last = train(config.callbacks(probing), 4)
    assert last["runners"]["reset"] == pytest.approx(0.8, rel=0.25)
    assert last["speedup"] == pytest.approx(1.0, rel=0.25)
    assert warnings_of(caplog) == []


def set_task(env_runner, seconds):
    for env in env_runner.env.unwrapped.envs:
        env.unwrapped.set_task(seconds)


def make_anew(env_runner, seconds):
    config = env_runner.config.copy(copy_frozen=False)
    env_runner.config = config.environment(env_config={"step_s": seconds})
    env_runner.make_env()


def harden(env_runner, seconds):
    for env in env_runner.env.unwrapped.envs:
        env.unwrapped.harden()


@pytest.mark.parametrize(("env", "change"), [(CostlyEnv, make_anew), (Task, set_task)], ids=["env_config", "task"])
def test_baseline_follows_a_curriculum(caplog, env, change):
    def between(algorithm, iteration):
        if iteration == 5:
            algorithm.env_runner_group.foreach_env_runner(partial(change, seconds=0.02), local_env_runner=False)

    config = costly(env, batch=80, step_s=0.0005).env_runners(num_env_runners=1, num_envs_per_env_runner=4).callbacks(probing)
    results = train(config, 8, between)
    for scaling in results[6:]:  # the first one might have been a stall
        # 80 steps of 20 ms take as long at any number of envs.
        assert scaling["baseline"]["source"] == "probe"
        assert scaling["speedup"] == pytest.approx(1.0, rel=0.3)
    assert 1 <= results[-1]["steady"]["iterations"] <= 3, "earlier iterations were other work"
    assert results[-1]["steady"]["speedup"] == pytest.approx(1.0, rel=0.3)
    assert warnings_of(caplog) == []


def test_a_change_that_probes_cannot_follow_makes_the_baseline_unknown(caplog):
    def between(algorithm, iteration):
        if iteration == 5:
            algorithm.env_runner_group.foreach_env_runner(partial(harden, seconds=None), local_env_runner=False)

    config = costly(Hidden, batch=80, step_s=0.0005).env_runners(num_env_runners=1, num_envs_per_env_runner=4).callbacks(probing)
    results = train(config, 9, between)
    assert results[4]["baseline"]["source"] == "probe"
    for scaling in results[6:]:  # the first one might have been a stall
        assert math.isnan(scaling["speedup"])
        assert scaling["comparable"] == 0.0
    (warning,) = warnings_of(caplog)
    assert "Were the envs changed after they were made" in warning


def test_a_dead_env_runner_does_not_count(caplog):
    config = costly(Dying, batch=100, step_s=0.005).env_runners(num_env_runners=2).callbacks(probing)
    config.fault_tolerance(restart_failed_env_runners=False, ignore_env_runner_failures=True)
    results = train(config, 14)
    last = results[-1]
    assert (results[0]["parallelism"], last["parallelism"]) == (2.0, 1.0)
    assert last["sps"] > 0
    assert math.isnan(last["efficiency"])
    assert last["diagnosis"] == ""
    assert last["steady"]["iterations"] < 12
    assert ["only 1 of 2 env runners" in message for message in warnings_of(caplog)].count(True) == 1


def test_an_env_runner_slower_than_the_time_limit_does_not_count(caplog):
    config = costly(batch=40, step_s=0.002, slow_worker=2, slow_step_s=0.1).env_runners(num_env_runners=2, sample_timeout_s=0.5)
    *_, last = train(config.callbacks(probing), 2)
    assert last["parallelism"] == 1.0
    assert math.isnan(last["speedup"])
    assert last["loss"]["sync"] != last["loss"]["sync"]
    assert any("sample_timeout_s" in message for message in warnings_of(caplog))
