"""Faults during an experiment.

After any fault, training ends as it would without the callback, no value is wrong and nothing is lost. Faults of the store and of
files are in `unit/test_store.py` and `unit/test_hardening.py`, those of sweeps in `test_sweep.py`.
"""

import json
import math
import os
import resource
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from envs import CostlyEnv
from ray import tune
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.tune.schedulers import PopulationBasedTraining
from tuning import checked, costly, flat, lines, quick, run, sps_in

from rl_scaling_callback.core.schema import PHASES

STEPS = 80

pytestmark = [pytest.mark.release, pytest.mark.usefixtures("cluster")]


def ppo(*callbacks, runners=0, env=CostlyEnv, **env_config):
    return (
        costly(env, STEPS, **env_config)
        .env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.1)
        .resources(num_cpus_for_main_process=0.5)
        .debugging(seed=7)
        .callbacks(list(callbacks))
    )


def train(config, iterations):
    """Train in a plain loop; return the results and the type of the error that ended it early, or None."""
    algorithm = config.build_algo()
    results = []
    try:
        while len(results) < iterations:
            results.append(algorithm.train())
    except Exception as error:
        return results, type(error)
    finally:
        algorithm.stop()
    return results, None


def check(results):
    """Check what every result must satisfy: all keys present, no wrong values."""
    for result in results:
        scaling = checked(result, result["env_runners"]["num_env_steps_sampled"])
        assert scaling["speedup"] == pytest.approx(scaling["sps"] / scaling["baseline_sps"], rel=1e-9, nan_ok=True)
        assert sum(scaling[f"time/{phase}"] for phase in PHASES) == pytest.approx(result["time_this_iter_s"], rel=1e-6)
        assert scaling["runners/reported"] <= max(1, result["config"]["num_env_runners"])
        assert not scaling["runners/longest"] > result["time_this_iter_s"]
        assert scaling["steady/iterations"] < result["iterations_since_restore"]


# ---------------------------------------------------------------- callbacks that cause faults


def kill_once(flag):
    """Kill this process unless the file `flag` exists; its replacement finds the file and survives."""
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)


class KillTrial(RLlibCallback):
    """Kills the process of a trial with `runners` env runners after iteration number `iteration`."""

    def __init__(self, flag, runners, iteration):
        super().__init__()
        self._flag, self._runners, self._iteration = flag, runners, iteration

    def on_train_result(self, *, algorithm, result, **kwargs):
        if algorithm.config.num_env_runners == self._runners and result["training_iteration"] == self._iteration:
            kill_once(self._flag)


class KillEnvRunner(RLlibCallback):
    """Calls `meanwhile()` and kills the first env runner, at the end of its sample number `sample`."""

    def __init__(self, flag, sample=3, meanwhile=lambda: None):
        super().__init__()
        self._flag, self._left, self._meanwhile = flag, sample, meanwhile

    def on_sample_end(self, *, env_runner, **kwargs):
        self._left -= env_runner.worker_index == 1
        if self._left == 0 and not Path(self._flag).exists():
            self._meanwhile()
            kill_once(self._flag)


class AtIteration(RLlibCallback):
    """Calls `do()` in the middle of iteration `iteration` of a trial that samples in the Algorithm's process."""

    def __init__(self, iteration, do):
        super().__init__()
        self._samples, self._iteration, self._do = 0, iteration, do

    def on_sample_end(self, **kwargs):
        self._samples += 1
        if self._samples == self._iteration:
            self._do()


# ---------------------------------------------------------------- env runners


@pytest.mark.parametrize(
    "tolerance",
    [
        {"restart_failed_env_runners": True},
        {"restart_failed_env_runners": False, "ignore_env_runner_failures": True},
        {"restart_failed_env_runners": False, "ignore_env_runner_failures": False},
    ],
    ids=["restarted", "left out", "not tolerated"],
)
def test_env_runner_is_killed(tmp_path, tolerance):
    """The replacement starts while the baseline's storage is unavailable, which doesn't concern env runners."""
    place = tmp_path / "baselines"

    def killed(name, *callbacks, meanwhile=lambda: None):
        kill = partial(KillEnvRunner, str(tmp_path / name), meanwhile=meanwhile)
        return train(ppo(*callbacks, kill, runners=2, step_s=0.002).fault_tolerance(**tolerance), 8)

    control, expected_error = killed("control")
    results, error = killed("measured", partial(quick, baseline_dir=place), meanwhile=partial(put_a_file_in_the_way, place))
    assert (tmp_path / "measured").exists()
    assert error == expected_error
    assert len(results) == len(control)
    check(results)
    last, reference = results[-1], control[-1]
    if error is None:
        assert last["fault_tolerance"] == reference["fault_tolerance"]


# ---------------------------------------------------------------- trials


@pytest.mark.parametrize("failures", [0, 1], ids=["lost", "restored"])
@pytest.mark.parametrize("iteration", [2, 6], ids=["before publishing", "after publishing"])
def test_the_baseline_trial_is_killed(tmp_path, iteration, failures):
    kill = partial(KillTrial, str(tmp_path / "killed"), 1, iteration)
    config = ppo(quick, kill, runners=tune.grid_search([1, 2]), step_s=0.002)
    results = run(tmp_path, config, callbacks=None, stop=8, checkpoint_every=1, failures=failures)
    baseline, other = (lines(result) for result in results)
    assert (tmp_path / "killed").exists()
    assert len(results.errors) == 1 - failures
    assert len(other) == 8
    check([*baseline, *other])
    published = list((Path(results.experiment_path) / "scaling_baselines").glob("*-1r1e.json"))
    if iteration == 2 and not failures:
        assert not published
        assert all(math.isnan(flat(result)["speedup"]) for result in other)
    else:
        (file,) = published
        assert {flat(result)["baseline_sps"] for result in other} == {sps_in(file)}
    if failures:
        assert baseline[-1]["training_iteration"] == 8
        assert {flat(result)["is_baseline"] for result in baseline} == {1.0}


def test_pbt_pauses_both_trials_and_clones_a_checkpoint(tmp_path):
    pbt = PopulationBasedTraining(
        metric="pid",
        mode="max",
        time_attr="training_iteration",
        perturbation_interval=5,
        quantile_fraction=0.5,
        hyperparam_mutations={"lr": [1e-3]},
        synch=True,
    )
    config = ppo(partial(quick, reference="0r1e"))
    results = run(tmp_path, config, callbacks=None, stop=8, scheduler=pbt, num_samples=2, max_concurrent_trials=2)
    assert not results.errors
    assert [trial.metrics["training_iteration"] for trial in results] == [8, 8]
    assert [trial.metrics["iterations_since_restore"] for trial in results] == [3, 3]
    for trial in results:
        check(lines(trial))
    (file,) = (Path(results.experiment_path) / "scaling_baselines").iterdir()
    published = json.loads(file.read_text())
    last = {Path(trial.path).name: flat(trial.metrics) for trial in results}
    assert [name for name, scaling in last.items() if scaling["is_baseline"]] == [Path(published["owner"]).name]
    assert {(scaling["comparable"], scaling["baseline_sps"]) for scaling in last.values()} == {(1.0, sps_in(file))}


# ---------------------------------------------------------------- storage


@pytest.fixture(scope="module")
def learned(cluster):
    """The learning results of a trial without the callback, by iteration."""
    return learning(train(cartpole(), 6)[0])


def cartpole(*callbacks):
    return ppo(*callbacks, env="CartPole-v1")


def learning(results):
    return [
        (
            result["learners"]["default_policy"]["total_loss"],
            result["env_runners"]["episode_return_mean"],
            result["env_runners"]["num_env_steps_sampled_lifetime"],
        )
        for result in results
    ]


def put_a_file_in_the_way(place):
    shutil.rmtree(place)
    place.write_text("in the way")


def fill_the_disk(place):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))


@pytest.mark.parametrize("fault", [put_a_file_in_the_way, fill_the_disk])
def test_learning_does_not_depend_on_the_storage(tmp_path, learned, fault):
    place = tmp_path / "baselines"
    measure = partial(quick, reference="0r1e", baseline_dir=place)
    trouble = partial(AtIteration, 3, partial(fault, place))
    try:
        results, error = train(cartpole(measure, trouble), 6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert error is None
    assert learning(results) == learned
    check(results)
    assert [flat(result)["is_baseline"] for result in results] == [1.0] * 6
    assert not math.isnan(flat(results[-1])["speedup"])
    assert place.read_text() == "in the way" if place.is_file() else list(place.iterdir()) == []
