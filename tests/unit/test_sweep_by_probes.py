"""A sweep by probes where the process that is probed is scripted."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from rl_scaling_callback.analysis.goals import Goal
from rl_scaling_callback.core.probing import Probe
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.hardware import this_host
from rl_scaling_callback.rllib.prober import ProbeError
from rl_scaling_callback.sweeping import probes
from rl_scaling_callback.sweeping.probe_host import Iteration
from rl_scaling_callback.sweeping.sweep import sweep

CONFIG = SimpleNamespace(algo_class=SimpleNamespace(__name__="PPO"), env="Env")


class ScriptedHost:
    """Stands in for the process that is probed: sampling scales, and `fails(host)` raises where it is to end."""

    fails = staticmethod(lambda host: None)

    def __init__(self, config, max_seconds):
        self.host, self.probed, self.added, self.trained_since = this_host(), 0, 0, 0

    def warm_up(self):
        pass

    def close(self):
        pass

    def steps_per_update(self, scales):
        self.added += len(scales)
        return dict.fromkeys(scales, math.inf)

    def train(self, scale):
        self.trained_since += 1
        self.fails(self)
        return Iteration(scale, 80.0, 0.8 / scale.parallelism + 0.01, {"learn": 0.008, "sync": 0.001, "other": 0.001})

    def probe(self, scale, number):
        self.probed, self.trained_since = number + 1, 0
        self.fails(self)
        seconds = 0.8 / scale.parallelism * (1 + 0.01 * math.sin(7 * number + scale.parallelism))
        return Probe(scale, number, 80.0, seconds, (seconds,) * scale.num_env_runners)


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(probes, "ProbeHost", ScriptedHost)
    monkeypatch.setattr(probes.schedule, "alive_nodes", list)
    monkeypatch.setattr(probes.schedule, "check", lambda *_: None)
    monkeypatch.setattr(probes.schedule, "at_scale", lambda config, scale: config)
    monkeypatch.setattr(probes.schedule, "cpus_of", lambda config: (1.0, 1.0))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ProbeError("The process died")])
@pytest.mark.parametrize(
    "when",
    [
        pytest.param(lambda host: host.probed == 2, id="probing"),
        pytest.param(lambda host: host.added > 4, id="right after larger configurations were added"),
        pytest.param(lambda host: host.probed > 2 and host.trained_since > 4, id="confirming"),
    ],
)
def test_a_sweep_that_ends_early_reports_what_is_known(scripted, monkeypatch, when, error):
    def fails(host):
        if when(host):
            raise error

    monkeypatch.setattr(ScriptedHost, "fails", staticmethod(fails))
    said = []
    experiment, rounds = probes.sweep_by_probes(CONFIG, Goal("fast"), runners=[1, 2], budget_s=2.0, say=said.append)
    assert rounds.probes
    assert {run.scale for run in experiment.studies[0].runs} >= {Scale(1, 1), Scale(1, 2), Scale(2, 1), Scale(2, 2)}
    assert any(text.startswith("Interrupted:" if isinstance(error, KeyboardInterrupt) else "Ended early") for text in said)


def test_what_cannot_be_probed_is_not_trained(scripted, monkeypatch):
    trained = []

    def probe(self, scale, number):
        return "no licence" if scale.num_envs_per_env_runner > 1 else ScriptedHost.probe(self, scale, number)

    def train(self, scale):
        trained.append(scale)
        return ScriptedHost.train(self, scale)

    monkeypatch.setattr(probes, "ProbeHost", type("Host", (ScriptedHost,), {"probe": probe, "train": train}))
    experiment, rounds = probes.sweep_by_probes(CONFIG, Goal("fast"), runners=[1, 2], envs=[1, 4], budget_s=1.0, say=lambda _: None)
    assert set(trained) == {Scale(1, 1), Scale(2, 1)}
    assert set(rounds.failed) == {Scale(1, 4), Scale(2, 4)}
    assert {each.name: each.reason for each in experiment.left_out} == {"1r×4e": "no licence", "2r×4e": "no licence"}


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"runners": 4}, ValueError, "runners is 4; allowed are several numbers"),
        ({"envs": np.int64(4)}, ValueError, "envs is .*4.*; allowed are several numbers"),
        ({"envs": np.array([1.5])}, ValueError, "envs is .*1.5.*; allowed are whole numbers from 1 up"),
        ({"budget": 1.0}, TypeError, "'budget'"),
    ],
)
def test_options_that_a_sweep_has_not_are_refused_before_ray_starts(monkeypatch, options, error, text):
    monkeypatch.setattr("rl_scaling_callback.sweeping.sweep.connect", lambda: pytest.fail("connected"))
    with pytest.raises(error, match=text):
        sweep(CONFIG, **options)


def test_what_an_update_takes_rises_with_env_runners_and_with_envs():
    def update(scale):
        return 0.01 + 0.002 * scale.num_env_runners + 0.0005 * scale.parallelism

    scales = [Scale(1, 1), Scale(2, 1), Scale(1, 4), Scale(2, 4), Scale(4, 8)]
    steps = {scale: float(scale.parallelism) for scale in scales}  # each learns once a step of all its envs
    rounds = probes.Rounds(scales, steps)
    for scale in scales[:-1]:
        rounds.trained(Iteration(scale, 80.0, 2.0, {"learn": 80.0 / steps[scale] * update(scale), "sync": 0.0, "other": 0.0}))
    assert rounds.rest == pytest.approx([update(scale) / steps[scale] for scale in scales])
