"""`ScalingCallback(probe=True)` in real training."""

import logging
import math
import os
import signal
import time
from functools import partial

import numpy as np
import pytest

pytest.importorskip("ray")

from envs import CostlyEnv, Simulator
from ray.rllib.connectors.env_to_module import MeanStdFilter
from tuning import costly, train

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.attribution import CAUSES

pytestmark = pytest.mark.usefixtures("cluster")

probing = partial(ScalingCallback, probe=True)


class OnlyOne(CostlyEnv):
    """An env that can exist only once per process, like one that needs a licence or a port."""

    held = False

    def __init__(self, config=None):
        if OnlyOne.held:
            raise RuntimeError("the port is taken")
        OnlyOne.held = True
        super().__init__(config)


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


class SlowToBuild(CostlyEnv):
    """An env that takes a second to create."""

    def __init__(self, config=None):
        time.sleep(1.0)
        super().__init__(config)


class SlowToReset(CostlyEnv):
    """An env whose resets take half a second, with episodes of 10 steps."""

    def reset(self, **options):
        time.sleep(0.5)
        self._steps = 0
        return super().reset(**options)

    def step(self, action):
        self._steps += 1
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self._steps % 10 == 0, info


def test_trial_measures_its_own_baseline_and_attributes_its_losses(caplog):
    # 10 ms per step: 80 steps take 0.8 s at 1r×1e and 0.4 s with two env runners.
    config = costly(batch=80, step_s=0.01).env_runners(num_env_runners=2, num_envs_per_env_runner=2).callbacks(probing)
    with caplog.at_level(logging.WARNING, "rl_scaling_callback"):
        results = [result["scaling"] for result in train(config, 5)]
    for scaling in results:
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
    assert [record.message for record in caplog.records if record.name == "rl_scaling_callback"] == []


def test_env_limited_to_one_per_process_warns_and_training_goes_on(caplog):
    config = costly(OnlyOne, batch=20, step_s=0.001).env_runners(num_env_runners=2).callbacks(probing)
    with caplog.at_level(logging.WARNING, "rl_scaling_callback"):
        *_, last = train(config, 2)
    assert last["scaling"]["sps"] > 0
    assert math.isnan(last["scaling"]["baseline_sps"])
    ours = [record.message for record in caplog.records if record.name == "rl_scaling_callback"]
    assert ["the port is taken" in message for message in ours] == [True]


@pytest.mark.parametrize(("limit", "source"), [(0.5, ""), (30.0, "probe")])
def test_envs_that_take_longer_to_build_need_a_longer_limit(caplog, limit, source):
    config = costly(SlowToBuild, batch=20, step_s=0.001).env_runners(num_env_runners=1, num_envs_per_env_runner=2)
    *_, last = train(config.callbacks(partial(probing, max_probe_seconds=limit)), 2)
    assert last["scaling"]["baseline"]["source"] == source
    assert ("max_probe_seconds" in caplog.text) == (not source)


def test_first_probes_take_no_longer_than_the_limit_together(caplog):
    config = costly(SlowToReset, batch=20, step_s=0.001).env_runners(num_env_runners=1, num_envs_per_env_runner=2)
    (first,) = train(config.callbacks(partial(probing, max_probe_seconds=4.0)), 1)
    assert first["scaling"]["baseline"]["source"] == "probe"
    assert 0 < first["scaling"]["time"]["probe"] < 4.0 + 1.0  # the rest is what closes the interrupted envs


@pytest.mark.parametrize(("reference", "speedup"), [("2r1e", math.nan), ("1r1e", 1.0), ("0r1e", 1.0)])
def test_warning_names_a_reference_that_fits_a_trial_without_env_runners(caplog, reference, speedup):
    callback = partial(ScalingCallback, probe=True, reference=reference)
    *_, last = train(costly(batch=20, step_s=0.001).env_runners(num_env_runners=0).callbacks(callback), 2)
    assert last["scaling"]["speedup"] == pytest.approx(speedup, nan_ok=True)
    assert ("use reference='0r1e'" in caplog.text) == math.isnan(speedup)


def test_failed_probing_closes_its_envs(caplog):
    # The reference's env fits next to the trial's two; two more don't.
    algorithm = (
        costly(FewAtOnce, batch=20).env_runners(num_env_runners=1, num_envs_per_env_runner=2).callbacks(probing).build_algo()
    )
    try:
        held = algorithm.env_runner_group.foreach_env_runner(lambda env_runner: FewAtOnce.held, local_env_runner=False)
        assert held == [2]
        assert algorithm.train()["scaling"]["sps"] > 0
    finally:
        algorithm.stop()
    assert "no licence for a fourth" in caplog.text


@pytest.mark.parametrize("runners", [0, 2])
def test_envs_of_probes_are_closed_when_the_trial_ends(tmp_path, runners):
    config = costly(Simulator, batch=40, folder=str(tmp_path)).callbacks(partial(probing, reference=f"{min(1, runners)}r1e"))
    algorithm = config.env_runners(num_env_runners=runners, num_envs_per_env_runner=4, num_cpus_per_env_runner=0.5).build_algo()
    try:
        assert algorithm.train()["scaling"]["baseline"]["source"] == "probe"
        assert len(list(tmp_path.iterdir())) > 4 * max(1, runners)
    finally:
        algorithm.stop()
    assert list(tmp_path.iterdir()) == []


def test_trial_with_a_dead_env_runner_ends_without_delay(tmp_path):
    config = costly(Simulator, batch=40, folder=str(tmp_path)).callbacks(probing)
    algorithm = config.env_runners(num_env_runners=2, num_envs_per_env_runner=2, num_cpus_per_env_runner=0.5).build_algo()
    algorithm.train()
    pid, other = algorithm.env_runner_group.foreach_env_runner(lambda env_runner: os.getpid(), local_env_runner=False)
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
            num_env_runners=1, num_envs_per_env_runner=2, env_to_module_connector=lambda *_, **__: shared
        )
        algorithm = config.callbacks(list(callbacks)).build_algo()
        result = [algorithm.train() for _ in range(2)][-1]
        (state,) = algorithm.env_runner_group.foreach_env_runner(
            lambda env_runner: env_runner._env_to_module.connectors[0].get_state(), local_env_runner=False
        )
        algorithm.stop()
        return result, state

    (_, without), (result, probed) = run(), run(probing)
    np.testing.assert_equal(probed[None]["running_stats"], without[None]["running_stats"])
    assert math.isnan(result["scaling"]["speedup"])
    (warning,) = [record.message for record in caplog.records if "probed" in record.message]
    assert "the connector MeanStdFilter" in warning
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
        (found,) = algorithm.env_runner_group.foreach_env_runner(terrains, local_env_runner=False)
    finally:
        algorithm.stop()
    assert result["scaling"]["baseline"]["source"] == "probe"
    written, shares = found
    assert written in (0, 40 * writes)  # on Ray 2.45 each env has a copy
    assert shares == [written == 0] * 2
