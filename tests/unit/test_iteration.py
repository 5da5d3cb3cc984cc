"""The env steps, duration and core usage of an iteration, and what makes them unknown."""

import math
import time

import pytest

from rl_scaling_callback.live.machine import Load
from rl_scaling_callback.live.monitor import IterationReader
from rl_scaling_callback.rllib.configs import has_other_workers


def result(env_steps, seconds):
    return {"env_runners": {"num_env_steps_sampled": env_steps}, "time_this_iter_s": seconds}


@pytest.mark.parametrize("turned", [-3600.0, -0.5, 0.5, 3600.0])
def test_clock_jump_makes_the_duration_unknown(turned, warn, monkeypatch):
    offsets = iter([0.0, 0.0, 0.001, turned, turned])
    monkeypatch.setattr(time, "time", lambda: next(offsets))
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    reader = IterationReader({}, warn)
    assert [reader.read(result(4000, 2.0))[1] > 0 for _ in range(4)] == [True, True, False, True]
    assert f"jumped by {turned - 0.001:+.3g} s" in warn["clock"]


def test_steps_of_a_failed_iteration_do_not_count_for_the_next(warn):
    reader = IterationReader({}, warn)
    reader.has_failed = True
    assert [reader.read(result(4000, 2.0))[0] > 0 for _ in range(2)] == [False, True]
    assert list(warn) == ["failure"]


def test_asynchronous_algorithm_may_start_without_steps(warn):
    reader = IterationReader({"min_time_s_per_iteration": 10}, warn)
    for env_steps, warned in ((0, []), (1000, []), (0, ["steps"])):
        reader.read(result(env_steps, 10.0))
        assert list(warn) == warned


@pytest.mark.parametrize(
    ("cores", "utilisation", "runners_cpu_s", "own", "others"),
    [
        (4.0, 100.0, (1.5, 2.0), 2.0, 2.0),
        (4.0, 50.0, (1.5, 2.0), 2.0, 0.0),
        (4.0, 25.0, (), 0.25, 0.75),  # no env runner in another process
        (4.0, 50.0, (1.5, None), math.nan, math.nan),  # one doesn't report
        (4.0, math.nan, (1.0, 1.0), 1.25, math.nan),
        (math.nan, 50.0, (1.0, 1.0), 1.25, math.nan),
    ],
)
def test_others_use_the_cores_that_the_trial_does_not(cores, utilisation, runners_cpu_s, own, others, monkeypatch):
    """In 2 s, the Algorithm's process uses a core for 0.5 s."""
    now = [10.0, 10.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "process_time", lambda: now[1])
    load = Load(cores, len(runners_cpu_s))
    for _ in range(2):  # each call measures from the previous one
        now[:] = now[0] + 2.0, now[1] + 0.5
        found = load.read(utilisation, [seconds for seconds in runners_cpu_s if seconds is not None])
        assert found == pytest.approx((own, others), nan_ok=True)


OTHERS = {"num_learners": 1, "evaluation_num_env_runners": 2, "num_aggregator_actors_per_learner": 1, "remote_worker_envs": True}


@pytest.mark.parametrize(("name", "value"), [*OTHERS.items(), ("gym_env_vectorize_mode", "ASYNC")])
def test_other_processes_of_a_trial(name, value):
    assert has_other_workers({name: value})
    assert not has_other_workers({name: 0})
    assert not has_other_workers({"gym_env_vectorize_mode": "SYNC", "num_learners": 0, "remote_worker_envs": False})
