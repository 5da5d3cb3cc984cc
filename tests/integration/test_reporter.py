"""`ScalingReporter` in real Tune runs, and `rl-scaling report` on what they leave."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from rl_scaling_callback import ScalingCallback, ScalingReporter
from rl_scaling_callback.cli import main

pytest.importorskip("ray")

from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig

CLUSTER_CPUS = 3
quick = partial(ScalingCallback, warmup_iterations=1, min_iterations=3, max_iterations=3)

pytestmark = pytest.mark.usefixtures("cluster")


def cartpole(place, *, callbacks, reporter, runners=(1, 2)):
    config = (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=tune.grid_search(list(runners)))
        .training(train_batch_size_per_learner=400, minibatch_size=200, num_epochs=1)
        .callbacks(callbacks)
        .debugging(log_level="ERROR")
    )
    return tune.Tuner(
        "PPO",
        param_space=config,
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(
            name="ex", storage_path=str(place), stop={"training_iteration": 6}, callbacks=[reporter], verbose=0
        ),
    ).fit()


@pytest.fixture(scope="module")
def shown():
    return []


@pytest.fixture(scope="module")
def measured(cluster, tmp_path_factory, shown):
    return cartpole(tmp_path_factory.mktemp("storage"), callbacks=quick, reporter=ScalingReporter("fastest", show=shown.append))


def test_the_table_grows(measured, shown):
    scales = [[str(each.scale) for each in report.studies[0].configurations] for report in shown]
    assert scales[0] == ["1r×1e"]
    assert scales[-1] == ["1r×1e", "2r×1e"]


def test_the_end_is_what_tune_knows(measured, shown):
    configurations = {each.scale.num_env_runners: each for each in shown[-1].studies[0].configurations}
    for trial in measured:
        found = configurations[trial.config["num_env_runners"]]
        assert found.speedup == pytest.approx(trial.metrics["scaling"]["steady"]["speedup"], rel=0.2)
    # The baseline went on being refined: the report counts against its last state.
    two, one = configurations[2], configurations[1]
    assert two.speedup == pytest.approx(two.sps / one.sps)
    assert sum(two.losses.values()) == pytest.approx(two.loss, abs=1e-9)


def test_page_and_curve_lie_in_the_experiments_folder(measured):
    folder = Path(measured.experiment_path)
    assert "2r×1e" in (folder / "scaling_report.html").read_text(encoding="utf-8")
    assert list((folder / "scaling_over_N" / "actual").glob("events.out.tfevents.*"))


def test_the_command_line_reads_the_same_folder(measured, shown):
    done = CliRunner().invoke(main, ["report", measured.experiment_path, "--goal", "fastest", "--format", "json"])
    (study,) = json.loads(done.stdout)["studies"]
    by_scale = {each["config"]: each for each in study["configurations"]}
    assert by_scale["2r×1e"]["speedup"] == pytest.approx(shown[-1].studies[0].configurations[1].speedup)


def test_without_the_callback(tmp_path, shown):
    without: list = []
    cartpole(tmp_path, callbacks=[], reporter=ScalingReporter(show=without.append), runners=(1,))
    (only,) = without[-1].studies[0].configurations
    assert only.speedup == 1
    assert not only.losses


@pytest.mark.slow
def test_a_report_that_fails_does_not_end_the_experiment(tmp_path, caplog):
    def fail(report):
        raise RuntimeError("no terminal")

    results = cartpole(tmp_path, callbacks=quick, reporter=ScalingReporter(show=fail), runners=(1,))
    assert not results.errors
    assert "no terminal" in caplog.text


def test_what_is_missing_is_told_before_the_experiment(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "jinja2" else True)
    with pytest.raises(ImportError, match=r"needs jinja2: pip install \"rl-scaling-callback\[report\]\""):
        ScalingReporter()


PROGRAM = """
import ray
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from rl_scaling_callback import ScalingCallback, ScalingReporter

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
config = (
    PPOConfig().environment("CartPole-v1").env_runners(num_env_runners=0)
    .training(train_batch_size_per_learner=200, minibatch_size=200, num_epochs=1).callbacks(ScalingCallback)
)
tune.Tuner("PPO", param_space=config, run_config=tune.RunConfig(
    storage_path={place!r}, stop={{"training_iteration": 2}}, callbacks=[ScalingReporter()], verbose={verbose})).fit()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("output", "verbose"), [("0", 3), ("1", 1)])
def test_tunes_own_status_table_shows_efficiency(tmp_path, output, verbose):
    """In both of Tune's terminal outputs, where they show a table of trials."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(place=str(tmp_path), verbose=verbose)],
        env=os.environ | {"RAY_AIR_NEW_OUTPUT": output, "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "efficiency %" in done.stdout
