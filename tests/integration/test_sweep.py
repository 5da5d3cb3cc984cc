"""Sweeps by trials in real Tune runs."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("ray")

from envs import CostlyEnv, FailingEnv
from ray import tune
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from tuning import costly

from rl_scaling_callback import Goal, ScalingCallback, ScalingSearcher, SteadyStopper, read_experiment, sweep
from rl_scaling_callback.baseline.model import Baseline
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady, SteadyRule, SteadyWindow
from rl_scaling_callback.core.workload import Workload
from rl_scaling_callback.report.decisions import code_text, reason_text
from rl_scaling_callback.rllib.hardware import Host
from rl_scaling_callback.sweeping.cluster import Node
from rl_scaling_callback.sweeping.config_file import load_config
from rl_scaling_callback.sweeping.instrument import instrumented
from rl_scaling_callback.sweeping.placement import alike, cpus_of
from rl_scaling_callback.sweeping.reuse import lasting_runs, sought_workload
from rl_scaling_callback.sweeping.search import TrialOutcome
from rl_scaling_callback.sweeping.trials import _measured_before
from rl_scaling_callback.sweeping.watchdog import Watchdog

QUICK = SteadyRule(warmup_iterations=1, min_iterations=3, max_iterations=4)

pytestmark = pytest.mark.usefixtures("cluster")


def ppo(env=CostlyEnv, step_s=0.05, **costs):
    """PPO with iterations of 1 s on one env runner, in steps much longer than RLlib's overhead."""
    return costly(env, 20, step_s=step_s, **costs)


def run(place, config, **options):
    """Sweep without repeating disturbed trials: the other programs may be concurrent tests."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rl_scaling_callback.sweeping.searcher.worth_repeating", lambda trials: None)
        made = sweep(
            config, storage_path=place, engine="trials", rule=QUICK, say=said.append, **{"show": lambda report: None, **options}
        )
    return made, said


def measured(place):
    return Counter(run.scale for study in read_experiment(place / "scaling_sweep", rule=QUICK).studies for run in study.runs)


@pytest.fixture(scope="module")
def swept(cluster, tmp_path_factory):
    place = tmp_path_factory.mktemp("swept")
    return (place, *run(place, ppo(), runners=[1, 2], envs=[1], goal=Goal("fast"), max_trials=2))


def test_baseline_is_measured_first_and_sleeping_envs_scale(swept):
    place, made, said = swept
    assert [text for text in said if "measuring" in text] == ["Trial 1: measuring 1r×1e", "Trial 2: measuring 2r×1e"]
    assert measured(place) == {Scale(1, 1): 1, Scale(2, 1): 1}
    (study,) = made.studies
    one, two = (each.runs[0].steady for each in sorted(study.configurations, key=lambda each: each.scale.num_env_runners))
    # test_known_scaling checks how well it scales; here other tests may run at the same time.
    assert two.sps > one.sps
    choice = study.recommendation.choice.scale
    assert choice in (Scale(1, 1), Scale(2, 1))
    assert f"num_env_runners={choice.num_env_runners}" in code_text(study.recommendation)
    assert (place / "scaling_sweep" / "scaling_report.html").exists()


def test_resumed_sweep_measures_nothing_twice(swept):
    place, made, said = swept
    before = measured(place)
    again, said = run(place, ppo(), runners=[1, 2], envs=[1], goal=Goal("fast"), max_trials=2, resume=True)
    assert measured(place) == before
    assert said == ["2 trials measured before: 1r×1e, 2r×1e"]
    assert again.studies[0].recommendation.choice.scale == made.studies[0].recommendation.choice.scale


@pytest.mark.slow
def test_measurements_of_another_experiment_are_reused(swept, tmp_path):
    options = {"goal": Goal("fast"), "max_trials": 5, "reuse": [swept[0] / "scaling_sweep"]}
    made, said = run(tmp_path, ppo(), runners=[1, 2], envs=[1, 2], **options)
    assert said[0] == "2 trials measured before: 1r×1e, 2r×1e"
    assert "measuring 1r×1e" not in " ".join(said)
    assert {Scale(1, 1), Scale(2, 1)} < {each.scale for each in made.studies[0].configurations}


@pytest.mark.slow
def test_lasting_baseline_is_reused(tmp_path):
    lasting = ppo().callbacks(partial(ScalingCallback, baseline_dir=tmp_path / "baselines"))
    run(tmp_path / "first", lasting, runners=[1], envs=[1], max_trials=1)
    made, said = run(tmp_path / "again", lasting, runners=[2], envs=[1], max_trials=2)
    assert said[:2] == ["1 trial measured before: 1r×1e", "Trial 2: measuring 2r×1e"]
    assert {each.scale for each in made.studies[0].configurations} == {Scale(1, 1), Scale(2, 1)}
    # Another config with the same baseline_dir. There may be nothing left to measure.
    shown = []
    made, said = run(
        tmp_path / "all", ppo(), runners=[1], envs=[1], max_trials=1, reuse=[tmp_path / "baselines"], show=shown.append
    )
    assert said == ["1 trial measured before: 1r×1e"]
    assert shown == [replace(made, config=None)]
    assert made.studies[0].recommendation.choice.scale == Scale(1, 1)


def test_another_workload_is_not_reused(swept, tmp_path):
    other = ppo().training(train_batch_size_per_learner=10, minibatch_size=10)
    with pytest.raises(ValueError, match=r"no trial of this workload: .*train_batch_size: 10 here, 20 there"):
        run(tmp_path, other, runners=[1], envs=[1], reuse=[swept[0] / "scaling_sweep"])


def test_existing_experiment_is_not_overwritten(swept):
    with pytest.raises(ValueError, match="already contains a sweep"):
        run(swept[0], ppo(), runners=[1], envs=[1])


def test_resuming_another_workload_is_rejected(swept):
    other = ppo().training(train_batch_size_per_learner=10, minibatch_size=10)
    with pytest.raises(ValueError, match=r"contains a sweep of another workload: .*train_batch_size: 10 here, 20 there"):
        run(swept[0], other, runners=[1], envs=[1], resume=True)
    elsewhere = sought_workload(ppo(), Host("elsewhere", "another CPU", 64)).logged
    with pytest.raises(ValueError, match=r"cores: 64 here, .*cpu: \"another CPU\" here"):
        _measured_before(str(swept[0] / "scaling_sweep"), elsewhere, QUICK)


def test_baselines_of_a_named_workload_are_found(tmp_path):
    mine, steady = Workload({"name": "mine"}, vouched=True), SteadyWindow(SteadyRule(warmup_iterations=0))
    steady.add(1000, 2.0)
    read = steady.read()
    baseline = Baseline(read.sps, Scale(1, 1), mine, "someone", 1.0, 1, read.env_steps, read.seconds, converged=True)
    (tmp_path / f"baseline-{mine.id}-1r1e.json").write_text(baseline.to_json())
    assert [run.steady.sps for run in lasting_runs(mine, tmp_path)] == [500.0]
    assert lasting_runs(Workload({"name": "another's"}, vouched=True), tmp_path) == []


def test_config_file_can_import_modules_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "before")
    (tmp_path / "beside_my_config.py").write_text("from ray.rllib.algorithms.ppo import PPOConfig\n")
    (tmp_path / "my_config.py").write_text("from beside_my_config import PPOConfig\nconfig = PPOConfig\n")
    assert isinstance(load_config(f"{tmp_path / 'my_config.py'}:config"), PPOConfig)
    assert os.environ["PYTHONPATH"] == f"{tmp_path}{os.pathsep}before"


def test_cpus_follow_the_env_runners_request():
    assert cpus_of(ppo().env_runners(num_cpus_per_env_runner=0.5)) == (1.0, 0.5)
    assert cpus_of(ppo().env_runners(num_cpus_per_env_runner=2).resources(num_cpus_for_main_process=3)) == (3.0, 2.0)


@pytest.mark.parametrize(("given", "used"), [(10.0, 2.0), (1.0, 1.0), (None, None)])
def test_iterations_of_a_minimum_duration_are_shortened(given, used):
    config = IMPALAConfig().environment(CostlyEnv).reporting(min_time_s_per_iteration=given)
    shorter = instrumented(config, QUICK, 60.0)
    assert shorter.min_time_s_per_iteration == used
    here = Host("here", "a CPU", 4)
    assert sought_workload(shorter, here) == sought_workload(config, here)


def test_watchdog_restarts_after_each_result_and_ends_hung_trials(monkeypatch):
    ended = []
    monkeypatch.setattr(Watchdog, "_end", lambda self: ended.append(time.monotonic()))
    algorithm = ppo(step_s=0.0).callbacks(partial(Watchdog, 3.0)).env_runners(num_env_runners=0).build_algo()
    built = time.monotonic()
    try:
        while time.monotonic() < built + 4:
            algorithm.train()
        assert not ended, "RLlib makes the callback for the local env runner too"
        time.sleep(3.5)
        assert len(ended) == 1
    finally:
        algorithm.stop()


def test_grid_that_can_never_be_scheduled_is_rejected(tmp_path):
    with pytest.raises(
        ValueError, match=r"1 of 3 configurations can never be scheduled.* 8r×1e.* 9 CPU.*has 5.*1, 2 env runners fit"
    ):
        run(tmp_path, ppo(), runners=[1, 2, 8], envs=[1])


def node(name, cpus, cores=8, cpu="A", **more):
    return Node(Host(name, cpu, cores), {"CPU": cpus, "memory": 1e9, f"node:{name}": 1.0, **more}, f"node:{name}")


def test_trials_run_concurrently_on_nodes_of_one_kind():
    grid = [Scale(r, e) for r in (1, 2, 4) for e in (1, 2)]
    small, large = [node("a", 4.0), node("b", 4.0)], [node("c", 8.0), node("d", 8.0)]
    assert alike(ppo(), grid, [*small, *large]) == large
    assert alike(ppo(), grid[:4], [*small, *large, node("e", 4.0)]) == [*small, node("e", 4.0)]
    # The larger of equally many. Nodes of one kind also have equal CPUs, and resources are those declared to Ray.
    assert alike(ppo(), grid[:4], [*small, *large]) == large
    assert alike(ppo(), grid, [large[0], node("d", 8.0, cpu="B"), node("e", 8.0, cores=16)]) == [large[0]]
    assert alike(ppo(), grid, small) == []
    assert alike(ppo().resources(placement_strategy="SPREAD"), grid, large) == []


def test_searcher_keeps_all_slots_busy():
    searcher = ScalingSearcher([1, 2, 4], [1, 2, 4], slots=[{"on": "a"}, {"on": "b"}], max_trials=3)
    assert searcher.suggest("one") == {"num_env_runners": 1, "num_envs_per_env_runner": 1, "on": "a"}
    assert searcher.suggest("two") is None, "it should wait for the baseline"
    for iteration in range(1, 9):
        result = {"training_iteration": iteration, "time_this_iter_s": 1.0, "env_runners/num_env_steps_sampled": 100}
        searcher.on_trial_result("one", {**result, "num_healthy_workers": 1})
    searcher.on_trial_complete("one")
    two, three = searcher.suggest("two"), searcher.suggest("three")
    assert [two["on"], three["on"]] == ["a", "b"]
    assert {**two, "on": ""} != {**three, "on": ""}
    assert searcher.started == 3
    assert searcher.suggest("four") is None
    searcher.on_trial_complete("two", error=True)
    assert searcher.suggest("four") is None, "max_trials is reached, and one still runs"
    searcher.on_trial_complete("three", error=True)
    assert searcher.suggest("four") == ScalingSearcher.FINISHED


@pytest.mark.slow
@pytest.mark.parametrize("how", ["crash", pytest.param("hang", marks=pytest.mark.release)])
def test_failed_configuration_is_left_out(tmp_path, how):
    made, said = run(
        tmp_path, ppo(FailingEnv, how=how, worker=2), runners=[1, 2], envs=[1], goal="fastest", longest_wait_s=30, max_trials=3
    )
    assert any(text.startswith("2r×1e failed") for text in said)
    assert str(made.studies[0].recommendation.choice.scale) == "1r×1e"
    assert "2r×1e" in [each.name for each in made.experiment.left_out]


@pytest.mark.slow
def test_report_of_a_sweep_without_measurements(tmp_path):
    made, _ = run(tmp_path, ppo(FailingEnv, how="crash", worker=1), runners=[1], envs=[1], longest_wait_s=60)
    assert made.studies[0].recommendation.choice is None
    assert reason_text(made.studies[0].recommendation).startswith("No configuration was measured")
    assert "1r×1e" in [each.name for each in made.experiment.left_out]


def stop(processes):
    while processes:
        process = processes.pop()
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.alone
def test_disturbed_trial_is_repeated(tmp_path):
    said, neighbours = [], []

    def say(text):
        said.append(text)
        if "measuring 2r×1e" in text and "again" not in text:
            neighbours.extend(subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2))
        elif "cores busy meanwhile" in text:
            stop(neighbours)

    try:
        made = sweep(
            ppo(),
            runners=[1, 2],
            envs=[1],
            goal=Goal("fast"),
            max_trials=5,
            engine="trials",
            storage_path=tmp_path,
            rule=QUICK,
            say=say,
            show=lambda report: None,
        )
    finally:
        stop(neighbours)
    flagged = said.index(next(text for text in said if text.startswith("2r×1e: other programs kept")))
    assert said[flagged + 1].endswith("measuring 2r×1e again")
    choice = made.studies[0].recommendation.choice
    assert str(choice.scale) == "2r×1e"
    assert choice.notes[-1] == "1 more run left out because of interference from other programs"
    others = sorted(run.others for run in made.experiment.studies[0].runs if run.scale == choice.scale)
    assert sorted(run.others for run in choice.runs) == others[:-1]


@pytest.mark.slow
def test_searcher_and_stopper_in_a_user_defined_tuner(tmp_path):
    searcher = ScalingSearcher([1, 2], [1], "fastest", rule=QUICK, max_trials=2)
    results = tune.Tuner(
        "PPO",
        param_space=ppo(),
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1),
        run_config=tune.RunConfig(storage_path=str(tmp_path), stop=SteadyStopper(QUICK), verbose=0),
    ).fit()
    assert [trial.scale for trial in searcher.trials] == [Scale(1, 1), Scale(2, 1)]
    assert not results.errors
    for trial, result in zip(searcher.trials, results, strict=True):
        assert 4 <= result.metrics["training_iteration"] <= 5
        steps = result.metrics["env_runners"]["num_env_steps_sampled"]
        assert trial.steady.sps == pytest.approx(steps / result.metrics["time_this_iter_s"], rel=0.3)


@pytest.mark.parametrize(
    ("config", "known"),
    [
        ({"broadcast_interval": 1, "min_time_s_per_iteration": 10}, (True, True)),
        ({"min_time_s_per_iteration": 1}, (False, True)),
        ({"min_time_s_per_iteration": None}, (False, False)),
    ],
)
def test_searcher_detects_overlapping_and_timed_iterations(config, known):
    searcher = ScalingSearcher([1, 2], [1])
    searcher.suggest("one")
    result = {"training_iteration": 1, "time_this_iter_s": 1.0, "env_runners/num_env_steps_sampled": 100, "config": config}
    searcher.on_trial_result("one", result)
    assert (searcher.search.overlaps, searcher.search.timed) == known


def test_searcher_state_is_saved_and_restored(tmp_path):
    steady = Steady(100.0, 3.0, 5, 5000.0, 50.0, True, True, {"learn": 2.0})
    trials = [TrialOutcome(Scale(1, 1), 60.0, steady, others=0.1), TrialOutcome(Scale(2, 1), 12.0, None, others=0.2)]
    ScalingSearcher([1, 2], [1], trials=trials).save(str(tmp_path / "state"))
    restored = ScalingSearcher([1, 2], [1])
    restored.restore(str(tmp_path / "state"))
    assert restored.trials == trials


CONFIG = """
import sys
sys.path.insert(0, {here!r})
from test_sweep import ppo
config = ppo
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [pytest.param(signal.SIGKILL, marks=pytest.mark.release), signal.SIGINT])
def test_killed_or_interrupted_sweep_can_be_resumed(tmp_path, how):
    (tmp_path / "my_config.py").write_text(CONFIG.format(here=str(Path(__file__).parent)))
    command = [sys.executable, "-m", "rl_scaling_callback", "sweep", f"{tmp_path / 'my_config.py'}:config"]
    command += ["--runners", "1,2", "--envs", "1", "--goal", "fastest", "--storage-path", str(tmp_path), "--max-trials", "2"]
    command += ["--engine", "trials"]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(command, stderr=log, stdout=log, env=environment, start_new_session=True)
        deadline = time.monotonic() + 240
        while "measuring 2r×1e" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
            time.sleep(0.5)
        first.send_signal(how)
        assert first.wait(240) == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    said = (tmp_path / "log").read_text()
    assert ("Interrupted while measuring 2r×1e" in said) == (how == signal.SIGINT)
    assert "Configuration for experiment" not in said, "Tune's own output"
    assert measured(tmp_path)[Scale(1, 1)] == 1
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=300, env=environment, check=True)
    assert "1 trial measured before: 1r×1e" in again.stderr
    assert measured(tmp_path) == {Scale(1, 1): 1, Scale(2, 1): 1}
