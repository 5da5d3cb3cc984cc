"""`ScalingCallback(probe=True)` in trials that can't be probed."""

import math

import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import ScalingCallback, callback
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.prober import ProbeError


class Refusing:
    """A prober whose probes fail."""

    closed = 0

    def __init__(self, algorithm, max_seconds):
        pass

    def steps_per_round(self, scale):
        return math.inf

    def measure(self, scales):
        raise ProbeError("the port is taken.")

    def close(self):
        Refusing.closed += 1


class Algorithm:
    config = PPOConfig()


@pytest.mark.parametrize(
    ("scale", "text", "closed"),
    [(Scale(2, 2), "the port is taken.", 1), (Scale(0, 2), "use reference='0r1e'", 0)],
)
def test_refused_probe_closes_the_prober_and_warns(monkeypatch, caplog, scale, text, closed):
    monkeypatch.setattr(callback, "Prober", Refusing)
    monkeypatch.setattr(Refusing, "closed", 0)
    assert ScalingCallback(probe=True)._probe_baseline(Algorithm(), scale, stored := object()) is stored
    assert text in caplog.text
    assert Refusing.closed == closed
