"""The README's code blocks, run as they stand there by a reader who has an env and a home directory of his own."""

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray.rllib")

from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import ScalingCallback, ScalingReporter

pytestmark = pytest.mark.release

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```\w+\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)

RUN = ("# 1\n", "get_dataframe()", "ScalingReporter(", "rl-scaling report", "rl-scaling sweep", "SteadyStopper(", "baseline_dir=")
NOT_RUN = {
    ".[examples]": "installs, and measures HalfCheetah for minutes: done by hand before a release",
    ".[test]": "installs, and runs all tests: what .ci/run does",
    " config  N  time": "what the example printed",
}
"""A text that only this block has, and why it isn't run here."""

CONFIG = """
from ray.rllib.algorithms.ppo import PPOConfig

config = (
    PPOConfig()
    .environment("CartPole-v1")
    .training(train_batch_size_per_learner=200, minibatch_size=200, num_epochs=1)
    .rl_module(model_config={"fcnet_hiddens": [8]})
    .debugging(log_level="ERROR")
)
"""


def block(text):
    (one,) = [each for each in BLOCKS if text in each]
    return one


def run(code, names):
    """Run a block among the reader's names, and return the value of its last line where it has one."""
    *statements, last = ast.parse(code).body
    exec(compile(ast.Module(statements, []), "README.md", "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "README.md", "eval"), names)
    exec(compile(ast.Module([last], []), "README.md", "exec"), names)
    return None


@pytest.fixture(scope="module")
def home(worker_path, tmp_path_factory):
    """The reader's home and working directory, with `rl-scaling` on the path."""
    place = tmp_path_factory.mktemp("home")
    (place / "my_config.py").write_text(CONFIG)
    command = place / "bin" / "rl-scaling"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -W ignore -m rl_scaling_callback "$@"\n')
    command.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(place))
        patch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
        patch.chdir(place)
        yield place


def shell(command, **environment):
    return subprocess.run(["bash", "-euc", command], capture_output=True, text=True, timeout=480, env=os.environ | environment)


def reader(home):
    """Return what a reader's program has before a block: Tune, what was imported further up, and an algorithm's config."""
    config = runpy.run_path(str(home / "my_config.py"))["config"]
    return {"tune": tune, "ScalingCallback": ScalingCallback, "ScalingReporter": ScalingReporter, "config": config}


@pytest.fixture(scope="module")
def results(cluster, home):
    """An experiment with the three lines of "Use" and the reporter, at the place that the next block reads."""
    names = reader(home)
    run(block("# 1\n"), names)
    config = names["config"]
    assert config.num_env_runners["grid_search"][0] == 1
    config.num_env_runners = tune.grid_search(config.num_env_runners["grid_search"][:2])
    run_config = run(block("ScalingReporter("), names)
    run_config.name, run_config.storage_path = "my_experiment", str(home / "ray_results")
    run_config.stop, run_config.verbose = {"training_iteration": 11}, 0
    one_at_a_time = tune.TuneConfig(max_concurrent_trials=1)
    return tune.Tuner("PPO", param_space=config, tune_config=one_at_a_time, run_config=run_config).fit()


def test_every_block_is_run_or_there_is_a_reason():
    for each in BLOCKS:
        assert len([text for text in (*RUN, *NOT_RUN) if text in each]) == 1, each


def test_trials_are_filtered_by_efficiency(results):
    kept = run(block("get_dataframe()"), {"results": results})
    assert 1 in set(kept["config/num_env_runners"])
    assert len(results.get_dataframe()) == 2


def test_the_reporter_writes_the_page(results):
    assert (Path(results.experiment_path) / "scaling_report.html").exists()


def test_the_report_of_a_folder(results):
    done = shell(block("rl-scaling report"))
    assert done.returncode == 0, done.stderr
    assert "Recommendation for goal balanced" in done.stdout


def test_the_sweep_writes_a_tuned_config(home):
    # One trial, with as many CPUs believed in as the largest of the grid takes.
    done = shell(f"{block('rl-scaling sweep').strip()} --max-trials 1 --num-cpus 9", RAY_ADDRESS="local")
    assert done.returncode == 0, done.stderr[-2000:]
    tuned = runpy.run_path(str(home / "tuned.py"))["config"]
    assert isinstance(tuned, PPOConfig)
    assert tuned.num_env_runners == 1


def test_its_parts_go_into_any_tuner(cluster, home):
    names = reader(home)
    run(block("SteadyStopper("), names)
    assert isinstance(names["tuner"], tune.Tuner)


def test_each_way_to_a_lasting_baseline_makes_a_callback(home):
    names, made = reader(home), []
    for statement in ast.parse(block("baseline_dir=")).body:
        run(ast.unparse(statement), names)
        made.append(names["config"].callbacks_class)
    _, lasting, given = made
    assert isinstance(lasting(), ScalingCallback)
    assert isinstance(given(), ScalingCallback)
    assert (home / "baselines").is_dir()
