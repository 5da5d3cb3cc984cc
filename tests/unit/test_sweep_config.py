"""What a sweep reads from a config, and the file that a config is in."""

import os
import sys

import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback.sweeping.cluster import cpus_for, cpus_of
from rl_scaling_callback.sweeping.config_file import load_config


def test_cpus_follow_the_env_runners_request():
    assert cpus_of(PPOConfig().env_runners(num_cpus_per_env_runner=0.5)) == (1.0, 0.5)
    assert cpus_of(PPOConfig().env_runners(num_cpus_per_env_runner=2).resources(num_cpus_for_main_process=3)) == (3.0, 2.0)


def test_started_cluster_has_cpus_for_remote_learners():
    assert cpus_for(PPOConfig(), 2) == 3
    assert cpus_for(PPOConfig().learners(num_learners=1), 2) == 4
    assert cpus_for(PPOConfig().env_runners(num_cpus_per_env_runner=0.5), 2) == 2
    assert cpus_for(PPOConfig().env_runners(num_cpus_per_env_runner=2), 4) == 5


def test_config_file_can_import_modules_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "before")
    (tmp_path / "beside_my_config.py").write_text("from ray.rllib.algorithms.ppo import PPOConfig\n")
    (tmp_path / "my_config.py").write_text("from beside_my_config import PPOConfig\nconfig = PPOConfig\n")
    assert isinstance(load_config(f"{tmp_path / 'my_config.py'}:config"), PPOConfig)
    assert os.environ["PYTHONPATH"] == f"{tmp_path}{os.pathsep}before"
