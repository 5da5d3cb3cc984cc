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
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("ray")

import ray
import tuning
from envs import CostlyEnv
from fault_envs import AtIteration, KillEnvRunner, KillTrial, ReusablePPO
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.tune.schedulers import PopulationBasedTraining
from tuning import lines, quick

from rl_scaling_callback import make_report, read_experiment
from rl_scaling_callback.core.schema import KEYS, PHASES
from rl_scaling_callback.report import render_page

STEPS = 80

pytestmark = [pytest.mark.release, pytest.mark.usefixtures("cluster")]


def ppo(*callbacks, runners=0, env=CostlyEnv, **env_config):
    return (
        tuning.ppo(env, STEPS, **env_config)
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


def fit(config, place, *, iterations, trainable="PPO", checkpoint_every=0, failures=0, name=None, **tune_config):
    return tune.Tuner(
        trainable,
        param_space=config,
        tune_config=tune.TuneConfig(**{"max_concurrent_trials": 1} | tune_config),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(place),
            stop={"training_iteration": iterations},
            failure_config=tune.FailureConfig(max_failures=failures),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=checkpoint_every),
            verbose=0,
        ),
    ).fit()


def check(results, flat):
    """Check what every result must satisfy: all keys present, no wrong values."""
    for result in results:
        scaling = flat(result)
        assert set(scaling) == {key.name for key in KEYS}
        assert not [name for name, value in scaling.items() if isinstance(value, float) and math.isinf(value)]
        steps = result["env_runners"]["num_env_steps_sampled"]
        assert scaling["env_steps"] == steps
        assert scaling["sps"] == pytest.approx(steps / result["time_this_iter_s"], rel=1e-9)
        assert scaling["speedup"] == pytest.approx(scaling["sps"] / scaling["baseline_sps"], rel=1e-9, nan_ok=True)
        assert sum(scaling[f"time/{phase}"] for phase in PHASES) == pytest.approx(result["time_this_iter_s"], rel=1e-6)
        assert scaling["runners/reported"] <= max(1, result["config"]["num_env_runners"])
        assert not scaling["runners/longest"] > result["time_this_iter_s"]
        assert scaling["steady/iterations"] < result["iterations_since_restore"]


def store_files(folder):
    return sorted(Path(folder).iterdir())


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
def test_env_runner_is_killed(tmp_path, tolerance, flat):
    """The replacement starts while the baseline's storage is unavailable, which doesn't concern env runners."""
    place = tmp_path / "baselines"

    def take_the_storage_away():
        shutil.rmtree(place)
        place.write_text("in the way")

    def run(name, *callbacks, meanwhile=lambda: None):
        kill = partial(KillEnvRunner, str(tmp_path / name), meanwhile=meanwhile)
        return train(ppo(*callbacks, kill, runners=2, step_s=0.002).fault_tolerance(**tolerance), 8)

    control, expected_error = run("control")
    results, error = run("measured", partial(quick, baseline_dir=place), meanwhile=take_the_storage_away)
    assert (tmp_path / "measured").exists()
    assert error == expected_error
    assert len(results) == len(control)
    check(results, flat)
    last, reference = results[-1], control[-1]
    assert flat(last)["runners/healthy"] == last["fault_tolerance"]["num_healthy_workers"]
    assert flat(last)["runners/restarts"] == last["fault_tolerance"]["num_remote_worker_restarts"]
    if error is None:
        assert last["fault_tolerance"] == reference["fault_tolerance"]


# ---------------------------------------------------------------- trials


@pytest.mark.parametrize("failures", [0, 1], ids=["lost", "restored"])
@pytest.mark.parametrize("iteration", [2, 6], ids=["before publishing", "after publishing"])
def test_the_baseline_trial_is_killed(tmp_path, flat, iteration, failures):
    kill = partial(KillTrial, str(tmp_path / "killed"), 1, iteration)
    config = ppo(quick, kill, runners=tune.grid_search([1, 2]), step_s=0.002)
    results = fit(config, tmp_path, iterations=8, checkpoint_every=1, failures=failures)
    baseline, other = (lines(result) for result in results)
    assert (tmp_path / "killed").exists()
    assert len(results.errors) == 1 - failures
    assert len(other) == 8
    check([*baseline, *other], flat)
    published = list((Path(results.experiment_path) / "scaling_baselines").glob("*-1r1e.json"))
    if iteration == 2 and not failures:
        assert not published
        assert all(math.isnan(flat(result)["speedup"]) for result in other)
    else:
        (file,) = published
        assert {flat(result)["baseline_sps"] for result in other} == {json.loads(file.read_text())["steady"]["sps"]}
    if failures:
        assert baseline[-1]["training_iteration"] == 8
        assert {flat(result)["is_baseline"] for result in baseline} == {1.0}


def test_trial_is_restored_from_its_checkpoint(tmp_path, flat):
    config = ppo(partial(quick, baseline_dir=tmp_path / "baselines"), runners=1, step_s=0.002)
    algorithm = config.build_algo()
    before = [algorithm.train() for _ in range(5)]
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    in_place = [algorithm.train(), algorithm.restore_from_path(str(tmp_path / "checkpoint")) or algorithm.train()]
    algorithm.stop()
    (file,) = (tmp_path / "baselines").iterdir()
    published = json.loads(file.read_text())["steady"]["sps"]
    algorithm = Algorithm.from_checkpoint(str(tmp_path / "checkpoint"))
    anew = [algorithm.train() for _ in range(3)]
    algorithm.stop()
    check([*before, *in_place, *anew], flat)
    assert [result["training_iteration"] for result in anew] == [6, 7, 8]
    assert [flat(result)["runners/reported"] for result in [*in_place, *anew]] == [1.0] * 5
    assert [flat(result)["steady/iterations"] for result in anew] == [0.0, 1.0, 2.0]
    assert {flat(result)["baseline_sps"] for result in anew} == {published}
    assert json.loads(file.read_text())["steady"]["sps"] == published


class Rank(RLlibCallback):
    """Ranks the trials in a fixed order."""

    def on_train_result(self, *, result, **kwargs):
        result["rank"] = os.getpid()


def test_pbt_pauses_both_trials_and_clones_a_checkpoint(tmp_path, flat):
    pbt = PopulationBasedTraining(
        metric="rank",
        mode="max",
        time_attr="training_iteration",
        perturbation_interval=5,
        quantile_fraction=0.5,
        hyperparam_mutations={"lr": [1e-3]},
        synch=True,
    )
    config = ppo(partial(quick, reference="0r1e"), Rank)
    results = fit(config, tmp_path, iterations=8, scheduler=pbt, num_samples=2, max_concurrent_trials=2)
    assert not results.errors
    assert [trial.metrics["training_iteration"] for trial in results] == [8, 8]
    assert [trial.metrics["iterations_since_restore"] for trial in results] == [3, 3]
    for trial in results:
        check(lines(trial), flat)
    (file,) = store_files(Path(results.experiment_path) / "scaling_baselines")
    published = json.loads(file.read_text())
    last = {Path(trial.path).name: flat(trial.metrics) for trial in results}
    assert [name for name, scaling in last.items() if scaling["is_baseline"]] == [Path(published["owner"]).name]
    assert {(scaling["comparable"], scaling["baseline_sps"]) for scaling in last.values()} == {(1.0, published["sps"])}


def test_process_is_reused_for_another_trial(tmp_path, flat):
    config = ppo(partial(quick, reference="0r1e")).training(lr=tune.grid_search([1e-3, 1e-4]))
    results = fit(config, tmp_path, trainable=ReusablePPO, iterations=6, reuse_actors=True)
    assert not results.errors
    assert len({trial.metrics["pid"] for trial in results}) == 1
    for trial in results:
        check(lines(trial), flat)
    assert [flat(trial.metrics)["is_baseline"] for trial in results] == [1.0, 0.0]


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


def vanish(place):
    shutil.rmtree(place)


def put_a_file_in_the_way(place):
    shutil.rmtree(place)
    place.write_text("in the way")


def fill_the_disk(place):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))


@pytest.mark.parametrize("fault", [None, vanish, put_a_file_in_the_way, fill_the_disk])
def test_learning_does_not_depend_on_the_storage(tmp_path, learned, flat, fault):
    place = tmp_path / "baselines"
    measure = partial(quick, reference="0r1e", baseline_dir=place)
    trouble = partial(AtIteration, 3, partial(fault or Path.exists, place))
    try:
        results, error = train(cartpole(measure, trouble), 6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert error is None
    assert learning(results) == learned
    check(results, flat)
    assert [flat(result)["is_baseline"] for result in results] == [1.0] * 6
    assert not math.isnan(flat(results[-1])["speedup"])
    if fault is fill_the_disk:
        assert list(place.iterdir()) == []
    elif fault is put_a_file_in_the_way:
        assert place.read_text() == "in the way"
    else:
        assert len(list(place.iterdir())) == 1


# ---------------------------------------------------------------- clocks and results


@pytest.mark.parametrize("jump_s", [-3600.0, -0.3, 0.3, 3600.0])
def test_clock_jumps(monkeypatch, flat, jump_s):
    """The duration of the iteration is unknown or correct; other iterations are unaffected."""
    real, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    turn = partial(AtIteration, 4, lambda: offset.append(offset.pop() + jump_s))
    results, error = train(ppo(partial(quick, baseline_sps=1.0), turn, step_s=0.005), 8)
    assert error is None
    sps = [flat(result)["sps"] for result in results]
    usual = sorted(sps[1:3] + sps[4:])[3]
    assert math.isnan(sps[3]) or sps[3] == pytest.approx(usual, rel=0.3)
    assert not any(math.isnan(each) for each in sps[:3] + sps[4:])
    assert flat(results[-1])["steady/sps"] == pytest.approx(usual, rel=0.3)


class Bulky(RLlibCallback):
    """Adds 10 MB to each result, as one large value and many small ones, and times what runs between its two instances."""

    blob = "☃" * 5_000_000
    entered: float
    seconds: ClassVar[list[float]] = []

    def __init__(self, first):
        super().__init__()
        self._first = first

    def on_train_result(self, *, result, **kwargs):
        if self._first:
            result["blob"] = Bulky.blob
            result["env_runners"].update({f"metric_{number}": float(number) for number in range(200_000)})
            Bulky.entered = time.perf_counter()
        else:
            Bulky.seconds.append(time.perf_counter() - Bulky.entered)


def test_result_of_10_mb(flat):
    results, error = train(ppo(partial(Bulky, True), partial(quick, baseline_sps=1.0), partial(Bulky, False)), 4)
    assert error is None
    check(results, flat)
    assert all(result["blob"] is Bulky.blob and len(result["env_runners"]) > 200_000 for result in results)
    assert min(Bulky.seconds) < 0.005


# ---------------------------------------------------------------- names


HOSTILE = "<script>alert('评')</script> {} %s ☃"


def test_hostile_names(tmp_path, flat):
    name = HOSTILE.encode("ascii", "replace").decode() + "\n../../up"  # Ray accepts only ASCII names for envs
    tune.register_env(name, lambda config: CostlyEnv(config))
    results = fit(
        ppo(partial(quick, reference="0r1e"), env=name, **{name: name}),
        tmp_path / "snow ☃",
        name="評 #1 & co",
        iterations=5,
        trial_name_creator=lambda trial: HOSTILE,
        trial_dirname_creator=lambda trial: "☃ #%20'dir",
    )
    assert not results.errors
    (trial,) = results
    check(lines(trial), flat)
    assert flat(trial.metrics)["is_baseline"] == 1.0
    folder = Path(results.experiment_path) / "scaling_baselines"
    (file,) = store_files(folder)
    assert json.loads(file.read_text())["workload"]["env"].startswith(f"{name} #")
    page = render_page(make_report(read_experiment(results.experiment_path)))
    assert "alert(" in page
    assert "<script>alert" not in page


# ---------------------------------------------------------------- concurrent experiments, and drivers


@ray.remote(num_cpus=0)
def experiment(config, place, name):
    return fit(config, place, name=name, iterations=12, num_samples=2, max_concurrent_trials=2).experiment_path


def test_two_experiments_race_for_one_persistent_baseline(tmp_path, flat):
    lasting = partial(quick, reference="0r1e", baseline_dir=tmp_path / "baselines")
    paths = ray.get([experiment.remote(ppo(lasting, step_s=0.002), tmp_path, name) for name in ("a", "b")])
    trials = [
        [json.loads(line) for line in file.read_text().splitlines()] for path in paths for file in Path(path).glob("*/result.json")
    ]
    assert [len(trial) for trial in trials] == [12] * 4
    for trial in trials:
        check(trial, flat)
    last = [flat(trial[-1]) for trial in trials]
    (file,) = store_files(tmp_path / "baselines")
    final = json.loads(file.read_text())
    # Two that publish within milliseconds both stay references; their measurements are of the same workload.
    (owner,) = [trial[-1] for trial in trials if trial[-1]["trial_id"] in final["owner"]]
    assert flat(owner)["is_baseline"] == 1
    assert {scaling["comparable"] for scaling in last} == {1.0}
    assert final["sps"] in {scaling["baseline_sps"] for scaling in last}


DRIVER = """
import os, sys
from functools import partial
from pathlib import Path
sys.path[:0] = {path!r}
import ray
from fault_envs import KillTrial
from ray import tune
from test_faults import fit, ppo
from tuning import quick
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
place = Path({place!r})
kill = partial(KillTrial, str(place / "driver killed"), 1, 5, os.getpid())
config = ppo(partial(quick, reference="0r1e"), kill, runners=tune.grid_search([0, 1]))
if (place / "experiment").exists():
    tune.Tuner.restore(str(place / "experiment"), "PPO", param_space=config).fit()
else:
    fit(config, place, name="experiment", iterations=8, checkpoint_every=1)
"""


def drive(place):
    path = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    command = [sys.executable, "-c", DRIVER.format(path=path, place=str(place))]
    # By default Tune saves the experiment state about every 10 s, but these trials end sooner.
    environment = os.environ | {"TUNE_GLOBAL_CHECKPOINT_S": "0"}
    return subprocess.run(command, timeout=300, capture_output=True, start_new_session=True, env=environment)


def test_driver_is_killed_and_the_experiment_restored(tmp_path, flat):
    """The baseline of the finished trial is unchanged and is used by the restored trial."""
    assert drive(tmp_path).returncode == -signal.SIGKILL
    (file,) = (tmp_path / "experiment" / "scaling_baselines").glob("*-0r1e.json")
    kept = file.read_bytes()
    done = drive(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert file.read_bytes() == kept
    ended, restored = (
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted((tmp_path / "experiment").glob("*/result.json"))
    )
    check([*ended, *restored], flat)
    assert [trial[-1]["training_iteration"] for trial in (ended, restored)] == [8, 8]
    assert restored[-1]["iterations_since_restore"] < 8
    assert {flat(result)["baseline_sps"] for result in restored} == {json.loads(kept)["sps"]}
