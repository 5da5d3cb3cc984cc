"""`ScalingCallback(probe=True)` in real training."""

import math
import os
import signal
import time
from functools import partial

import numpy as np
import pytest

pytest.importorskip("ray")

from envs import CostlyEnv, Simulator, SlowToMake, SlowToReset
from ray.rllib.connectors.env_to_module import MeanStdFilter
from tuning import costly, scalings, train, warnings_of

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.attribution import CAUSES

pytestmark = pytest.mark.usefixtures("cluster")

probing = partial(ScalingCallback, probe=True)
in_this_process = partial(probing, reference="0r1e")


class FewAtOnce(CostlyEnv):
    """An env that fails if four of them exist in its process."""

    held = 0

    def __init__(self, config=None):
        super().__init__(config)
        FewAtOnce.held += 1

    def close(self):
        FewAtOnce.held -= 1

    def step(self, action):
        if FewAtOnce.held > 3:
            raise RuntimeError("no licence for a fourth")
        return super().step(action)


def of_runners(algorithm, function):
    return algorithm.env_runner_group.foreach_env_runner(function, local_env_runner=False)


def test_trial_measures_its_own_baseline_and_attributes_its_losses(caplog):
    # 10 ms per step: 80 steps take 0.8 s at 1r×1e and 0.4 s with two env runners.
    config = costly(batch=80, step_s=0.01).env_runners(num_env_runners=2, num_envs_per_env_runner=2).callbacks(probing)
    results = scalings(train(config, 5))
    for scaling in results:
        assert scaling["parallelism"] == 4
        assert scaling["baseline"]["source"] == "probe"
        assert not scaling["baseline"]["error"] <= 0  # its size depends on the load of the machine
        assert scaling["speedup"] == pytest.approx(scaling["sps"] / scaling["baseline_sps"])
        assert scaling["account"]["estimated"] == 0
        lost = sum(scaling["loss"][cause] for cause in CAUSES)
        assert lost == pytest.approx(scaling["loss"]["total"], abs=1e-9)
    assert results[0]["time"]["probe"] > 0
    last = results[-1]
    assert last["steady"]["speedup"] == pytest.approx(2.0, rel=0.25)
    # Two envs step one after another in each of two runners, which don't slow each other down.
    assert max(CAUSES, key=last["loss"].__getitem__) == "serial_stepping"
    assert warnings_of(caplog) == []


def test_reference_with_an_env_runner_fits_a_trial_without():
    *_, last = scalings(train(costly(batch=20, step_s=0.001).env_runners(num_env_runners=0).callbacks(probing), 2))
    assert last["speedup"] == pytest.approx(1.0)


def test_envs_that_take_longer_to_make_need_a_longer_limit(caplog):
    config = costly(SlowToMake, batch=20, make_s=1.0).env_runners(num_env_runners=0, num_envs_per_env_runner=2)
    (scaling,) = scalings(train(config.callbacks(partial(in_this_process, max_probe_seconds=0.5)), 1))
    assert scaling["baseline"]["source"] == ""
    assert "max_probe_seconds" in caplog.text


def test_first_probes_take_no_longer_than_the_limit_together():
    config = costly(SlowToReset, batch=20, step_s=0.001, reset_s=0.5, episode_steps=10)
    config.env_runners(num_env_runners=1, num_envs_per_env_runner=2).callbacks(partial(probing, max_probe_seconds=4.0))
    (scaling,) = scalings(train(config, 1))
    assert scaling["baseline"]["source"] == "probe"
    assert 0 < scaling["time"]["probe"] < 4.0 + 1.0  # the rest is what closes the interrupted envs


def test_failed_probing_closes_its_envs(caplog):
    # The reference's env fits next to the trial's two; two more don't.
    config = costly(FewAtOnce, batch=20).env_runners(num_env_runners=1, num_envs_per_env_runner=2).callbacks(probing)
    algorithm = config.build_algo()
    try:
        assert of_runners(algorithm, lambda env_runner: FewAtOnce.held) == [2]
        scaling = algorithm.train()["scaling"]
    finally:
        algorithm.stop()
    assert scaling["sps"] > 0
    assert math.isnan(scaling["baseline_sps"])
    assert ["no licence for a fourth" in message for message in warnings_of(caplog)] == [True]


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
    """Its running mean and standard deviation would include the probes."""

    def run(*callbacks):
        shared = MeanStdFilter()
        config = costly(batch=40).env_runners(
            num_env_runners=0, num_envs_per_env_runner=2, env_to_module_connector=lambda *_, **__: shared
        )
        (result,) = train(config.callbacks(list(callbacks)), 1)
        return result, shared.get_state()

    (_, without), (result, probed) = run(), run(in_this_process)
    np.testing.assert_equal(probed[None]["running_stats"], without[None]["running_stats"])
    assert math.isnan(result["scaling"]["speedup"])
    (warning,) = [message for message in warnings_of(caplog) if "probed" in message]
    assert "the MeanStdFilter" in warning
    assert "create a new one" in warning


class Terrain(CostlyEnv):
    """An env with a large array in its config, whose first value each step increments if it `writes`."""

    def __init__(self, config):
        super().__init__(config)
        self._terrain, self._writes = config["terrain"], config["writes"]

    def step(self, action):
        if self._writes:
            self._terrain[0] += 1
        return super().step(action)


def terrains(env_runner):
    """Return the first value in training, and for each twin whether its array is the same memory."""
    terrain = env_runner.config.env_config["terrain"]
    of_twins = [twin.config.env_config["terrain"] for twin in env_runner._scaling_twins.by_envs.values()]
    return terrain[0], [np.shares_memory(terrain, each) for each in of_twins]


@pytest.mark.parametrize("writes", [False, True])
def test_probes_share_large_data_unless_the_env_writes_to_it(writes):
    config = costly(Terrain, batch=40, terrain=np.zeros(2**18), writes=writes).callbacks(probing)
    algorithm = config.env_runners(num_env_runners=1, num_envs_per_env_runner=2).build_algo()
    try:
        result = algorithm.train()
        ((written, shares),) = of_runners(algorithm, terrains)
    finally:
        algorithm.stop()
    assert result["scaling"]["baseline"]["source"] == "probe"
    assert written in (0, 40 * writes)  # on Ray 2.45 each env has a copy
    assert shares == [written == 0] * 2
