"""Invalid options of the callback are reported when it is created."""

import math

import numpy as np
import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from rl_scaling_callback import Goal, ScalingCallback, SteadyRule


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
