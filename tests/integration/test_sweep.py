"""Real sweeps, of realistic configs on realistic clusters."""

import logging
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

pytest.importorskip("ray")

import ray
from envs import CostlyEnv, Simulator
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.tune.registry import ENV_CREATOR, _global_registry
from tuning import costly, on_the_old_stack

from rl_scaling_callback import Goal, ScalingCallback, sweep
from rl_scaling_callback.analysis.race import Grid
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.sweeping import cluster as clusters
from rl_scaling_callback.sweeping import host as hosts
from rl_scaling_callback.sweeping.cluster import at_scale, reserve
from rl_scaling_callback.sweeping.config_file import load_config, write_config
from rl_scaling_callback.sweeping.host import Host
from rl_scaling_callback.sweeping.sweep import grid_of
from rl_scaling_callback.sweeping.user_callbacks import learner_threads_of, with_learner_threads

pytestmark = pytest.mark.usefixtures("cluster")


class Deadly(CostlyEnv):
    """An env that kills its process if it has more than `most` of them, like a crashing simulator."""

    held = 0

    def __init__(self, config):
        super().__init__(config)
        Deadly.held += 1
        if Deadly.held > config["most"]:
            os._exit(1)

    def close(self):
        Deadly.held -= 1


class Mine(RLlibCallback):
    """A user's callback."""


class Single(CostlyEnv):
    """An env that can exist once per process, such as one behind a port."""

    exists = False

    def __init__(self, config):
        if Single.exists:
            raise RuntimeError("the port is taken")
        Single.exists = True
        super().__init__(config)


def run(config, place, **options):
    """Return the report of a sweep, and its messages."""
    said = []
    options = {"runners": [1, 2], "envs": [1, 2], "budget_minutes": 0.1, "show": lambda report: None, **options}
    return sweep(config, Goal("fast"), page=place / "page.html", say=said.append, **options), said


def measured(report):
    return {each.scale for each in report.studies[0].configurations}


GRID = {Scale(1, 1), Scale(1, 2), Scale(2, 1), Scale(2, 2)}


def odd(config):
    """Add what users have in their configs."""
    config.env_runners(num_env_runners=0, num_cpus_per_env_runner=0).callbacks([Mine, partial(ScalingCallback, probe=True)])
    return config.evaluation(evaluation_interval=2, evaluation_duration=20, evaluation_duration_unit="timesteps")


def test_sweep_returns_a_config_and_writes_a_page(tmp_path):
    shown, standings = [], []
    config = odd(costly(batch=40, step_s=0.01))
    report, said = run(config, tmp_path, budget_minutes=0.2, show=shown.append, progress=standings.append)
    choice = report.studies[0].recommendation.choice
    assert (report.config.num_env_runners, choice.scale.num_env_runners) == (2, 2)
    assert report.config.evaluation_interval == 2
    assert choice.cpus == 1.0
    assert shown
    assert {row.scale for row in standings[-1].rows} == measured(report) == GRID
    speedups = {each.scale: each.speedup for each in report.studies[0].configurations}
    assert speedups[Scale(2, 1)] == pytest.approx(2.0, rel=0.2)
    assert speedups[Scale(1, 2)] == pytest.approx(1.0, rel=0.2)
    assert learner_threads_of(report.config) is None  # env runners without CPUs leave the learner one
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert said[-1] == f"Full report: {tmp_path / 'page.html'}"
    assert "<iframe" in report._repr_html_()


@pytest.mark.slow
def test_env_that_exists_once_per_process_is_trained(tmp_path):
    made, said = run(costly(Single, batch=40, step_s=0.02), tmp_path, budget_minutes=0.5)
    assert any("the port is taken" in text and "Training each configuration" in text for text in said)
    choice = made.studies[0].recommendation.choice
    assert (choice.scale, choice.speedup) == (Scale(2, 1), pytest.approx(2.0, rel=0.3))
    (left_out,) = made.experiment.left_out
    assert left_out.name == "1r×2e"
    assert choice.losses


@pytest.mark.release
def test_asynchronous_algorithm_is_trained_with_short_iterations(tmp_path):
    config = IMPALAConfig().environment(CostlyEnv, env_config={"step_s": 0.01}).training(train_batch_size_per_learner=50)
    made, said = run(config, tmp_path, envs=[1], budget_minutes=0.01)
    assert "Sampling and learning overlap" in said[0]
    (study,) = made.studies
    assert study.study.timed_iterations
    # One env that waits 10 ms per step, and an Algorithm whose busy loop takes a core.
    assert 30 < study.configurations[0].sps < 105


@pytest.mark.release
def test_old_api_stack_is_trained(tmp_path):
    made, said = run(on_the_old_stack(costly(batch=40, step_s=0.01)), tmp_path, envs=[1], budget_minutes=0.3)
    assert "old API stack" in said[0]
    assert made.studies[0].recommendation.choice.scale == Scale(2, 1)


def test_grid_that_can_never_be_scheduled_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"never run 8 env runners: 8 need 9 CPU, but the cluster has 5; 1, 2 fit"):
        run(costly(), tmp_path, runners=[1, 2, 8])


@pytest.mark.parametrize(("given", "used"), [(10.0, 2.0), (1.0, 1.0), (None, 0)])
def test_iterations_of_a_minimum_duration_are_shortened(given, used):
    config = IMPALAConfig().environment(CostlyEnv).reporting(min_time_s_per_iteration=given)
    assert hosts._timed(config).min_time_s_per_iteration == used


@pytest.mark.parametrize(
    ("given", "others", "ours", "options"),
    [
        ([], 0, 0, {}),
        ([Mine], 1, 1, {}),
        ([ScalingCallback, Mine], 1, 0, {}),
        ([Mine, partial(ScalingCallback, probe=True, learner_threads=4)], 1, 1, {"probe": True}),
    ],
)
def test_threads_are_set_by_the_callback_of_the_user_if_there_is_one(given, others, ours, options):
    config = costly()
    if given:
        config.callbacks(given if len(given) > 1 else given[0])
    tuned = with_learner_threads(config, 2)
    callback = tuned.callbacks_class.pop(ours)
    assert (callback.func, callback.keywords) == (ScalingCallback, {**options, "learner_threads": 2})
    assert isinstance(callback(), ScalingCallback)
    assert tuned.callbacks_class == [Mine] * others
    assert learner_threads_of(config) == (4 if options else None)


def test_callbacks_of_the_user_stay_beside_the_measuring_one():
    *others, measuring = hosts._timed(odd(costly())).callbacks_class
    assert others == [Mine]
    assert measuring.func is ScalingCallback
    old = on_the_old_stack(costly())
    assert hosts._timed(old).callbacks_class.func is ScalingCallback
    assert hosts._timed(old.callbacks(Mine)).callbacks_class is Mine


def test_measuring_gives_no_advice(caplog):
    """Advice about baselines is for users' trials. Here, the process of the Algorithm is this one."""
    logger = logging.getLogger("rl_scaling_callback")
    level, host = logger.level, hosts._Host()
    try:
        host.start(hosts._timed(costly(batch=20).env_runners(num_env_runners=0)))
        for _ in range(8):
            host.train(Scale(0, 1), probes=False)
        host.stop()
    finally:
        logger.setLevel(level)
    assert "baseline" not in caplog.text


def test_learner_updates_with_the_threads_to_measure():
    """The process of the Algorithm is this one."""
    import torch

    before, host = torch.get_num_threads(), hosts._Host()
    logger = logging.getLogger("rl_scaling_callback")
    level = logger.level
    try:
        host.start(hosts._timed(costly(batch=20).env_runners(num_env_runners=1)))
        assert host.prepare(probes=True, threads=before + 1) == before + 1
        host.train(Scale(1, 1), probes=True, threads=before + 2)
        assert torch.get_num_threads() == before + 2
        host.train(Scale(1, 2), probes=True)
        assert torch.get_num_threads() == before + 2
        host.stop()
    finally:
        torch.set_num_threads(before)
        logger.setLevel(level)


def test_envs_alive_at_a_time_and_after_a_sweep(tmp_path):
    host = Host(at_scale(costly(Simulator, batch=20, folder=str(tmp_path)), Scale(1, 1)))
    alive = []
    try:
        for scale in (Scale(1, 1), Scale(1, 2), Scale(1, 3)):
            assert host.probe(scale).env_steps > 0
            assert host.train(scale).env_steps >= 20
            alive.append(len(list(tmp_path.iterdir())))
    finally:
        host.close()
    assert max(alive) == 1 + 1 + 2 + 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_env_that_kills_its_process_is_left_out(tmp_path):
    made, _ = run(costly(Deadly, batch=40, step_s=0.005, most=4), tmp_path, runners=[1], envs=[1, 2, 4, 8], budget_minutes=0.3)
    assert measured(made) == {Scale(1, 1), Scale(1, 2)}
    reasons = dict(made.experiment.left_out)
    assert reasons.keys() == {"1r×4e", "1r×8e"}
    assert "died" in reasons["1r×4e"]
    assert reasons["1r×8e"].startswith("not tried after 1r×4e")


def test_sweep_waits_for_busy_resources_and_then_fails(cluster):
    request = costly().algo_class.default_resource_request(at_scale(costly(), Scale(3, 1)))
    said = []
    first = reserve(request, said.append)
    try:
        assert not said
        with pytest.raises(TimeoutError, match=r"4 CPUs are needed, and 1 are free"):
            reserve(request, said.append, longest_s=1.0)
        assert len(said) == 1
    finally:
        ray.util.remove_placement_group(first)


def test_warns_if_the_cluster_fits_fewer_env_runners_than_cores(monkeypatch):
    monkeypatch.setattr(clusters, "cores", lambda: 64)
    said = []
    assert grid_of(costly(), "auto", [1, 3], said.append) == Grid((1, 2, 4), (1, 3))
    assert ["64 cores but fits only 4 env runners" in text for text in said] == [True]


def test_written_config_sets_the_threads_of_the_learner(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "before")
    (tmp_path / "plain_config.py").write_text("from ray.rllib.algorithms.ppo import PPOConfig\nconfig = PPOConfig()\n")
    write_config(tmp_path / "tuned.py", f"{tmp_path / 'plain_config.py'}:config", Scale(2, 4), "fastest", 2)
    tuned = load_config(f"{tmp_path / 'tuned.py'}:config")
    assert (tuned.num_env_runners, tuned.num_envs_per_env_runner, learner_threads_of(tuned)) == (2, 4, 2)


CONFIG = """
from envs import CostlyEnv
from ray import tune
from tuning import costly, on_the_old_stack

class Local(CostlyEnv):
    pass

tune.register_env("registered-in-a-file", lambda config: Local(config))
config = costly("registered-in-a-file", batch=20, step_s=0.01)
"""


def test_worker_can_create_an_env_registered_in_the_config_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    (tmp_path / "a_users_config.py").write_text(CONFIG)
    load_config(f"{tmp_path / 'a_users_config.py'}:config")

    @ray.remote
    def make():
        from ray.rllib.env.env_context import EnvContext

        return type(_global_registry.get(ENV_CREATOR, "registered-in-a-file")(EnvContext({}, 1))).__name__

    assert ray.get(make.remote()) == "Local"


@pytest.mark.release
def test_ctrl_c_in_a_terminal_shows_the_results_so_far(tmp_path):
    (tmp_path / "my_config.py").write_text(CONFIG)
    command = [sys.executable, "-m", "rl_scaling_callback", "sweep", f"{tmp_path / 'my_config.py'}:config", "--budget", "5"]
    command += ["--runners", "1", "--goal", "fastest", "--page", str(tmp_path / "page.html"), "--write", str(tmp_path / "tuned.py")]
    environment = os.environ | {"RAY_ADDRESS": "local", "COLUMNS": "80"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, stderr=log, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True, cwd="/"
        )
        deadline = time.monotonic() + 120
        while "Round 2" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)  # to all processes, as a terminal does
        shown = process.communicate(timeout=60)[0]
    assert process.returncode == 130, (tmp_path / "log").read_text()
    assert "Interrupted:" in (tmp_path / "log").read_text()
    assert "config.env_runners(" in shown
    tuned = load_config(f"{tmp_path / 'tuned.py'}:config")
    assert tuned.num_env_runners == 1
