"""Connecting to a cluster, where Ray is scripted."""

from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="needs Ray")

from rl_scaling_callback.rllib.hardware import Machine
from rl_scaling_callback.sweeping import cluster

RUNS_ALREADY = "When connecting to an existing cluster, num_cpus and num_gpus must not be provided."


@pytest.fixture
def started(monkeypatch):
    """The options of each `ray.init`; the first call fails with what `problem` holds."""
    calls = SimpleNamespace(options=[], problem=None)

    def init(**options):
        calls.options.append(options)
        if calls.problem and ("num_cpus" in options or calls.problem != RUNS_ALREADY):
            raise ValueError(calls.problem)

    monkeypatch.setattr(cluster, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    return calls


def test_a_running_cluster_is_used(started):
    started.problem = RUNS_ALREADY
    cluster.connect(3)
    assert "num_cpus" not in started.options[-1]


def test_other_errors_of_ray_are_not_hidden(started):
    started.problem = "Malformed address"
    with pytest.raises(ValueError, match="Malformed address"):
        cluster.connect(3)


def test_unanswered_tasks_are_cancelled(monkeypatch):
    quick, stuck = "a" * 56, "b" * 56
    sent, cancelled = [], []

    class Ask:
        def options(self, scheduling_strategy):
            self.node = scheduling_strategy.node_id
            return self

        def remote(self):
            sent.append(self.node)
            return self.node

    alive = [{"NodeID": name, "Alive": True, "Resources": {"CPU": 2.0, f"node:{name}": 1.0}} for name in (quick, stuck)]
    ray = SimpleNamespace(
        nodes=lambda: alive,
        remote=lambda **_: lambda function: Ask(),
        wait=lambda tasks, num_returns, timeout: ([quick], [stuck]),
        get=lambda task: Machine(task, "a CPU", 8),
        cancel=lambda task, **_: cancelled.append(task),
    )
    monkeypatch.setattr(cluster, "ray", ray)
    assert cluster.cores() == 8
    assert sent == [quick, stuck]
    assert cancelled == [stuck]
