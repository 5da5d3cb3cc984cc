"""`ScalingCallback` without an Algorithm: invalid options are reported when it is created, and what can't be probed is said."""

import math
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import Goal, ScalingCallback, SteadyRule, callback
from rl_scaling_callback.baseline.source import BaselineSource
from rl_scaling_callback.core.probing import Probe, ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.trial import Trial
from tests.builders import WORKLOAD


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steady": 5}, "steady is 5; allowed is a SteadyRule"),
        ({"probe": "yes"}, "probe is 'yes'; allowed are True, False and None"),
        ({"max_probe_seconds": -1}, "max_probe_seconds is -1; allowed are finite numbers above 0"),
        ({"baseline_sps": math.nan}, "baseline_sps is nan; allowed are finite numbers above 0"),
        ({"baseline_sps": "fast"}, "baseline_sps is 'fast'; allowed are finite numbers above 0"),
        ({"reference": "one by one"}, "'one by one'; allowed are strings such as '1r1e'"),
        ({"workload": ""}, "workload is ''; allowed are non-empty strings"),
        ({"baseline_dir": b"s3://key:secret@bucket"}, "baseline_dir is of type bytes; allowed are"),
        ({"baseline_dir": " "}, "baseline_dir is ' '; allowed are non-empty strings"),
        ({"autotune": "quick"}, "autotune is 'quick'; allowed are True, False, a Goal and 'save', 'balanced', 'fastest'"),
        ({"autotune": Goal("few", max_cpus=2)}, "allowed are goals without max_cpus"),
        ({"autotune": True, "probe": False}, "autotune and probe=False are given; allowed is one of the two"),
        ({"baseline_sps": 1.0, "probe": True}, "baseline_sps and probe=True are given; allowed is one of the two"),
        *(
            ({"baseline_dir": "s3://key:secret@bucket", **other}, "are given; allowed is one of the two")
            for other in ({"baseline_sps": 1.0}, {"probe": True}, {"autotune": True})
        ),
        ({"max_envs": 0}, "max_envs is 0; allowed are whole numbers from 1 up"),
        ({"learner_threads": 1.5}, "learner_threads is 1.5; allowed are whole numbers from 1 up"),
    ],
)
def test_errors_name_the_value_and_what_is_allowed(options, message):
    with pytest.raises(ValueError, match="allowed") as error:
        ScalingCallback(**options)
    assert message in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("place", ["nosuchscheme://bucket", "/proc/nothing/here"])
def test_unreachable_directory_is_reported_when_the_algorithm_is_built(place):
    # Env runners create the callback too; one that restarts while the storage is unavailable must not fail.
    callback = ScalingCallback(baseline_dir=place)
    with pytest.raises(ValueError, match=f"baseline_dir is '{place}'; allowed are"):
        callback.on_algorithm_init(algorithm=None)


def test_valid_options_are_accepted(tmp_path):
    steady = SteadyRule(np.int64(0), min_iterations=np.int64(2), precision=np.float32(3))
    ScalingCallback(baseline_sps=np.float32(2), steady=steady)
    ScalingCallback(autotune=Goal.of("balanced"), max_envs=np.int64(8), learner_threads=2)
    ScalingCallback(baseline_dir=tmp_path / "new", reference="4r×2e", workload="mine", steady=SteadyRule(warmup_iterations=0))


def test_a_warning_that_quotes_an_env_contains_no_credentials(caplog):
    ScalingCallback()._warn("probe", "the env failed: port in use; url=https://user:hunter2@host")
    assert "https://host" in caplog.text
    assert "hunter2" not in caplog.text


# ---------------------------------------------------------------- trials that can't be probed


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


def test_what_autotune_tried_does_not_count_after_it_is_over():
    ours, monitor = ScalingCallback(autotune=True), Mock(trial=Trial("trial", Scale(2, 2), WORKLOAD))
    tuner = SimpleNamespace(is_over=False, scale=Scale(2, 2), threads=1.0, thread_comparison="no gain")
    tuner.observe = lambda values: setattr(tuner, "is_over", True) or 0.0
    for _ in range(2):
        ours._tune(Algorithm(), tuner, monitor, {})
    monitor.start_over.assert_called_once_with()


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
