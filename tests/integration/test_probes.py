"""`ScalingCallback(probe=True)` in real training, also where iterations differ from short probes of the same scale."""

import math
import os
import signal
import time
from functools import partial

import pytest
from envs import CostlyEnv, Simulator, SlowToReset
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from tuning import costly, scalings, train, warnings_of

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.attribution import CAUSES

pytestmark = pytest.mark.usefixtures("cluster")

probing = partial(ScalingCallback, probe=True)


def of_runners(algorithm, function):
    return algorithm.env_runner_group.foreach_env_runner(function, local_env_runner=False)


def kill_first(algorithm):
    """Kill the first env runner; return the process ids of both."""
    pids = of_runners(algorithm, lambda env_runner: os.getpid())
    os.kill(pids[0], signal.SIGKILL)
    return pids


def test_trial_measures_its_own_baseline_and_attributes_its_losses(caplog):
    # 10 ms per step: 80 steps take 0.8 s at 1r×1e and 0.4 s with two env runners.
    config = costly(batch=80, step_s=0.01).env_runners(num_env_runners=2, num_envs_per_env_runner=2).callbacks(probing)
    results = scalings(train(config, 5))
    for scaling in results:
        assert (scaling["parallelism"], scaling["baseline"]["source"], scaling["account"]["estimated"]) == (4, "probe", 0)
        assert scaling["speedup"] == pytest.approx(scaling["sps"] / scaling["baseline_sps"])
        assert sum(scaling["loss"][cause] for cause in CAUSES) == pytest.approx(scaling["loss"]["total"], abs=1e-9)
    assert results[0]["time"]["probe"] > 0
    last = results[-1]
    assert last["steady"]["speedup"] == pytest.approx(2.0, rel=0.25)
    # Two envs step one after another in each of two runners, which don't slow each other down.
    assert max(CAUSES, key=last["loss"].__getitem__) == "serial_stepping"
    assert warnings_of(caplog) == []


def test_reference_with_an_env_runner_fits_a_trial_without():
    *_, last = scalings(train(costly(batch=20, step_s=0.001).env_runners(num_env_runners=0).callbacks(probing), 2))
    assert last["speedup"] == pytest.approx(1.0)


def test_trial_with_a_dead_env_runner_ends_without_delay(built, tmp_path):
    config = costly(Simulator, batch=40, folder=str(tmp_path)).callbacks(probing)
    algorithm = built(config.env_runners(num_env_runners=2, num_envs_per_env_runner=2, num_cpus_per_env_runner=0.5))
    algorithm.train()
    _, other = kill_first(algorithm)
    assert len(list(tmp_path.glob(f"{other}-*"))) > 2
    started = time.perf_counter()
    algorithm.stop()
    assert time.perf_counter() - started < 10
    assert not list(tmp_path.glob(f"{other}-*"))


def test_trial_whose_connector_has_the_same_state_in_every_pipeline_is_not_probed(caplog):
    shared = MeanStdFilter()  # its running mean and standard deviation would include the probes
    config = costly(batch=40).env_runners(num_env_runners=0, env_to_module_connector=lambda *_, **__: shared)
    (scaling,) = scalings(train(config.env_runners(num_envs_per_env_runner=2).callbacks(probing), 1))
    assert math.isnan(scaling["speedup"])
    (warning,) = [message for message in warnings_of(caplog) if "probed" in message]
    assert "the MeanStdFilter" in warning
    assert "create a new one" in warning


# ---------------------------------------------------------------- iterations that differ from probes


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


class Task(CostlyEnv):
    """An env with a task, as in RLlib's `TaskSettableEnv`: the duration of its steps."""

    def get_task(self):
        return self._step_s

    def set_task(self, task):
        self._step_s = task


class Hidden(CostlyEnv):
    """An env that changes in a way that can't be seen from outside."""

    def harden(self, seconds):
        self._step_s = seconds


def test_sampling_outside_rllibs_timers(caplog):
    config = costly(batch=160, step_s=0.002).env_runners(num_env_runners=1, num_envs_per_env_runner=4).callbacks(probing)
    config.algo_class = Untimed
    for scaling in scalings(train(config, 3)):
        assert scaling["sps"] > 0
        assert math.isnan(scaling["speedup"])
        assert (scaling["comparable"], scaling["baseline"]["source"]) == (0.0, "")
    (warning,) = warnings_of(caplog)
    assert "training_step" in warning
    assert "ENV_RUNNER_SAMPLING_TIMER" in warning


def test_expensive_resets_are_part_of_the_reference(caplog):
    # 100 steps of 10 ms with four resets of 0.2 s: 1.8 s at any number of envs that step one after another.
    config = costly(SlowToReset, batch=100, step_s=0.01, reset_s=0.2, episode_steps=25)
    config.env_runners(num_env_runners=1, num_envs_per_env_runner=4)
    *_, last = scalings(train(config.callbacks(probing), 4))
    assert last["runners"]["reset"] == pytest.approx(0.8, rel=0.25)
    assert last["speedup"] == pytest.approx(1.0, rel=0.25)
    assert warnings_of(caplog) == []


# ---------------------------------------------------------------- envs that change


def set_task(env_runner, seconds):
    for env in env_runner.env.unwrapped.envs:
        env.unwrapped.set_task(seconds)


def make_anew(env_runner, seconds):
    env_runner.config = env_runner.config.copy(copy_frozen=False).environment(env_config={"step_s": seconds})
    env_runner.make_env()


def harden(env_runner, seconds):
    for env in env_runner.env.unwrapped.envs:
        env.unwrapped.harden(seconds)


def train_and_change(env, change, batch=80, seconds=0.02):
    """Train with envs whose steps take 0.5 ms, after the fifth iteration `seconds`; return what was injected."""

    def between(algorithm, iteration):
        if iteration == 5:
            of_runners(algorithm, partial(change, seconds=seconds))

    config = costly(env, batch=batch, step_s=0.0005).env_runners(num_env_runners=1, num_envs_per_env_runner=4)
    return scalings(train(config.callbacks(probing), 9, between))


@pytest.mark.parametrize(
    ("env", "change"),
    [pytest.param(CostlyEnv, make_anew, id="env_config"), pytest.param(Task, set_task, id="task", marks=pytest.mark.slow)],
)
def test_baseline_follows_a_curriculum(caplog, env, change):
    results = train_and_change(env, change)
    for scaling in results[6:]:  # the first one might have been a stall
        # 80 steps of 20 ms take as long at any number of envs.
        assert scaling["baseline"]["source"] == "probe"
        assert scaling["speedup"] == pytest.approx(1.0, rel=0.3)
    assert 1 <= results[-1]["steady"]["iterations"] <= 4, "earlier iterations were other work"
    assert results[-1]["steady"]["speedup"] == pytest.approx(1.0, rel=0.3)
    assert warnings_of(caplog) == []


def test_a_change_that_probes_cannot_follow_makes_the_baseline_unknown(caplog):
    # RLlib's own time per step is a small part of 50 ms even while tests run beside this one.
    results = train_and_change(Hidden, harden, batch=40, seconds=0.05)
    assert results[4]["baseline"]["source"] == "probe"
    for scaling in results[7:]:  # the first ones might have been stalls
        assert math.isnan(scaling["speedup"])
        assert scaling["comparable"] == 0.0
    (warning,) = warnings_of(caplog)
    assert "Were the envs changed after they were made" in warning


# ---------------------------------------------------------------- env runners that deliver nothing


def test_a_dead_env_runner_does_not_count(caplog):
    def kill_one(algorithm, iteration):
        if iteration == 4:
            kill_first(algorithm)

    config = costly(batch=100, step_s=0.005).env_runners(num_env_runners=2).callbacks(probing)
    config.fault_tolerance(restart_failed_env_runners=False, ignore_env_runner_failures=True)
    results = scalings(train(config, 8, kill_one))
    before, last = results[3], results[-1]
    assert [each["parallelism"] for each in (before, last)] == [2.0, 1.0]
    assert last["sps"] > 0
    assert math.isnan(last["efficiency"])
    assert last["steady"]["iterations"] <= before["steady"]["iterations"]
    assert ["only 1 of 2 env runners" in message for message in warnings_of(caplog)].count(True) == 1
