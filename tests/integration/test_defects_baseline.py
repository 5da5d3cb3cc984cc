"""Baselines of other runs, directories and workloads, in real Tune runs."""

import functools
import json
import math
import os
import time

import pytest

pytest.importorskip("ray")

import gymnasium as gym
import numpy as np
from envs import CostlyEnv
from ray import tune
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from tuning import lines, quick

from rl_scaling_callback import ScalingCallback, SteadyRule
from rl_scaling_callback.rllib import introspection

CLUSTER_CPUS = 4


def slow(step_s):
    """Return an env creator whose step time doesn't show in the config."""
    return lambda config: CostlyEnv(Config(step_s))


class Config(dict):
    def __init__(self, step_s):
        super().__init__(step_s=step_s)
        self.worker_index = 1


def ppo(env=CostlyEnv, **env_config):
    return (
        PPOConfig()
        .environment(env, env_config=env_config)
        .env_runners(num_env_runners=1)
        .training(train_batch_size_per_learner=64, minibatch_size=64, num_epochs=1)
        .debugging(log_level="ERROR", log_sys_usage=False)  # or else tests beside this one would count as disturbance
    )


def fit(config, storage, *, name="experiment", callbacks=quick, iterations=5, trainable=PPO, log=None):
    config.callbacks(callbacks)
    run_config = tune.RunConfig(name=name, storage_path=str(storage), stop={"training_iteration": iterations}, verbose=0)
    results = tune.Tuner(trainable, param_space=config, run_config=run_config).fit()
    assert not results.errors
    return results


class Telling(ScalingCallback):
    """Adds its warnings and workload facts to the result."""

    def on_algorithm_init(self, *, algorithm, **kwargs):
        super().on_algorithm_init(algorithm=algorithm, **kwargs)
        self.facts = introspection.workload_of(algorithm, [], None).facts

    def on_train_result(self, *, algorithm, result, **kwargs):
        super().on_train_result(algorithm=algorithm, result=result, **kwargs)
        result["warned"] = sorted(self._warned)
        result["facts"] = json.dumps(self.facts)


telling = functools.partial(Telling, steady=SteadyRule(warmup_iterations=1, min_iterations=3, max_iterations=3))


def test_second_run_of_the_same_name_measures_its_own_baseline(cluster, tmp_path):
    # A workload name hides that the work differs; the runs are distinguished anyway.
    on_my_word = functools.partial(quick, workload="mine")
    efficiencies = []
    for step_s in (0.001, 0.004):
        (trial,) = fit(ppo(step_s=step_s), tmp_path, callbacks=on_my_word)
        efficiencies.append(trial.metrics["scaling"]["steady"]["efficiency"])
        assert trial.metrics["scaling"]["is_baseline"] == 1
    assert efficiencies == pytest.approx([100, 100], abs=40)  # the second has 25 % relative to the first run's baseline


def test_restored_run_keeps_its_own_baseline(cluster, tmp_path):
    class Failing(PPO):
        def step(self):
            if self.iteration == 5 and not (tmp_path / "mended").exists():
                raise RuntimeError("power failure")
            return super().step()

    config = ppo().callbacks(quick)
    run_config = tune.RunConfig(
        name="experiment",
        storage_path=str(tmp_path),
        stop={"training_iteration": 7},
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
        verbose=0,
    )
    tuner = tune.Tuner(Failing, param_space=config, run_config=run_config)
    assert tuner.fit().errors
    (before,) = (tmp_path / "experiment/scaling_baselines").rglob("baseline-*.json")
    measured = json.loads(before.read_text())["steady"]["sps"]
    (tmp_path / "mended").touch()
    time.sleep(1.1)  # run times have a resolution of one second
    restored = tune.Tuner.restore(str(tmp_path / "experiment"), trainable=Failing, resume_errored=True, param_space=config)
    (trial,) = restored.fit()
    assert trial.metrics["training_iteration"] == 7
    assert list((tmp_path / "experiment/scaling_baselines").rglob("baseline-*.json")) == [before]
    after = [result["scaling"] for result in lines(trial) if result["iterations_since_restore"] == 1][-1]
    assert (after["baseline_sps"], after["is_baseline"]) == (measured, 1)


def test_reference_that_disagrees_with_a_persistent_baseline_warns(cluster, tmp_path):
    lasting = functools.partial(telling, baseline_dir=str(tmp_path / "lasting"), workload="mine")
    warned = []
    for step_s in (0.001, 0.006):
        (trial,) = fit(ppo(step_s=step_s), tmp_path, callbacks=lasting)
        warned.append("disagree" in trial.metrics["warned"])
    assert warned == [False, True]


def test_relative_directory_is_resolved_against_the_working_directory(cluster, tmp_path):
    relative = functools.partial(quick, baseline_dir=os.path.relpath(tmp_path / "lasting"))
    results = []
    for runners in (1, 2):
        results += fit(ppo().env_runners(num_env_runners=runners), tmp_path, name=f"{runners}", callbacks=relative)
    (file,) = (tmp_path / "lasting").glob("baseline-*-1r1e.json")
    sps = json.loads(file.read_text())["steady"]["sps"]
    assert [trial.metrics["scaling"]["baseline_sps"] for trial in results] == [sps, sps]


class Stepping(PPO):
    def training_step(self):
        return super().training_step()


def facts_in(tmp_path, config, trainable=PPO):
    """Return the workload's facts in a Tune trial, with one thread, and in a plain training loop."""
    (trial,) = fit(config.copy(copy_frozen=False), tmp_path, callbacks=telling, iterations=1, trainable=trainable)
    algorithm = trainable(config.copy(copy_frozen=False).callbacks(telling))
    in_loop = json.loads(algorithm.train()["facts"])
    algorithm.stop()
    in_trial = json.loads(trial.metrics["facts"])
    # What a sweep reads from the config before any trial starts.
    of_config = introspection.facts_of(config.copy(copy_frozen=False).callbacks(telling), trainable)
    both = of_config.keys() & in_trial.keys()
    assert {name: of_config[name] for name in both} == {name: in_trial[name] for name in both}
    return in_trial, in_loop


def test_workload_covers_threads_and_code_and_is_the_same_in_every_process(cluster, tmp_path):
    import torch

    tune.register_env("by_name", slow(0.001))
    factor = 2
    config = ppo("by_name", a=np.arange(100_000.0), o=[Config(1.0), gym.spaces.Discrete(3), lambda: factor])
    config.rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[8]))
    first, in_loop = facts_in(tmp_path, config)
    assert len(json.dumps(first)) < 20_000
    assert (first["threads"], in_loop["threads"], first["runner_threads"]) == (1, torch.get_num_threads(), [1])
    assert {**first, "threads": in_loop["threads"]} == in_loop
    tune.register_env("by_name", slow(0.004))
    factor = 3
    config.rl_module(model_config={"fcnet_hiddens": [8], "vf_share_layers": True}).resources(num_cpus_for_main_process=2)
    config.env_runners(num_cpus_per_env_runner=2)
    other, _ = facts_in(tmp_path, config, Stepping)
    assert (other["threads"], other["runner_threads"]) == (2, [2])
    differing = ["algorithm", "env", "env_config", "runner_threads", "threads"]
    assert sorted(name for name in first if first[name] != other[name]) == differing


class Plain(ScalingCallback):
    def __init__(self):
        self.mine = 1


class Silent(ScalingCallback):
    def on_algorithm_init(self, *, algorithm, **kwargs):
        self.mine = 1


@pytest.mark.parametrize(("callback", "first"), [(Plain, 1), (Silent, 2)])
def test_subclass_that_does_not_call_super_is_still_measured(cluster, caplog, callback, first):
    algorithm = ppo().env_runners(num_env_runners=0).callbacks(callback).build_algo()
    results = [algorithm.train() for _ in range(3)]
    algorithm.stop()
    known = [result["scaling"]["sps"] > 0 for result in results]
    assert known == [number >= first for number in (1, 2, 3)]
    assert ("super().on_algorithm_init" in caplog.text) == (callback is Silent)


def test_trial_too_short_for_a_baseline_warns_when_it_ends(cluster, tmp_path, caplog):
    lasting = functools.partial(ScalingCallback, baseline_dir=str(tmp_path))
    for runners in (1, 0):
        caplog.clear()
        algorithm = ppo().env_runners(num_env_runners=runners).callbacks(lasting).build_algo()
        scaling = [algorithm.train()["scaling"] for _ in range(3)][-1]
        assert "7 to 10 iterations" not in caplog.text
        algorithm.stop()
        assert math.isnan(scaling["speedup"])
        assert "7 to 10 iterations" in caplog.text


def test_unreachable_directory_fails_in_the_algorithm_not_in_env_runners(cluster, tmp_path):
    class Oddly(RLlibCallback):
        pass

    away = functools.partial(ScalingCallback, baseline_dir="/proc/nothing/here")
    away()  # as an env runner creates it, whatever its class is called
    with pytest.raises(ValueError, match="baseline_dir is '/proc/nothing/here'"):
        ppo().env_runners(num_env_runners=0).callbacks([Oddly, away]).build_algo()


def test_numpy_integers_are_accepted_as_runner_and_env_counts(cluster):
    config = ppo().env_runners(num_env_runners=np.int64(0), num_envs_per_env_runner=np.int64(2)).callbacks(quick)
    algorithm = config.build_algo()
    scaling = algorithm.train()["scaling"]
    algorithm.stop()
    assert scaling["sps"] > 0
    assert scaling["parallelism"] == 2
