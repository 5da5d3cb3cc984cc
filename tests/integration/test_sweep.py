"""Real sweeps, of realistic configs on realistic clusters."""

import logging
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import ray
import torch
from envs import CostlyEnv, Simulator
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.tune.registry import ENV_CREATOR, _global_registry
from tuning import costly, on_the_old_stack

from rl_scaling_callback import Goal, ScalingCallback, sweep
from rl_scaling_callback.core.formulas import interval
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.sweeping import by_probes, by_training
from rl_scaling_callback.sweeping import host as hosts
from rl_scaling_callback.sweeping.host import Host, reserve
from rl_scaling_callback.sweeping.task import at_scale, learner_threads_of, load_config, with_learner_threads, write_config

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


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Rounds of probes end early."""
    monkeypatch.setattr(by_probes, "ROUNDS_S", 3.0)
    monkeypatch.setattr(by_probes, "_DISTURBED_S", 6.0)


def run(config, place, **options):
    """Return the report of a sweep, and its messages."""
    said = []
    options = {"runners": [1, 2], "envs": [1, 2], "show": lambda report: None, **options}
    return sweep(config, Goal("fast"), page=place / "page.html", say=said.append, **options), said


def measured(report):
    return {each.scale for each in report.studies[0].configurations}


def impala():
    return IMPALAConfig().environment(CostlyEnv, env_config={"step_s": 0.01}).training(train_batch_size_per_learner=50)


def odd(config):
    """Add what users have in their configs."""
    config.env_runners(num_env_runners=0, num_cpus_per_env_runner=0).callbacks([Mine, partial(ScalingCallback, probe=True)])
    return config.evaluation(evaluation_interval=2, evaluation_duration=20, evaluation_duration_unit="timesteps")


def test_sweep_returns_a_config_and_writes_a_page(tmp_path):
    shown = []
    config = odd(costly(batch=40, step_s=0.01))
    report, said = run(config, tmp_path, show=shown.append)
    choice = report.studies[0].recommendation.choice
    assert (report.config.num_env_runners, choice.scale.num_env_runners) == (2, 2)
    assert report.config.evaluation_interval == 2
    assert choice.cpus == 1.0
    assert shown
    assert measured(report) == {Scale(1, 1), Scale(1, 2), Scale(2, 1), Scale(2, 2)}
    for each in report.studies[0].configurations:
        low, high = interval(each.speedup, each.speedup_error)  # other tests take cores away
        assert low < 1.2 * each.scale.num_env_runners, each
        assert high > 0.8 * each.scale.num_env_runners, each
    assert learner_threads_of(report.config) is None  # env runners without CPUs leave the learner one
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert said[-1] == f"Full report: {tmp_path / 'page.html'}"
    assert "<iframe" in report._repr_html_()


@pytest.mark.slow
def test_env_that_exists_once_per_process_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(by_training, "_REPEATS", 1)
    monkeypatch.setattr(by_training, "_MIN_S", 0.5)
    made, said = run(costly(Single, batch=40, step_s=0.02), tmp_path)
    assert any("the port is taken" in text and "Training each configuration" in text for text in said)
    choice = made.studies[0].recommendation.choice
    assert (choice.scale, choice.speedup) == (Scale(2, 1), pytest.approx(2.0, rel=0.3))
    (left_out,) = made.experiment.left_out
    assert left_out.name == "1r×2e"
    assert choice.losses


@pytest.mark.release
@pytest.mark.parametrize(
    ("config", "reason"),
    [(impala, "sampling overlaps learning"), (lambda: on_the_old_stack(costly(batch=40, step_s=0.01)), "old API stack")],
)
def test_what_probes_cannot_predict_is_trained(tmp_path, config, reason):
    made, said = run(config(), tmp_path, envs=[1])
    assert reason in said[0]
    (study,) = made.studies
    assert study.study.steps_vary == (config is impala)
    # One env that waits 10 ms per step, and in IMPALA a busy loop that takes a core.
    assert 30 < study.configurations[0].sps < 105
    assert config is impala or study.recommendation.choice.scale == Scale(2, 1)


@pytest.mark.parametrize(("given", "used"), [(10.0, 2.0), (1.0, 1.0), (None, 0)])
def test_iterations_of_a_minimum_duration_are_shortened(given, used):
    config = IMPALAConfig().environment(CostlyEnv).reporting(min_time_s_per_iteration=given)
    assert hosts._timed(config).min_time_s_per_iteration == used


class Fixed(ScalingCallback):
    """A subclass with options of its own only, which is left alone."""

    def __init__(self, name="mine"):
        super().__init__(probe=False)


@pytest.mark.parametrize(
    ("given", "tuned"),
    [
        ([], [(ScalingCallback, {"learner_threads": 2})]),
        ([Mine], [(Mine, None), (ScalingCallback, {"learner_threads": 2})]),
        ([ScalingCallback, Mine], [(ScalingCallback, {"learner_threads": 2}), (Mine, None)]),
        ([partial(ScalingCallback, probe=True, learner_threads=4)], [(ScalingCallback, {"probe": True, "learner_threads": 2})]),
        ([partial(Fixed, name="other")], [(Fixed, {"name": "other"})]),
    ],
)
def test_threads_are_set_by_the_callback_of_the_user_if_there_is_one(given, tuned):
    config = costly().callbacks(given) if given else costly()
    callbacks = with_learner_threads(config, 2).callbacks_class
    assert [(getattr(each, "func", each), getattr(each, "keywords", None)) for each in callbacks] == tuned
    assert all(isinstance(each(), RLlibCallback) for each in callbacks)


def test_callbacks_of_the_user_stay_beside_the_measuring_one():
    *others, measuring = hosts._timed(odd(costly())).callbacks_class
    assert others == [Mine]
    assert measuring.func is ScalingCallback
    old = on_the_old_stack(costly())
    assert hosts._timed(old).callbacks_class.func is ScalingCallback
    assert hosts._timed(old.callbacks(Mine)).callbacks_class is Mine


def test_learner_updates_with_the_threads_to_measure_and_without_advice(caplog):
    """Advice about baselines is for users' trials. Here, the process of the Algorithm is this one."""
    before, host = torch.get_num_threads(), hosts._Host()
    logger = logging.getLogger("rl_scaling_callback")
    level = logger.level
    try:
        config = costly(batch=20).env_runners(num_env_runners=1)
        host.start(hosts._timed(config.callbacks(partial(ScalingCallback, learner_threads=before + 1))))
        assert host.prepare(probes=True) == before + 1
        host.train(Scale(1, 1), threads=before + 2)
        assert torch.get_num_threads() == before + 2
        host.train(Scale(1, 2))
        assert torch.get_num_threads() == before + 2
        host.stop()
    finally:
        torch.set_num_threads(before)
        logger.setLevel(level)
    assert "baseline" not in caplog.text


def test_no_env_lives_after_a_sweep(tmp_path):
    host = Host(at_scale(costly(Simulator, batch=20, folder=str(tmp_path)), Scale(1, 1)))
    try:
        for scale in (Scale(1, 1), Scale(1, 3)):
            assert host.probe(scale).env_steps > 0
            assert host.train(scale).env_steps >= 20
        assert len(list(tmp_path.iterdir())) == 1 + 1 + 3
    finally:
        host.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.release
def test_env_that_kills_its_process_is_left_out(tmp_path):
    made, _ = run(costly(Deadly, batch=40, step_s=0.005, most=4), tmp_path, runners=[1], envs=[1, 2, 4, 8])
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


CONFIG = """
from envs import CostlyEnv
from ray import tune
from tuning import costly, on_the_old_stack

class Local(CostlyEnv):
    pass

tune.register_env("registered-in-a-file", lambda config: Local(config))
config = costly("registered-in-a-file", batch=20, step_s=0.01)
"""


def test_worker_can_create_an_env_registered_in_the_file_of_a_tuned_config(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    (tmp_path / "a_users_config.py").write_text(CONFIG)
    write_config(tmp_path / "tuned.py", f"{tmp_path / 'a_users_config.py'}:config", Scale(2, 4), "fastest", 2)
    tuned = load_config(f"{tmp_path / 'tuned.py'}:config")
    assert (tuned.num_env_runners, tuned.num_envs_per_env_runner, learner_threads_of(tuned)) == (2, 4, 2)

    @ray.remote
    def make():
        from ray.rllib.env.env_context import EnvContext

        return type(_global_registry.get(ENV_CREATOR, "registered-in-a-file")(EnvContext({}, 1))).__name__

    assert ray.get(make.remote()) == "Local"


@pytest.mark.release
def test_ctrl_c_in_a_terminal_shows_the_results_so_far(tmp_path):
    (tmp_path / "my_config.py").write_text(CONFIG)
    start = "from rl_scaling_callback.cli import main; main()"
    command = [sys.executable, "-c", start, "sweep", f"{tmp_path / 'my_config.py'}:config"]
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
