"""`ScalingReporter` where something is missing or fails; `test_tune` has the rest."""

import os
import subprocess
import sys

import pytest

from rl_scaling_callback import ScalingReporter

pytest.importorskip("ray")

from tuning import cartpole, run

pytestmark = pytest.mark.usefixtures("cluster")


def test_without_the_callback(tmp_path):
    shown = []
    run(tmp_path, cartpole(), stop={"training_iteration": 6}, callbacks=[], reporters=[ScalingReporter(show=shown.append)])
    (only,) = shown[-1].studies[0].configurations
    assert only.speedup == 1
    assert not only.losses


def test_a_report_that_fails_does_not_end_the_experiment(tmp_path, caplog):
    def fail(report):
        raise RuntimeError("no terminal")

    results = run(tmp_path, cartpole(runners=0), stop={"training_iteration": 2}, reporters=[ScalingReporter(show=fail)])
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
