import math
from itertools import count

import pytest

from rl_scaling_callback.core import schema
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.live.gauges import Gauges

TAGS = {"trial": "PPO_1", "num_env_runners": "2", "num_envs_per_env_runner": "4"}


class Metrics(dict):
    """A stand-in for Ray's metrics: the last value and tags of every gauge."""

    def make(self, name, description, tag_keys):
        return Gauge(self, name, description, tag_keys)


class Gauge:
    def __init__(self, metrics, name, description, tag_keys):
        (name + description).encode("ascii")  # Ray accepts only ASCII
        self.metrics, self.name, self.tag_keys = metrics, name, tag_keys

    def set(self, value, tags):
        assert tuple(tags) == self.tag_keys
        self.metrics[self.name] = value, tags


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def gauges(metrics):
    return Gauges(metrics.make, "PPO_1", Scale(2, 4), count(0.0, 1.0).__next__)


def result(**values):
    return {"scaling": schema.nest({name.replace("__", "/"): value for name, value in values.items()})}


def test_known_values_with_the_trials_name_and_scale(gauges, metrics):
    gauges.set(result(sps=800.0))
    assert metrics == {"scaling_sps": (800.0, TAGS)}
    gauges.set(result(sps=800.0, speedup=4.0, efficiency=50.0, steady__efficiency=51.0, gap=4.0))
    known = {"scaling_sps": 800.0, "scaling_speedup": 4.0, "scaling_efficiency": 50.0, "scaling_steady_efficiency": 51.0}
    assert metrics == {name: (value, TAGS) for name, value in known.items()}
    gauges.set(result(sps=810.0))
    assert metrics["scaling_sps"] == (810.0, TAGS)
    assert math.isnan(metrics["scaling_speedup"][0])


def test_fast_iterations_set_them_once_a_second(metrics):
    times = iter([0.0, 0.9, 1.0])
    gauges = Gauges(metrics.make, "PPO_1", Scale(2, 4), times.__next__)
    shown = []
    for sps in (800.0, 810.0, 820.0):
        gauges.set(result(sps=sps))
        shown.append(metrics["scaling_sps"][0])
    assert shown == [800.0, 800.0, 820.0]


def test_non_ascii_trial_names_are_escaped(metrics):
    Gauges(metrics.make, "PPO_Ü", Scale(2, 4)).set(result(sps=800.0))
    assert metrics["scaling_sps"][1]["trial"] == r"PPO_\xdc"
