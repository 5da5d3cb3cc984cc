"""Sweeps with a scripted process in place of an Algorithm, what they read from a config, and connecting to a cluster."""

import math
import os
import random
import re
import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.analysis.choice import GOALS
from rl_scaling_callback.analysis.probe_rounds import MIN_ITERATIONS, ProbeRounds
from rl_scaling_callback.analysis.race import Grid, Race
from rl_scaling_callback.core.probing import Probe, ProbeError
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.report import make_report
from rl_scaling_callback.rllib.hardware import this_machine
from rl_scaling_callback.sweeping import by_probes, by_training
from rl_scaling_callback.sweeping import sweep as sweeps
from rl_scaling_callback.sweeping.host import TrainedIteration
from rl_scaling_callback.sweeping.sweep import sweep
from rl_scaling_callback.sweeping.task import Task, load_config

CONFIG = SimpleNamespace(
    algo_class=SimpleNamespace(__name__="PPO"),
    env="Env",
    enable_env_runner_and_connector_v2=True,
    num_cpus_for_main_process=1,
    num_cpus_per_env_runner=1,
)
FASTEST = GOALS["fastest"]
ENVS = tuple(2**power for power in range(9))
SLOW = {"learner_threads": 1.0, "slower": 5}


def trained(scale, seconds, learn=0.008, env_steps=80.0, resets_s=0.0):
    return TrainedIteration(scale, env_steps, seconds, {"learn": learn, "sync": 0.001, "other": 0.001, "all_resets": resets_s})


class ScriptedHost:
    """A fake `Host` with perfectly scaling sampling and a simulated clock; it raises `error` if `when(host)`."""

    now = 0.0
    learner_threads = math.nan
    threads = slower = 1

    def __init__(self, config, *, probes=True, say=print):
        self.scale, self.machine, self.probes = config, replace(this_machine(), cores=4), probes
        self.probed = self.added = self.trained_since = 0
        self.times, self.trained_with = Counter(), Counter()

    def close(self):
        pass

    def env_steps_per_update(self, scale):
        self.added += 1
        return math.inf

    def update_s(self):
        return 0.008

    def train(self, scale, threads=None):
        self.trained_since += 1
        self.trained[scale] += 1
        self.fail_if_due()
        self.threads = threads or self.threads
        self.trained_with[threads] += 1
        learn = self.slower * self.update_s()
        seconds = self.slower * 0.8 / scale.parallelism + 0.002 + learn
        if not self.probes:
            seconds = 2.0 / min(scale.num_env_runners, 2) / min(scale.num_envs_per_env_runner, 4) + 0.01
        seconds *= self.slowed(scale)
        ScriptedHost.now += seconds
        return trained(scale, seconds, learn)

    def slowed(self, scale):
        """Return the factor by which the next training iteration is slower than usual."""
        return 1

    def fail_if_due(self):
        if self.when(self):
            raise self.error

    def noisy(self, seconds, scale, noise):
        """Return what the next measurement of a scale yields, in whatever order they are made."""
        self.times[scale] += 1
        return seconds * random.Random(f"{scale} {self.times[scale]}").lognormvariate(0, noise)

    def probe(self, scale):
        self.probed += scale == REFERENCE_SCALE
        self.trained_since = 0
        self.fail_if_due()
        seconds = self.noisy(self.slower * 0.8 / scale.parallelism, scale, 0.01)
        ScriptedHost.now += seconds
        return Probe(scale, 80.0, seconds, (seconds,) * scale.num_env_runners)


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(ScriptedHost, "now", 0.0)

    def use(when=lambda host: False, **changed):
        host = type("Host", (ScriptedHost,), {"trained": Counter(), "when": staticmethod(when), **changed})
        for way in (by_probes, by_training):
            monkeypatch.setattr(way, "Host", host)
            monkeypatch.setattr(way, "at_scale", lambda config, scale: scale)

    use()
    return use


def by(way, runners=(1, 2), envs=ENVS, **options):
    """Sweep the scripted process; return the measurements and the messages."""
    said = []

    def clock():
        ScriptedHost.now += 1e-6
        return ScriptedHost.now

    return way(Task(CONFIG, Race(FASTEST), Grid(runners, envs), said.append, clock), **options), said


def probe(**options):
    return by(by_probes.sweep_by_probes, **{"grows": "envs" not in options, **options})


def train(**options):
    return by(by_training.sweep_by_training, **options)


def runs(swept):
    return {run.scale: run for run in swept.experiment.studies[0].runs}


def notes(swept):
    return [note for run in runs(swept).values() for note in run.notes]


def recommendation(swept, goal=FASTEST):
    return make_report(swept.experiment, goal).studies[0].recommendation


# Without probes


def test_training_doubles_each_axis_while_that_pays_off_and_repeats_the_best(scripted):
    """Two env runners are twice as fast as one, and 4 envs 4 times; more of either gain nothing."""
    swept, said = train(runners=(1, 2, 4))
    assert recommendation(swept).choice.scale == Scale(2, 4)
    times = Counter(run.scale for run in swept.experiment.studies[0].runs)
    assert times[REFERENCE_SCALE] == times[Scale(2, 4)] == max(times.values()) == 3
    assert times.keys() < {Scale(r, e) for r in (1, 2, 4) for e in (1, 2, 4, 8)}
    assert times.total() <= 15
    assert said[:2] == ["Training with 1r×1e", "Round 1: 1r×1e leads, 1.00×"]
    assert said[-1].startswith("Round 3: 2r×4e leads, ")


@pytest.mark.parametrize(
    ("envs", "when", "left_out", "choice"),
    [
        (ENVS, lambda host: host.scale.num_envs_per_env_runner > 1, "1r×2e", Scale(2, 1)),  # and nothing larger is tried
        ((1,), lambda host: host.scale == Scale(4, 1) and host.trained[Scale(4, 1)] > 5, "4r×1e", Scale(2, 1)),  # in its repeat
    ],
)
def test_configuration_that_fails_in_training_is_left_out(scripted, envs, when, left_out, choice):
    trained = Counter()
    scripted(error=ProbeError("out of memory"), when=when, trained=trained)
    swept, _ = train(runners=(1, 2, 4), envs=envs)
    assert recommendation(swept).choice.scale == choice
    assert [*swept.experiment.left_out] == [(left_out, "out of memory")]
    assert {scale for scale in trained if scale.num_envs_per_env_runner > 1} <= {Scale(1, 2)}


@pytest.mark.parametrize(
    ("train_", "text"),
    [
        (Mock(side_effect=ProbeError("the port is taken")), "the port is taken"),
        (lambda self, scale: trained(scale, 2.0, env_steps=0.0), "not steady after 60 iterations"),
    ],
)
def test_reference_that_cannot_be_trained_ends_a_sweep(scripted, train_, text):
    scripted(train=train_)
    with pytest.raises(ProbeError, match=text):
        train()


def test_configuration_with_another_batch_is_trained_once_and_not_compared(scripted):
    scripted(train=lambda self, scale: trained(scale, 2.0, env_steps=80.0 if scale == REFERENCE_SCALE else 100.0))
    swept, _ = train(envs=(1, 2), runners=(1,))
    assert {scale: run.steady.env_steps / run.steady.iterations for scale, run in runs(swept).items()} == {
        REFERENCE_SCALE: 80.0,
        Scale(1, 2): 100.0,
    }
    assert recommendation(swept).choice.scale == REFERENCE_SCALE


# With probes


@pytest.mark.parametrize(
    ("way", "error", "when"),
    [
        pytest.param(train, TimeoutError("others use the CPUs"), lambda host: host.scale == Scale(2, 2), id="training"),
        pytest.param(probe, ProbeError("it died"), lambda host: host.probed == 2, id="probing"),
        pytest.param(probe, ProbeError("it died"), lambda host: host.added > 4, id="right after larger ones were added"),
        pytest.param(probe, ProbeError("it died"), lambda host: host.probed > 2 and host.trained_since > 4, id="confirming"),
    ],
)
@pytest.mark.parametrize("interrupted", [True, False])
def test_sweep_that_ends_early_reports_the_results_so_far(scripted, way, error, when, interrupted):
    scripted(error=KeyboardInterrupt() if interrupted else error, when=when)
    swept, said = way()
    assert swept.interrupted == interrupted
    assert runs(swept).keys() >= {REFERENCE_SCALE, Scale(1, 2), Scale(2, 1)}
    assert said[-1] == f"{'Interrupted' if interrupted else f'Ended early ({error})'}: showing the results so far"


def test_configuration_that_cannot_be_probed_is_neither_probed_again_nor_trained(scripted):
    probed, trained = Counter(), Counter()

    def fail(self, scale):
        probed[scale] += 1
        return "no licence" if scale.num_envs_per_env_runner > 1 else ScriptedHost.probe(self, scale)

    scripted(probe=fail, trained=trained)
    swept, _ = probe(envs=(1, 4))
    assert dict(swept.experiment.left_out) == {"1r×4e": "no licence", "2r×4e": "no licence"}
    assert probed[Scale(1, 4)] == probed[Scale(2, 4)] == 1
    assert trained.keys() == {REFERENCE_SCALE, Scale(2, 1)}


@pytest.mark.parametrize(("error", "end"), [(5.0, 5 + 12), (50.0, 5 + 30)])
def test_rounds_go_on_for_longer_while_errors_are_large(error, end):
    said = []
    task = Task(CONFIG, Race(FASTEST), Grid((1,), (1,)), said.append, clock=lambda: 0.0)
    running = by_probes._Sweep(task, ScriptedHost(None))
    running.rounds.first_round_ended, running.rounds.probes = 5.0, [{}] * 3
    best = SimpleNamespace(scale=Scale(1, 2), speedup=2.0, speedup_error=error)
    assert running.end_of_rounds(SimpleNamespace(candidates=[best], out=frozenset(), best=best)) == end
    assert said[0].startswith("Round 3: 1r×2e leads, 2.00× ± ")
    assert said[0].endswith(f"at most {end} s left")


def test_a_stall_leads_to_more_iterations_that_confirm_instead_of_a_wide_interval(scripted):
    trained = Counter()
    scripted(trained=trained, slowed=lambda self, scale: 10 if scale == Scale(2, 4) and trained[scale] == 2 else 1)
    swept, _ = probe(envs=(1, 4))
    (note,) = runs(swept)[Scale(2, 4)].notes
    assert float(re.search(r"± (\d+) %", note)[1]) < 11
    assert trained[Scale(2, 4)] > 4


def test_training_that_varies_too_much_confirms_nothing(scripted):
    scripted(slowed=lambda self, scale: self.noisy(1.0, scale, 1.0))
    swept, _ = probe(envs=(1, 4))
    assert any(note.startswith("training iterations vary too much to confirm it") for note in notes(swept))


@pytest.mark.parametrize("slower", [1, 20])
def test_fewest_threads_as_fast_as_the_best_are_chosen_for_the_learner(scripted, slower):
    # An iteration of 2r×2e takes 0.2 s for sampling, 2 ms for the rest, and 60 ms for updates, or 30 ms with two or more threads.
    scripted(slower=slower, learner_threads=1.0, update_s=lambda self: 0.06 / min(self.threads, 2))
    swept, said = probe(envs=(1, 2))
    assert swept.learner_threads == {recommendation(swept).choice.scale: 2}
    note = "2 threads for the learner's torch instead of 1: iterations 1.13× ± 0.0 % as fast, updates 2.00× ± 0.0 %"
    assert said[-2:] == ["Training with 1, 2, 3 threads for the learner's torch", note]
    assert note in recommendation(swept).choice.notes


def test_env_runners_share_the_resets_that_probes_exclude(scripted):
    """An env step takes 10 ms in probes and 5 ms for resets, and an iteration of 80 steps 10 ms more."""

    def seconds(scale):
        return 0.8 / scale.parallelism + 0.4 / scale.num_env_runners + 0.01

    scripted(train=lambda self, scale: trained(scale, seconds(scale), resets_s=0.4))
    swept, _ = probe(envs=(1, 4))
    for scale in (REFERENCE_SCALE, Scale(2, 4)):
        assert runs(swept)[scale].steady.sps == pytest.approx(80 / seconds(scale), rel=0.02)
    choice = recommendation(swept).choice
    assert sum(choice.losses.values()) == pytest.approx(choice.loss)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"runners": 4}, ValueError, "runners is 4; allowed are several numbers"),
        ({"envs": np.int64(4)}, ValueError, "envs is .*4.*; allowed are several numbers"),
        ({"envs": np.array([1.5])}, ValueError, "envs is .*1.5.*; allowed are whole numbers from 1 up"),
        ({"envs": [0]}, ValueError, "envs is 0; allowed are whole numbers from 1 up"),
        ({}, TypeError, "config is namespace"),
        ({"config": PPOConfig().callbacks(partial(ScalingCallback, learner_threads=0))}, ValueError, "learner_threads is 0"),
        ({"config": IMPALAConfig().callbacks(partial(ScalingCallback, learner_threads=2))}, ValueError, "allowed is only None"),
    ],
)
def test_invalid_options_are_rejected_before_ray_starts(monkeypatch, options, error, text):
    monkeypatch.setattr("rl_scaling_callback.sweeping.sweep.connect", lambda *_, **__: pytest.fail("connected"))
    with pytest.raises(error, match=text):
        sweep(**{"config": CONFIG, **options})


# The time of an iteration apart from sampling


def rounds_of(scales, steps, *iterations):
    return ProbeRounds(Race(FASTEST), Grid((1,), (1,)), steps=dict(zip(scales, steps, strict=True)), iterations=[*iterations])


def test_updates_at_one_scale_are_predicted_to_take_as_long_at_others():
    scales = [REFERENCE_SCALE, Scale(2, 1), Scale(2, 8)]
    at_one = rounds_of(scales, [math.inf] * 3, *[trained(Scale(2, 1), 0.1)] * 4)
    assert at_one.rest == pytest.approx([0.01 / 80] * 3)
    at_one.iterations += [trained(Scale(2, 8), 0.1, learn=0.022)] * 4
    assert at_one.rest == pytest.approx([0.009 / 80, 0.01 / 80, 0.024 / 80])  # 1 ms more for each env


def test_update_time_rises_with_env_runners_and_envs():
    def update(scale):
        return 0.01 + 0.002 * scale.num_env_runners + 0.0005 * scale.parallelism

    scales = [REFERENCE_SCALE, Scale(2, 1), Scale(1, 4), Scale(2, 4), Scale(4, 8)]
    steps = [float(scale.parallelism) for scale in scales]  # one update per step of all envs
    each = [trained(scale, 2.0, 80.0 / scale.parallelism * update(scale) - 0.002) for scale in scales[:-1]]
    assert rounds_of(scales, steps, *each).rest == pytest.approx([update(scale) / scale.parallelism for scale in scales])


def test_few_training_iterations_do_not_hide_their_error():
    scales = [Scale(2, 4), REFERENCE_SCALE, Scale(2, 2), Scale(2, 1)]
    iterations = [trained(scale, 2.0, learn) for scale, learn in zip(scales[:MIN_ITERATIONS], [1.0, 1.2, 0.8, 1.1], strict=True)]
    assert rounds_of(scales, [80.0] * 4, *iterations).rest_error > 0.05


@pytest.mark.parametrize(("learn", "slower", "ratio"), [(0.75, 1, "0.0"), (0.1, 3, "2.9")], ids=["not timed", "slower in training"])
def test_training_that_probes_do_not_reproduce_is_not_predicted_by_them(scripted, learn, slower, ratio):
    seconds = slower * 0.8
    scripted(train=lambda self, scale: trained(scale, seconds / scale.parallelism + 0.01, learn=learn / scale.parallelism))
    with pytest.raises(ProbeError, match=f"An env step takes {ratio}.* times as long in training as in probes"):
        probe()


# The config, its file, and the cluster, where Ray is scripted


def test_cpus_follow_the_config():
    assert sweeps.cpus_of(PPOConfig().env_runners(num_cpus_per_env_runner=0.5)) == (1.0, 0.5)
    assert sweeps.cpus_of(PPOConfig().env_runners(num_cpus_per_env_runner=2).resources(num_cpus_for_main_process=3)) == (3.0, 2.0)
    assert sweeps.cpus_of(PPOConfig().learners(num_learners=1)) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("each", "cpus", "runners"), [(1, 9, (1, 2, 4, 8)), (2, 9, (1, 2, 4)), (0.5, 9, (1, 2, 4, 8)), (0, 3, (1, 2))]
)
def test_env_runners_to_try_fill_the_cluster(monkeypatch, each, cpus, runners):
    nodes = [{"Alive": True, "Resources": {"CPU": float(cpus)}}, {"Alive": False, "Resources": {"CPU": 8.0}}]
    monkeypatch.setattr(sweeps, "ray", SimpleNamespace(nodes=lambda: nodes))
    config = PPOConfig().env_runners(num_cpus_per_env_runner=each)
    assert sweeps.grid_of(config, "auto", [1, 3]) == sweeps.Grid(runners, (1, 3))
    if each:
        refusal = f"never run 20 env runners: they need {1 + 20 * each:g} CPU, but the cluster has {cpus}"
        with pytest.raises(ValueError, match=refusal):
            sweeps.grid_of(config, [1, 20], [1])


RUNS_ALREADY = "When connecting to an existing cluster, num_cpus and num_gpus must not be provided."


@pytest.mark.parametrize(("problem", "calls"), [(None, 1), (RUNS_ALREADY, 2), ("Malformed address", 1)])
def test_a_running_cluster_is_used_and_other_errors_of_ray_are_not_hidden(monkeypatch, problem, calls):
    started = []

    def init(**options):
        started.append(options)
        if problem and "num_cpus" in options:
            raise ValueError(problem)

    monkeypatch.setattr(sweeps, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(ValueError, match=problem) if problem == "Malformed address" else nullcontext():
        sweeps.connect(3)
    assert ["num_cpus" in options for options in started] == [True, False][:calls]


def test_config_file_can_import_modules_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "before")
    (tmp_path / "beside_my_config.py").write_text("from ray.rllib.algorithms.ppo import PPOConfig\n")
    (tmp_path / "my_config.py").write_text("from beside_my_config import PPOConfig\nconfig = PPOConfig\n")
    assert isinstance(load_config(f"{tmp_path / 'my_config.py'}:config"), PPOConfig)
    assert os.environ["PYTHONPATH"] == f"{tmp_path}{os.pathsep}before"
