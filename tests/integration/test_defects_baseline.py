"""Baselines of other runs, directories and workloads: which trials share one."""

import functools
import json
import math
import os
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from envs import CostlyEnv
from ray import tune
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from tuning import cartpole, costly, lines, quick, run, scalings, sps_in, train

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.rllib import introspection

pytestmark = pytest.mark.usefixtures("cluster")

local = functools.partial(quick, reference="0r1e")


def ppo(env=CostlyEnv, runners=0, **env_config):
    return costly(env, 64, **env_config).env_runners(num_env_runners=runners)


def fit(config, storage, *, callbacks=local, stop=5, **options):
    results = run(storage, config, callbacks=callbacks, stop=stop, **{"name": "experiment"} | options)
    assert not results.errors
    return results


def test_second_run_of_the_same_name_measures_its_own_baseline(tmp_path):
    # A workload name hides that the work differs; the runs are distinguished anyway.
    on_my_word = functools.partial(local, workload="mine")
    efficiencies = []
    for step_s in (0.001, 0.004):
        (trial,) = fit(ppo(step_s=step_s), tmp_path, callbacks=on_my_word)
        efficiencies.append(trial.metrics["scaling"]["steady"]["efficiency"])
        assert trial.metrics["scaling"]["is_baseline"] == 1
    assert efficiencies == pytest.approx([100, 100], abs=40)  # the second has 25 % relative to the first run's baseline


def test_restored_run_keeps_its_own_baseline(tmp_path):
    class Failing(PPO):
        def step(self):
            if self.iteration == 5 and not (tmp_path / "mended").exists():
                raise RuntimeError("power failure")
            return super().step()

    config = ppo()
    assert run(tmp_path, config, name="experiment", callbacks=local, trainable=Failing, stop=7, checkpoint_every=1).errors
    (before,) = (tmp_path / "experiment/scaling_baselines").rglob("baseline-*.json")
    measured = sps_in(before)
    (tmp_path / "mended").touch()
    time.sleep(1.1)  # run times have a resolution of one second
    restored = tune.Tuner.restore(str(tmp_path / "experiment"), trainable=Failing, resume_errored=True, param_space=config)
    (trial,) = restored.fit()
    assert trial.metrics["training_iteration"] == 7
    assert list((tmp_path / "experiment/scaling_baselines").rglob("baseline-*.json")) == [before]
    after = [result["scaling"] for result in lines(trial) if result["iterations_since_restore"] == 1][-1]
    assert (after["baseline_sps"], after["is_baseline"]) == (measured, 1)


def test_relative_directory_is_resolved_against_the_working_directory(tmp_path):
    relative = functools.partial(local, baseline_dir=os.path.relpath(tmp_path / "lasting"))
    (trial,) = fit(ppo(), tmp_path, callbacks=relative)
    (file,) = (tmp_path / "lasting").glob("baseline-*-0r1e.json")
    assert trial.metrics["scaling"]["baseline_sps"] == sps_in(file)


def test_baselines_in_a_directory(tmp_path, caplog, built):
    """Trials that sample in the Algorithm's process: one env is the reference, two are compared with it."""
    lasting = functools.partial(local, baseline_dir=str(tmp_path))

    def trial(envs, epochs=1):
        return cartpole(runners=0, envs=envs).training(num_epochs=epochs).callbacks(lasting)

    late = built(trial(envs=2))
    assert all(math.isnan(late.train()["scaling"]["speedup"]) for _ in range(2))
    reference = scalings(train(trial(envs=1), 4))
    after = late.train()["scaling"]
    assert [scaling["is_baseline"] for scaling in reference] == [1] * 4
    (file,) = tmp_path.iterdir()
    sps = sps_in(file)
    assert reference[-1]["baseline_sps"] == reference[-1]["steady"]["sps"] == sps
    # From the iteration on in which it appears.
    assert (after["baseline_sps"], after["comparable"], after["is_baseline"]) == (sps, 1, 0)
    assert after["speedup"] == pytest.approx(after["sps"] / sps)

    assert "num_epochs" not in caplog.text
    *_, other = scalings(train(trial(envs=2, epochs=2), 2))
    assert other["sps"] > 0
    assert math.isnan(other["speedup"])
    assert other["comparable"] == 0
    assert "num_epochs: 2 here, 1 there" in caplog.text


# ---------------------------------------------------------------- workloads


class TellsFacts(ScalingCallback):
    """Adds the workload's facts to the result."""

    def on_algorithm_init(self, *, algorithm, **kwargs):
        super().on_algorithm_init(algorithm=algorithm, **kwargs)
        self.facts = introspection.workload_of(algorithm, [], None).facts

    def on_train_result(self, *, algorithm, result, **kwargs):
        super().on_train_result(algorithm=algorithm, result=result, **kwargs)
        result["facts"] = json.dumps(self.facts)


class Stepping(PPO):
    def training_step(self):
        return super().training_step()


def slow(step_s):
    """Return an env creator whose step time doesn't show in the config."""
    return lambda config: CostlyEnv(Config(step_s))


class Config(dict):
    def __init__(self, step_s):
        super().__init__(step_s=step_s)
        self.worker_index = 1


def facts_in_a_trial(tmp_path, config, trainable):
    """Return the workload's facts in a Tune trial."""
    (trial,) = fit(config.copy(copy_frozen=False), tmp_path, callbacks=TellsFacts, stop=1, trainable=trainable)
    return json.loads(trial.metrics["facts"])


def test_workload_covers_threads_and_code_and_is_the_same_in_every_process(tmp_path):
    tune.register_env("by_name", slow(0.001))
    factor = 2
    config = ppo("by_name", runners=1, a=np.arange(100_000.0), o=[Config(1.0), gym.spaces.Discrete(3), lambda: factor])
    config.rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[8]))
    first = facts_in_a_trial(tmp_path, config, PPO)
    (in_loop,) = (json.loads(result["facts"]) for result in train(config.copy(copy_frozen=False).callbacks(TellsFacts), 1))
    assert len(json.dumps(first)) < 20_000
    assert (first["threads"], in_loop["threads"], first["runner_threads"]) == (1, torch.get_num_threads(), [1])
    assert {**first, "threads": in_loop["threads"]} == in_loop
    tune.register_env("by_name", slow(0.004))
    factor = 3
    config.resources(num_cpus_for_main_process=2).env_runners(num_cpus_per_env_runner=2)
    other = facts_in_a_trial(tmp_path, config, Stepping)
    assert (other["threads"], other["runner_threads"]) == (2, [2])
    differing = ["algorithm", "env", "env_config", "runner_threads", "threads"]
    assert sorted(name for name in first if first[name] != other[name]) == differing


# ---------------------------------------------------------------- subclasses


class Plain(ScalingCallback):
    def __init__(self):
        self.mine = 1


class Silent(ScalingCallback):
    def on_algorithm_init(self, *, algorithm, **kwargs):
        self.mine = 1


@pytest.mark.parametrize(("callback", "first"), [(Plain, 1), (Silent, 2)])
def test_subclass_that_does_not_call_super_is_still_measured(caplog, callback, first):
    results = scalings(train(ppo().callbacks(callback), 3))
    assert [scaling["sps"] > 0 for scaling in results] == [number >= first for number in (1, 2, 3)]
    assert ("super().on_algorithm_init" in caplog.text) == (callback is Silent)
