"""Sweeps by probes of realistic configs, on realistic clusters."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

pytest.importorskip("ray")

import ray
from envs import CostlyEnv, Simulator
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.tune.registry import ENV_CREATOR, _global_registry
from tuning import costly

from rl_scaling_callback import Goal, ScalingCallback, sweep
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.hardware import Host
from rl_scaling_callback.sweeping.cluster import Node, reserve
from rl_scaling_callback.sweeping.config_file import load_config
from rl_scaling_callback.sweeping.placement import at_scale, cpus_for
from rl_scaling_callback.sweeping.probe_host import ProbeHost
from rl_scaling_callback.sweeping.probes import grid

pytestmark = pytest.mark.usefixtures("cluster")


class Licence:
    """One of three licences, held as long as its env."""

    held = 0

    def __init__(self):
        if Licence.held == 3:
            raise RuntimeError("no licence is left")
        Licence.held += 1

    def __del__(self):
        Licence.held -= hasattr(self, "given")


class Licensed(CostlyEnv):
    """An env that can exist three times per process."""

    def __init__(self, config):
        super().__init__(config)
        self._licence = Licence()
        self._licence.given = True


class Deadly(CostlyEnv):
    """An env that kills its process if it has more than `most` of them, like a crashing simulator."""

    held = 0

    def __init__(self, config):
        super().__init__(config)
        Deadly.held += 1
        if Deadly.held > config["most"]:
            os._exit(1)

    def close(self):
        Deadly.held -= 1


class SlowToMake(CostlyEnv):
    """An env that takes `make_s` to create."""

    def __init__(self, config):
        time.sleep(config["make_s"])
        super().__init__(config)


class Mine(RLlibCallback):
    """A user's callback."""


def probe(config, place, **options):
    said = []
    options = {"runners": [1, 2], "envs": [1, 2], "budget_minutes": 0.1, "confirm": False, "engine": "probes", **options}
    made = sweep(config, Goal("fast"), storage_path=place, say=said.append, show=lambda report: None, **options)
    return made, said


def measured(report):
    return {each.scale for each in report.studies[0].configurations}


GRID = {Scale(1, 1), Scale(1, 2), Scale(2, 1), Scale(2, 2)}


def odd(config):
    """Add what users have in their configs."""
    config.env_runners(num_env_runners=0, num_cpus_per_env_runner=0).callbacks([Mine, partial(ScalingCallback, probe=True)])
    return config.evaluation(evaluation_interval=2, evaluation_duration=20, evaluation_duration_unit="timesteps")


def test_config_with_callbacks_evaluation_and_processes_without_resources(tmp_path):
    made, _ = probe(odd(costly(batch=40, step_s=0.005)), tmp_path)
    assert measured(made) == GRID
    choice = made.studies[0].recommendation.choice
    assert choice.cpus == 1.0
    assert any(note.startswith("evaluation adds") for note in choice.notes)
    assert made.config.num_env_runners == choice.scale.num_env_runners
    assert made.config.evaluation_interval == 2


def test_trials_with_processes_without_resources_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="requests no resources"):
        probe(costly().env_runners(num_cpus_per_env_runner=0), tmp_path, engine="trials")


@pytest.mark.slow
def test_env_with_few_licences_is_probed_up_to_their_number(tmp_path):
    made, _ = probe(costly(Licensed, batch=40, step_s=0.005), tmp_path, runners=[1], envs=[1, 2, 4])
    assert measured(made) == {Scale(1, 1), Scale(1, 2)}
    (left_out,) = made.experiment.left_out
    assert left_out.name == "1r×4e"
    assert "no licence is left" in left_out.reason


@pytest.mark.parametrize(("keep", "most"), [(True, 1 + 1 + 2 + 3), (False, 1 + 3)])
def test_number_of_envs_alive_at_a_time(tmp_path, keep, most):
    host = ProbeHost(at_scale(costly(Simulator, batch=20, folder=str(tmp_path)), Scale(1, 1)), keep)
    alive = []
    try:
        for scale in (Scale(1, 1), Scale(1, 2), Scale(1, 3)):
            assert host.probe(scale, 0).env_steps > 0
            assert host.train(scale).env_steps >= 20
            alive.append(len(list(tmp_path.iterdir())))
    finally:
        host.close()
    assert max(alive) == most


@pytest.mark.slow
def test_env_that_kills_its_process_is_left_out(tmp_path):
    made, _ = probe(costly(Deadly, batch=40, step_s=0.005, most=4), tmp_path, runners=[1], envs=[1, 2, 4, 8], budget_minutes=0.3)
    assert measured(made) == {Scale(1, 1), Scale(1, 2)}
    reasons = dict(made.experiment.left_out)
    assert reasons.keys() == {"1r×4e", "1r×8e"}
    assert "died" in reasons["1r×4e"]
    assert reasons["1r×8e"].startswith("not tried after 1r×4e")


@pytest.mark.slow
def test_slow_env_creation_extends_the_time_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("rl_scaling_callback.sweeping.probe_host._LONGEST_PROBE_S", 1.0)
    made, _ = probe(costly(SlowToMake, batch=20, make_s=1.0), tmp_path, runners=[1], envs=[1, 2])
    assert measured(made) == {Scale(1, 1), Scale(1, 2)}


def test_sweep_waits_for_busy_resources_and_then_fails(cluster):
    request = costly().algo_class.default_resource_request(at_scale(costly(), Scale(3, 1)))
    said = []
    first = reserve(request, said.append)
    try:
        assert not said
        with pytest.raises(TimeoutError, match=r"4 CPUs are needed, and 1 are free"):
            reserve(request, said.append, longest_s=1.0)
        assert len(said) == 1
    finally:
        ray.util.remove_placement_group(first)


def test_started_cluster_has_cpus_for_remote_learners():
    assert cpus_for(costly(), 2) == 3
    assert cpus_for(costly().learners(num_learners=1), 2) == 4
    assert cpus_for(costly().env_runners(num_cpus_per_env_runner=0.5), 2) == 2
    assert cpus_for(costly().env_runners(num_cpus_per_env_runner=2), 4) == 5


def test_warns_if_the_cluster_fits_fewer_env_runners_than_cores(monkeypatch):
    host = Host("here", "a CPU", 64)
    monkeypatch.setattr("rl_scaling_callback.sweeping.cluster.nodes", lambda: [Node(host, {"CPU": 5.0}, "")])
    said = []
    scales, most = grid(costly(), "auto", [1], [{"CPU": 5.0}], said.append)
    assert most == Scale(4, 1)
    assert scales == [Scale(1, 1), Scale(2, 1), Scale(4, 1)]
    assert ["64 cores but fits only 4 env runners" in text for text in said] == [True]


CONFIG = """
from envs import CostlyEnv
from ray import tune
from tuning import costly

class Local(CostlyEnv):
    pass

tune.register_env("registered-in-a-file", lambda config: Local(config))
config = costly("registered-in-a-file", batch=20, step_s=0.01)
"""


def test_worker_can_create_an_env_registered_in_the_config_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    (tmp_path / "a_users_config.py").write_text(CONFIG)
    load_config(f"{tmp_path / 'a_users_config.py'}:config")

    @ray.remote
    def make():
        from ray.rllib.env.env_context import EnvContext

        return type(_global_registry.get(ENV_CREATOR, "registered-in-a-file")(EnvContext({}, 1))).__name__

    assert ray.get(make.remote()) == "Local"


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_shows_the_results_so_far(tmp_path):
    (tmp_path / "my_config.py").write_text(CONFIG)
    command = [sys.executable, "-m", "rl_scaling_callback", "sweep", f"{tmp_path / 'my_config.py'}:config", "--budget", "5"]
    command += ["--runners", "1", "--goal", "fastest", "--storage-path", str(tmp_path), "--write", str(tmp_path / "tuned.py")]
    environment = os.environ | {"RAY_ADDRESS": "local", "COLUMNS": "80"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, stderr=log, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True, cwd="/"
        )
        deadline = time.monotonic() + 120
        while "Round 2" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)  # to all processes, as a terminal does
        shown = process.communicate(timeout=60)[0]
    assert process.returncode == 130, (tmp_path / "log").read_text()
    assert "Interrupted:" in (tmp_path / "log").read_text()
    assert "config.env_runners(" in shown
    tuned = load_config(f"{tmp_path / 'tuned.py'}:config")
    assert tuned.num_env_runners == 1
