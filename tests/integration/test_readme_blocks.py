"""Runs the README's code blocks, with smaller batches, and the examples, in an empty home directory."""

import functools
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
RUN = ("build_algo()", "tune.Tuner(", "rl-scaling sweep", "rl-scaling report")
INSTALLS = ('".[report]"', '".[examples]"')
"""Texts that occur in exactly one block."""
BATCH, SMALLER = "=2048, minibatch_size=256, num_epochs=4", "=512, minibatch_size=128, num_epochs=1"


def block(text):
    (one,) = [code for language, code in BLOCKS if language != "text" and text in code]
    commands = re.findall(r"^\$ (.*)$", one, re.MULTILINE)  # a console block contains the output, too
    return "\n".join(commands) or one


def quickstart():
    assert BATCH in block("build_algo()")
    return block("build_algo()").replace(BATCH, SMALLER)


@pytest.fixture(scope="module")
def home(worker_path, tmp_path_factory):
    """A home and working directory with `rl-scaling` on the path and the quickstart's config in a file."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "my_config.py").write_text(quickstart().split("algorithm =")[0])
    command = folder / "bin" / "rl-scaling"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable} -Wignore\nfrom rl_scaling_callback.cli import main\n\nmain()\n")
    command.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("RAY_ADDRESS", "local")
        patch.chdir(folder)
        yield folder


def run(*command, cwd=None):
    done = subprocess.run(command, capture_output=True, text=True, timeout=480, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_block_is_run_here_or_installs_the_package():
    for language, code in BLOCKS:
        assert language == "text" or len([text for text in (*RUN, *INSTALLS) if text in code]) == 1, code


def test_quickstart_equals_the_example():
    assert (ROOT / "examples/quickstart.py").read_text(encoding="utf-8").endswith(block("build_algo()"))


@pytest.mark.slow
def test_quickstart(home):
    *iterations, diagnosis = run(sys.executable, "-c", quickstart()).splitlines()
    assert len(iterations) == 40
    for line in iterations:
        assert re.fullmatch(r"\d+: [\d,]+ steps/s, \d+\.\d\d×, efficiency \d+ %", line)
    assert re.match(r"(learn|serial stepping|contention|straggler|transfer|sync|evaluate|other): ", diagnosis)


@pytest.mark.slow
def test_use_with_tune(home):
    names = {"functools": functools, "tune": tune, "MyCallback": RLlibCallback}  # which the block takes for granted
    exec(quickstart().split("algorithm =")[0], names)
    exec(block("tune.Tuner("), names)
    assert len(names["results"]) == 2
    assert not names["results"].errors
    assert all(trial.metrics["scaling"]["steady"]["efficiency"] > 50 for trial in names["efficient"])


@pytest.mark.slow
def test_sweep_writes_a_tuned_config(home):
    said = run("bash", "-euc", block("rl-scaling sweep"))
    assert "\nUse " in said or "\nBest guess " in said  # on a busy machine
    tuned = runpy.run_path(str(home / "tuned.py"))["config"]
    assert isinstance(tuned, PPOConfig)
    assert tuned.num_env_runners >= 1


def test_report_prints_what_the_readme_shows(home):
    (shown,) = [code for language, code in BLOCKS if language == "console" and "rl-scaling report" in code]
    lines = run("bash", "-euc", f"COLUMNS=90 {block('rl-scaling report')}", cwd=ROOT).splitlines()
    printed = {line.strip() for line in lines}
    assert {line.strip() for line in shown.splitlines()[1:]} - {"", "…"} <= printed


def test_report_of_a_table(home):
    assert "4r×1e" in run(sys.executable, str(ROOT / "examples/csv_report.py"))
    assert (home / "scaling_report.html").exists()


@pytest.mark.release
@pytest.mark.parametrize("name", ["quickstart", "halfcheetah_sweep", "filter_and_schedule", "lasting_baseline"])
def test_other_examples(home, name):
    assert "×" in run(sys.executable, str(ROOT / "examples" / f"{name}.py"))
