"""`ScalingCallback(probe=True)` in trials that can't be probed."""

import math
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import ScalingCallback, callback
from rl_scaling_callback.baseline.source import BaselineSource
from rl_scaling_callback.core.probing import Probe, ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.trial import Trial
from tests.builders import WORKLOAD


class Algorithm:
    config = PPOConfig()


@pytest.fixture
def prober(monkeypatch):
    """A prober whose probes fail."""
    prober = Mock(env_steps_per_update=lambda scale: math.inf, measure=Mock(side_effect=ProbeError("the port is taken.")))
    monkeypatch.setattr(callback, "Prober", lambda *args, **options: prober)
    return prober


@pytest.mark.parametrize(
    ("scale", "reference", "text", "closed"),
    [
        (Scale(2, 2), "1r1e", "the port is taken.", 1),
        (Scale(0, 2), "1r1e", "the port is taken.", 1),
        (Scale(0, 2), "2r1e", "use reference='0r1e'", 0),
    ],
)
def test_refused_probe_closes_the_prober_and_warns(prober, caplog, scale, reference, text, closed):
    ours = ScalingCallback(probe=True, reference=reference)
    assert ours._probe_baseline(Algorithm(), Trial("trial", scale, WORKLOAD), stored := object()) is stored
    assert text in caplog.text
    assert prober.close.call_count == closed


def test_an_uncertain_baseline_does_not_hide_that_measurement_failed_later(prober, caplog):
    # Interrupted after one round.
    prober.measure = lambda scales, rounds: [{scale: Probe(scale, 100.0, 0.1, (0.1,) * scale.num_env_runners) for scale in scales}]
    ours = ScalingCallback(probe=True)
    ours._probe_baseline(Algorithm(), Trial("trial", Scale(2, 2), WORKLOAD), BaselineSource())
    assert "uncertain" in caplog.text
    ours._instrument, ours._monitor = Mock(), Mock(measure=Mock(side_effect=RuntimeError("a bug")))
    ours.on_train_result(algorithm=Algorithm(), result=(result := {}))
    assert "measurement failed" in caplog.text
    assert math.isnan(result["scaling"]["sps"])


def test_only_the_first_of_several_callbacks_measures(caplog):
    algorithm = Algorithm()
    algorithm.callbacks = [ScalingCallback(), ScalingCallback(probe=True)]
    second = algorithm.callbacks[1]
    second.on_algorithm_init(algorithm=algorithm)
    assert "only the first one measures" in caplog.text
    result = {"scaling": "of the first"}
    second.on_train_result(algorithm=algorithm, result=result)
    assert result == {"scaling": "of the first"}
    env_runner = SimpleNamespace(_callbacks=algorithm.callbacks, metrics=None)
    second.on_environment_created(env_runner=env_runner)
    assert second._sampling is None
