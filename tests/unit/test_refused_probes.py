"""`ScalingCallback(probe=True)` where its trial can't be probed."""

import math

import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import ScalingCallback, callback
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.prober import ProbeError


class Refusing:
    """A prober of a trial that can't be probed."""

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
    [(Scale(2, 2), "the port is taken.", 1), (Scale(0, 2), "the reference is 1r×1e and the trial 0r×2e; reference='0r1e'", 0)],
)
def test_what_was_probed_before_it_failed_is_closed_and_the_reason_told(monkeypatch, caplog, scale, text, closed):
    monkeypatch.setattr(callback, "Prober", Refusing)
    monkeypatch.setattr(Refusing, "closed", 0)
    assert ScalingCallback(probe=True)._probe_baseline(Algorithm(), scale, stored := object()) is stored
    assert text in caplog.text
    assert Refusing.closed == closed
