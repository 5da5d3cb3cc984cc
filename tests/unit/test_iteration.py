"""The env steps, duration and core usage of an iteration, and what makes them unknown."""

import math

import pytest

from rl_scaling_callback.live.reading import IterationReader, Load
from rl_scaling_callback.rllib.configs import has_other_workers


def result(env_steps, seconds):
    return {"env_runners": {"num_env_steps_sampled": env_steps}, "time_this_iter_s": seconds}


@pytest.mark.parametrize("turned", [-3600.0, -0.5, 0.5, 3600.0])
def test_clock_jump_makes_the_duration_unknown(turned, warn):
    offsets = iter([0.0, 0.0, 0.001, turned, turned])
    reader = IterationReader({}, warn, lambda: next(offsets))
    assert [reader.read(result(4000, 2.0))[1] > 0 for _ in range(4)] == [True, True, False, True]
    assert f"jumped by {turned - 0.001:+.3g} s" in warn["clock"]


def test_steps_of_a_failed_iteration_do_not_count_for_the_next(warn):
    reader = IterationReader({}, warn)
    reader.note_failure()
    assert [reader.read(result(4000, 2.0))[0] > 0 for _ in range(2)] == [False, True]
    assert list(warn) == ["failure"]


def test_asynchronous_algorithm_may_start_without_steps(warn):
    reader = IterationReader({"min_time_s_per_iteration": 10}, warn)
    for env_steps, warned in ((0, []), (1000, []), (0, ["steps"])):
        reader.read(result(env_steps, 10.0))
        assert list(warn) == warned


class Machine:
    def __init__(self, cores=4.0, num_env_runners=2):
        self.now = self.cpu = 10.0
        self.load = Load(cores, num_env_runners, cpu_s=lambda: self.cpu, clock=lambda: self.now)

    def read(self, utilisation, *runners_cpu_s, seconds=2.0, cpu_s=0.5):
        self.now += seconds
        self.cpu += cpu_s
        return self.load.read(utilisation, runners_cpu_s)


def test_others_use_the_cores_that_the_trial_does_not():
    machine = Machine()
    assert machine.read(100.0, 1.5, 2.0) == (2.0, 2.0)
    assert machine.read(50.0, 1.5, 2.0) == (2.0, 0.0), "each call measures from the previous one"
    assert Machine(num_env_runners=0).read(25.0, 0.4) == (0.25, 0.75), "an env runner in this process is counted once"


def test_cores_are_unknown_without_a_report_or_time_and_those_of_others_without_utilisation_or_core_count():
    assert all(map(math.isnan, Machine().read(50.0, 1.5)))
    assert all(map(math.isnan, Machine().read(50.0, 0.0, 0.0, seconds=0.0, cpu_s=0.0)))
    for cores, utilisation in ((4.0, math.nan), (math.nan, 50.0)):
        assert Machine(cores).read(utilisation, 1.0, 1.0) == pytest.approx((1.25, math.nan), nan_ok=True)


OTHERS = {"num_learners": 1, "evaluation_num_env_runners": 2, "num_aggregator_actors_per_learner": 1, "remote_worker_envs": True}


@pytest.mark.parametrize(("name", "value"), [*OTHERS.items(), ("gym_env_vectorize_mode", "ASYNC")])
def test_other_processes_of_a_trial(name, value):
    assert has_other_workers({name: value})
    assert not has_other_workers({name: 0})
    assert not has_other_workers({"gym_env_vectorize_mode": "SYNC", "num_learners": 0, "remote_worker_envs": False})
