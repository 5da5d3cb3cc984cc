"""What a sweep reads from a config, the file that a config is in, and connecting to a cluster, where Ray is scripted."""

import os
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback.sweeping import sweep as sweeps
from rl_scaling_callback.sweeping.task import load_config


def test_cpus_follow_the_config():
    assert sweeps.cpus_of(PPOConfig().env_runners(num_cpus_per_env_runner=0.5)) == (1.0, 0.5)
    assert sweeps.cpus_of(PPOConfig().env_runners(num_cpus_per_env_runner=2).resources(num_cpus_for_main_process=3)) == (3.0, 2.0)
    assert sweeps.cpus_of(PPOConfig().learners(num_learners=1)) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("each", "cpus", "runners"), [(1, 9, (1, 2, 4, 8)), (2, 9, (1, 2, 4)), (0.5, 9, (1, 2, 4, 8)), (0, 3, (1, 2))]
)
def test_env_runners_to_try_fill_the_cluster(monkeypatch, each, cpus, runners):
    nodes = [{"Alive": True, "Resources": {"CPU": float(cpus)}}, {"Alive": False, "Resources": {"CPU": 8.0}}]
    monkeypatch.setattr(sweeps, "ray", SimpleNamespace(nodes=lambda: nodes))
    config = PPOConfig().env_runners(num_cpus_per_env_runner=each)
    assert sweeps.grid_of(config, "auto", [1, 3]) == sweeps.Grid(runners, (1, 3))
    if each:
        refusal = f"never run 20 env runners: they need {1 + 20 * each:g} CPU, but the cluster has {cpus}"
        with pytest.raises(ValueError, match=refusal):
            sweeps.grid_of(config, [1, 20], [1])


RUNS_ALREADY = "When connecting to an existing cluster, num_cpus and num_gpus must not be provided."


@pytest.mark.parametrize(("problem", "calls"), [(None, 1), (RUNS_ALREADY, 2), ("Malformed address", 1)])
def test_a_running_cluster_is_used_and_other_errors_of_ray_are_not_hidden(monkeypatch, problem, calls):
    started = []

    def init(**options):
        started.append(options)
        if problem and "num_cpus" in options:
            raise ValueError(problem)

    monkeypatch.setattr(sweeps, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(ValueError, match=problem) if problem == "Malformed address" else nullcontext():
        sweeps.connect(3)
    assert ["num_cpus" in options for options in started] == [True, False][:calls]


def test_config_file_can_import_modules_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "before")
    (tmp_path / "beside_my_config.py").write_text("from ray.rllib.algorithms.ppo import PPOConfig\n")
    (tmp_path / "my_config.py").write_text("from beside_my_config import PPOConfig\nconfig = PPOConfig\n")
    assert isinstance(load_config(f"{tmp_path / 'my_config.py'}:config"), PPOConfig)
    assert os.environ["PYTHONPATH"] == f"{tmp_path}{os.pathsep}before"
