"""A sweep reuses only measurements of its own workload. Needs Ray, but no cluster."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("ray.rllib")

import ray
from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback.baseline.model import Baseline
from rl_scaling_callback.baseline.store import BaselineStore
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE
from rl_scaling_callback.core.workload import Workload
from rl_scaling_callback.rllib.hardware import Host
from rl_scaling_callback.sweeping.reuse import runs_of, sought_workload

HOST = Host("here", "a CPU", 8)


@pytest.fixture
def sought(monkeypatch):
    """Returns the workload of a config with a GPU, on a node with the given kind of GPU."""

    def of(accelerator, config=None):
        node = {"NodeID": "1", "Alive": True, "NodeManagerHostname": "here", "Resources": {f"accelerator_type:{accelerator}": 1.0}}
        other = {"NodeID": "2", "Alive": True, "NodeManagerHostname": "there", "Resources": {"accelerator_type:OTHER": 1.0}}
        monkeypatch.setattr(ray, "nodes", lambda: [other, node])
        return sought_workload(config or PPOConfig().environment("CartPole-v1").learners(num_gpus_per_learner=1), HOST)

    return of


def published(folder, workload):
    baseline = Baseline(
        sps=1000.0,
        scale=Scale(1, 1),
        workload=workload,
        owner="it",
        error=1.0,
        iterations=8,
        env_steps=8000.0,
        seconds=8.0,
        converged=True,
        provenance={"trial": "it"},
    )
    BaselineStore.at(folder).publish(baseline)


def test_baseline_on_another_gpu_is_not_reused(sought, tmp_path: Path):
    published(tmp_path, sought("A100").exact)
    (run,) = runs_of(sought("A100"), [tmp_path], DEFAULT_RULE)
    assert run.name == "it"
    with pytest.raises(ValueError, match=r'accelerators: \["H100"\] here, \["A100"\] there'):
        runs_of(sought("H100"), [tmp_path], DEFAULT_RULE)


def test_baseline_with_other_threads_is_not_reused(sought, tmp_path: Path):
    mine = sought("A100")
    published(tmp_path, replace(mine.exact, facts={**mine.exact.facts, "threads": 2.0}))
    with pytest.raises(ValueError, match=r"threads: 1\.0 here, 2\.0 there"):
        runs_of(mine, [tmp_path], DEFAULT_RULE)


def test_baseline_of_a_named_workload_is_not_reused_for_a_config(sought, tmp_path: Path):
    published(tmp_path, Workload({"name": "mine"}))
    with pytest.raises(ValueError, match="no trial of this workload"):
        runs_of(sought("A100"), [tmp_path], DEFAULT_RULE)
