import math
import random

import pytest

from rl_scaling_callback.baseline.probed import ProbedBaseline
from rl_scaling_callback.core.attribution import TimeBreakdown, losses
from rl_scaling_callback.core.comparison import Counterpart
from rl_scaling_callback.core.probing import Probe
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import SteadyRule, SteadyWindow
from rl_scaling_callback.core.trial import Trial
from tests.builders import WORKLOAD

OWN, SINGLE, ONE_RUNNER = Scale(4, 2), Scale(1, 1), Scale(1, 2)
SECONDS_PER_STEP = {SINGLE: 1e-3, OWN: 0.4e-3, ONE_RUNNER: 0.8e-3}
BUSY_SHARE = 0.9
EMPTY = SteadyWindow(SteadyRule()).read()


class Machine:
    """A prober on a simulated machine with drifting speed and occasional stalls."""

    def __init__(self, noise=0.0, disturbed=0.0):
        self.now = 100.0
        self.slowness = 1.0
        self.probes = 0
        self.fragment = math.inf
        self._random = random.Random(0)
        self._noise = noise
        self._disturbed = disturbed

    def steps_per_round(self, scale):
        return self.fragment * scale.parallelism

    def measure(self, scales, rounds=1):
        return [self._probe(scale, each) for each in range(rounds) for scale in scales]

    def clock(self):
        return self.now

    def _probe(self, scale, number):
        self.probes += 1
        slow = self.slowness * math.exp(self._random.gauss(0, self._noise)) * (5 if self._random.random() < self._disturbed else 1)
        seconds = 256 * SECONDS_PER_STEP[scale] * slow
        self.now += seconds
        return Probe(scale, number, 256.0, seconds, (BUSY_SHARE * seconds,) * scale.num_env_runners)


def baseline(machine, scale=OWN, reference=SINGLE, overlaps=False, **options):
    trial = Trial("trial", scale, WORKLOAD, overlaps=overlaps)
    return ProbedBaseline(machine, trial, reference, clock=machine.clock, **options)


def iteration(slowness=1.0):
    """1,000 env steps at the trial's scale: 0.4 s of sampling, 0.1 s of learning."""
    return TimeBreakdown.of({"sample": 0.4 * slowness, "learn": 0.1 * slowness}, 0.5 * slowness, 0.36 * slowness, 0.36 * slowness)


def test_reference_samples_longer_and_learns_as_long():
    probed = baseline(Machine())
    sps, comparable, *_ = probed.compare_with(EMPTY, 1000.0, iteration())
    assert sps == pytest.approx(1000 / (1.0 + 0.1))
    assert comparable == 1.0
    assert probed.source == "probe"
    assert probed.is_baseline == 0.0
    assert probed.error == pytest.approx(0.0, abs=1e-9)


def test_slower_machine_slows_the_reference_too():
    machine = Machine()
    probed = baseline(machine)
    fast = 2000 * probed.compare_with(EMPTY, 1000.0, iteration())[0] ** -1
    machine.slowness = 3.0
    slow = 2000 * probed.compare_with(EMPTY, 1000.0, iteration(3.0))[0] ** -1
    assert slow == pytest.approx(3 * fast)


def test_noise_and_outliers_stay_within_the_reported_error():
    held = 0
    for seed in range(200):
        machine = Machine(noise=0.05, disturbed=0.03)
        machine._random.seed(seed)
        probed = baseline(machine)
        assert machine.probes == 5 * 3
        truth = 1000 / 1.1
        held += abs(math.log(probed.compare_with(EMPTY, 1000.0, iteration())[0] / truth)) <= math.log1p(probed.error / 100)
    assert held >= 184


@pytest.mark.parametrize(("rounds", "noise", "warns"), [(5, 0.01, False), (5, 3.0, True), (1, 0.01, True), (2, 0.01, False)])
def test_an_uncertain_baseline_warns_once(rounds, noise, warns):
    warnings = {}
    machine = Machine(noise=noise)
    measure, machine.measure = machine.measure, lambda scales, wanted=1: measure(scales, min(wanted, rounds))
    probed = baseline(machine, warn=warnings.setdefault)
    assert not probed.error <= 50 if warns else probed.error <= 50
    assert list(warnings) == ["error"] * warns


def test_learning_once_per_round_means_more_updates_at_the_reference():
    machine = Machine()
    machine.fragment = 4
    probed = baseline(machine)
    assert probed.compare_with(EMPTY, 1000.0, iteration())[0] == pytest.approx(1000 / (1.0 + 8 * 0.1))


def test_trial_at_the_reference_scale_is_its_own_reference():
    probed = baseline(Machine(noise=0.1), scale=SINGLE)
    spent = TimeBreakdown.of({"sample": 1.0, "learn": 0.1}, 1.2, 0.9, 0.9)
    assert probed.compare_with(EMPTY, 1000.0, spent)[0] == pytest.approx(1000 / 1.2)
    assert probed.is_baseline == 1.0


def test_larger_reference_counts_per_unit_of_its_parallelism():
    probed = baseline(Machine(), reference=ONE_RUNNER)
    assert probed.compare_with(EMPTY, 1000.0, iteration())[0] == pytest.approx(1000 / (0.8 + 0.1) / 2)


def test_overlapping_algorithms_use_the_probes_alone():
    probed = baseline(Machine(), overlaps=True)
    assert probed.compare_with(EMPTY, 1000.0, TimeBreakdown.of({}, 1.0))[0] == pytest.approx(1000.0)


def test_causes_sum_to_the_loss_and_none_is_estimated():
    probed = baseline(Machine())
    spent = iteration()
    lost, estimated = losses(OWN, 1000.0, spent, *probed.compare_with(EMPTY, 1000.0, spent)[2:])
    speedup = 2000.0 / probed.compare_with(EMPTY, 1000.0, spent)[0]
    assert sum(lost.values()) == pytest.approx(100 - 100 * speedup / 8, abs=1e-9)
    assert not estimated
    # One runner with two envs is busy for 0.72 ms per step: four would sample 1,000 steps in 0.18 s, but take 0.36 s.
    assert lost["contention"] == pytest.approx(100 * (0.36 - 0.18) / 0.5)


def test_probing_stays_within_its_share_of_the_time():
    machine = Machine()
    probed = baseline(machine)
    at_start = probed.take_seconds()
    before = machine.probes
    started = machine.now
    while machine.now < started + 400:
        machine.now += 2.0
        probed.refresh()
    spent = probed.take_seconds()
    assert at_start > 0
    assert machine.probes > before
    assert 0.005 < spent / (machine.now - started) <= 0.01
    assert probed.age < 100


def test_failed_probes_stay_within_their_share_and_keep_the_baseline():
    machine = Machine()
    probed = baseline(machine)
    ended = started = machine.now
    probed.take_seconds()
    failed = 0

    def measure(scales, rounds=1):
        machine.now += 10.0
        raise RuntimeError("an env hangs")

    machine.measure = measure
    for _ in range(1000):
        machine.now += 5.0
        try:
            probed.refresh()
        except RuntimeError:
            failed += 1
    assert failed >= 2
    assert probed.take_seconds() == pytest.approx(10.0 * failed)
    assert 10.0 * (failed - 1) <= 0.01 * (machine.now - started) + 1.0
    assert probed.age == pytest.approx(machine.now - ended)


def test_baseline_follows_drift_of_the_env(monkeypatch):
    machine = Machine()
    probed = baseline(machine)
    monkeypatch.setitem(SECONDS_PER_STEP, OWN, 0.8e-3)
    for _ in range(12):
        machine.now += 100.0
        probed.refresh()
    spent = TimeBreakdown.of({"sample": 0.8, "learn": 0.1}, 0.9, 0.72, 0.72)
    assert probed.compare_with(EMPTY, 1000.0, spent)[0] == pytest.approx(1000 / 1.1)


class Lasting:
    source, error, is_baseline = "trial", 5.0, 0.0

    def __init__(self, sps):
        self.sps = sps
        self.updates = 0

    def update(self, steady):
        self.updates += 1

    def compare_with(self, steady, env_steps):
        return Counterpart(self.sps, 1.0)


@pytest.mark.parametrize(("sps", "warns"), [(1000 / 1.1, False), (0.97 * 1000 / 1.1, False), (0.8 * 1000 / 1.1, True)])
def test_lasting_baseline_of_another_speed_warns_once(sps, warns):
    warnings = {}
    lasting = Lasting(sps)
    probed = baseline(Machine(), lasting=lasting, warn=warnings.setdefault)
    window = SteadyWindow(SteadyRule(warmup_iterations=0))
    for _ in range(8):
        window.add(1000.0, 0.5, iteration().parts)
        probed.update(window.read())
    assert lasting.updates == 8
    assert list(warnings) == ["lasting"] * warns


def test_asynchronous_trial_at_the_reference_scale_loses_only_evaluation():
    probed = baseline(Machine(noise=0.1), scale=SINGLE, overlaps=True)
    spent = TimeBreakdown(0.5, 0.3, 0.0, 0.7, 0.2, 0.4, 0.4)
    assert probed.compare_with(EMPTY, 1000.0, spent)[:2] == (pytest.approx(1000.0), 1.0)
    lost, _ = losses(SINGLE, 1000.0, spent, *probed.compare_with(EMPTY, 1000.0, spent)[2:])
    assert {cause for cause, points in lost.items() if abs(points) > 1e-9} == {"evaluate"}
    assert probed.error == 0


def test_stepping_and_contention_are_not_split_by_implausible_probes(monkeypatch):
    monkeypatch.setitem(SECONDS_PER_STEP, ONE_RUNNER, 4 * 0.4e-3 * 1.2)
    probed = baseline(Machine(noise=0.01))
    lost, estimated = losses(OWN, 1000.0, iteration(), *probed.compare_with(EMPTY, 1000.0, iteration())[2:])
    assert estimated
    assert lost["contention"] == 0
    assert lost["serial_stepping"] > 0


def test_asynchronous_trials_are_warned_that_the_reference_does_not_learn():
    warnings = {}
    baseline(Machine(), overlaps=True, warn=warnings.setdefault)
    assert list(warnings) == ["overlap"]
    baseline(Machine(), warn=warnings.__delitem__)
