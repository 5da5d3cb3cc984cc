"""`ScalingCallback(probe=True)` in real training."""

import math
import os
import signal
import time
from functools import partial

import pytest

pytest.importorskip("ray")

from envs import Simulator
from ray.rllib.connectors.env_to_module import MeanStdFilter
from tuning import costly, scalings, train, warnings_of

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.attribution import CAUSES

pytestmark = pytest.mark.usefixtures("cluster")

probing = partial(ScalingCallback, probe=True)
in_this_process = partial(probing, reference="0r1e")


def of_runners(algorithm, function):
    return algorithm.env_runner_group.foreach_env_runner(function, local_env_runner=False)


def test_trial_measures_its_own_baseline_and_attributes_its_losses(caplog):
    # 10 ms per step: 80 steps take 0.8 s at 1r×1e and 0.4 s with two env runners.
    config = costly(batch=80, step_s=0.01).env_runners(num_env_runners=2, num_envs_per_env_runner=2).callbacks(probing)
    results = scalings(train(config, 5))
    for scaling in results:
        assert (scaling["parallelism"], scaling["baseline"]["source"], scaling["account"]["estimated"]) == (4, "probe", 0)
        assert scaling["speedup"] == pytest.approx(scaling["sps"] / scaling["baseline_sps"])
        assert sum(scaling["loss"][cause] for cause in CAUSES) == pytest.approx(scaling["loss"]["total"], abs=1e-9)
    assert results[0]["time"]["probe"] > 0
    last = results[-1]
    assert last["steady"]["speedup"] == pytest.approx(2.0, rel=0.25)
    # Two envs step one after another in each of two runners, which don't slow each other down.
    assert max(CAUSES, key=last["loss"].__getitem__) == "serial_stepping"
    assert warnings_of(caplog) == []


def test_reference_with_an_env_runner_fits_a_trial_without():
    *_, last = scalings(train(costly(batch=20, step_s=0.001).env_runners(num_env_runners=0).callbacks(probing), 2))
    assert last["speedup"] == pytest.approx(1.0)


def test_envs_of_probes_are_closed_when_the_trial_ends(tmp_path):
    config = costly(Simulator, batch=40, folder=str(tmp_path)).callbacks(in_this_process)
    algorithm = config.env_runners(num_env_runners=0, num_envs_per_env_runner=4).build_algo()
    try:
        assert algorithm.train()["scaling"]["baseline"]["source"] == "probe"
        assert len(list(tmp_path.iterdir())) > 4
    finally:
        algorithm.stop()
    assert list(tmp_path.iterdir()) == []


def test_trial_with_a_dead_env_runner_ends_without_delay(tmp_path):
    config = costly(Simulator, batch=40, folder=str(tmp_path)).callbacks(probing)
    algorithm = config.env_runners(num_env_runners=2, num_envs_per_env_runner=2, num_cpus_per_env_runner=0.5).build_algo()
    algorithm.train()
    pid, other = of_runners(algorithm, lambda env_runner: os.getpid())
    assert len(list(tmp_path.glob(f"{other}-*"))) > 2
    os.kill(pid, signal.SIGKILL)
    started = time.perf_counter()
    algorithm.stop()
    assert time.perf_counter() - started < 10
    assert not list(tmp_path.glob(f"{other}-*"))


def test_trial_whose_connector_has_the_same_state_in_every_pipeline_is_not_probed(caplog):
    shared = MeanStdFilter()  # its running mean and standard deviation would include the probes
    config = costly(batch=40).env_runners(num_env_runners=0, env_to_module_connector=lambda *_, **__: shared)
    (scaling,) = scalings(train(config.env_runners(num_envs_per_env_runner=2).callbacks(in_this_process), 1))
    assert math.isnan(scaling["speedup"])
    (warning,) = [message for message in warnings_of(caplog) if "probed" in message]
    assert "the MeanStdFilter" in warning
    assert "create a new one" in warning
