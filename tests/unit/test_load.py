import math

import pytest

from rl_scaling_callback.live.load import Load
from rl_scaling_callback.rllib.configs import has_other_workers


class Machine:
    def __init__(self, cores=4.0, num_env_runners=2):
        self.now = self.cpu = 10.0
        self.load = Load(cores, num_env_runners, cpu_s=lambda: self.cpu, clock=lambda: self.now)

    def look(self, utilisation, *runners_cpu_s, seconds=2.0, cpu_s=0.5):
        self.now += seconds
        self.cpu += cpu_s
        return self.load.look(utilisation, runners_cpu_s)


def test_others_use_what_the_trial_does_not():
    machine = Machine()
    assert machine.look(100.0, 1.5, 2.0) == (2.0, 2.0)
    assert machine.look(50.0, 1.5, 2.0) == (2.0, 0.0), "each call measures from the previous one"


def test_env_runner_in_the_algorithms_process_is_counted_once():
    assert Machine(num_env_runners=0).look(25.0, 0.4) == (0.25, 0.75)


def test_missing_report_or_time_makes_both_unknown():
    assert all(map(math.isnan, Machine().look(50.0, 1.5)))
    assert all(map(math.isnan, Machine().look(50.0, 0.0, 0.0, seconds=0.0, cpu_s=0.0)))


def test_own_cores_are_known_without_utilisation_or_core_count():
    for cores, utilisation in ((4.0, math.nan), (math.nan, 50.0)):
        own, others = Machine(cores).look(utilisation, 1.0, 1.0)
        assert own == 1.25
        assert math.isnan(others)


OTHERS = {"num_learners": 1, "evaluation_num_env_runners": 2, "num_aggregator_actors_per_learner": 1, "remote_worker_envs": True}


@pytest.mark.parametrize(("name", "value"), [*OTHERS.items(), ("gym_env_vectorize_mode", "ASYNC")])
def test_other_processes_of_a_trial(name, value):
    assert has_other_workers({name: value})
    assert not has_other_workers({name: 0})
    assert not has_other_workers({"gym_env_vectorize_mode": "SYNC", "num_learners": 0, "remote_worker_envs": False})
