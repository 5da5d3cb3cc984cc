import math
import random
from unittest.mock import Mock

import pytest

from rl_scaling_callback.baseline.probed import ProbedBaseline
from rl_scaling_callback.core.attribution import TimeBreakdown, losses
from rl_scaling_callback.core.probing import Probe, ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import SteadyRule, SteadyWindow
from tests.builders import Warnings

OWN, SINGLE, ONE_RUNNER, TWO_RUNNERS = Scale(4, 2), Scale(1, 1), Scale(1, 2), Scale(2, 1)
SECONDS_PER_STEP = {SINGLE: 1e-3, OWN: 0.4e-3, ONE_RUNNER: 0.8e-3, TWO_RUNNERS: 0.5e-3}
SYNC_SECONDS_PER_RUNNER = 1e-3
BUSY_SHARE = 0.9


class Machine:
    """A prober on a simulated machine with drifting speed and occasional stalls, and the trial's iterations there."""

    def __init__(self, noise=0.0, disturbed=0.0):
        self.now = 100.0
        self.slowness = 1.0
        self.cost_of_step = self.cost_for_twins = 1.0
        self.closed = self.probes = 0
        self.busy_share = BUSY_SHARE
        self.fragment = math.inf
        self._random = random.Random(0)
        self._noise = noise
        self._disturbed = disturbed

    def env_steps_per_update(self, scale):
        return self.fragment * scale.parallelism

    def measure(self, scales, rounds=1):
        return [{scale: self._probe(scale) for scale in scales} for _ in range(rounds)]

    def close(self):
        self.closed += 1

    def iterate(self, scale=OWN, **times):
        slow = self.slowness * math.exp(self._random.gauss(0, self._noise))
        sample = 1000 * SECONDS_PER_STEP[scale] * slow * self.cost_of_step
        self.now += sample + 0.1 * self.slowness
        busy = self.busy_share * sample
        phases = {"sample": sample, "learn": 0.1 * self.slowness} | times
        return TimeBreakdown.of(phases, sample + 0.1 * self.slowness, busy, busy)

    def train(self, probed, seconds):
        """Train for some time, and return how often earlier iterations turned out to be other work."""
        until, changes = self.now + seconds, 0
        while self.now < until:
            changes += probed.observe(1000.0, self.iterate())
        return changes

    def _probe(self, scale):
        self.probes += 1
        slow = self.slowness * math.exp(self._random.gauss(0, self._noise)) * (5 if self._random.random() < self._disturbed else 1)
        seconds = 256 * SECONDS_PER_STEP[scale] * slow * self.cost_for_twins
        self.now += seconds
        runners = scale.num_env_runners
        return Probe(scale, 256.0, seconds, (BUSY_SHARE * seconds,) * runners, sync=runners * SYNC_SECONDS_PER_RUNNER)


def baseline(machine, scale=OWN, reference=SINGLE, **options):
    return ProbedBaseline(machine, scale, reference, clock=lambda: machine.now, **options)


def trained(seconds=20.0, noise=0.02, **machine):
    """Return a machine, a baseline that was probed while the trial trained there, and its warnings."""
    machine, warnings = Machine(noise, **machine), Warnings()
    probed = baseline(machine, warn=warnings)
    assert machine.train(probed, seconds) == 0
    return machine, probed, warnings


def seconds_of_reference(probed, times):
    return 1000 / probed.reference_for(1000.0, times)[0]


ITERATION = TimeBreakdown.of({"sample": 0.4, "learn": 0.1}, 0.5, 0.36, 0.36)
"""1,000 env steps at the trial's scale."""
WITH_WEIGHTS = TimeBreakdown.of({"sample": 0.4, "learn": 0.1, "sync": 0.04}, 0.6, 0.36, 0.36)
AT_REFERENCE = TimeBreakdown.of({"sample": 1.0, "learn": 0.1, "evaluate": 0.3}, 1.5, 0.9, 0.9)


@pytest.mark.parametrize(
    ("options", "fragment", "times", "seconds"),
    [
        ({}, math.inf, ITERATION, 1.0 + 0.1),
        ({}, math.inf, WITH_WEIGHTS, 1.0 + 0.1 + 0.01 + 0.06),  # to one env runner instead of four
        ({}, 4, WITH_WEIGHTS, 1.0 + 8 * (0.1 + 0.01 + 0.06)),  # it learns once per round, so 8 times as often
        ({"scale": SINGLE}, math.inf, AT_REFERENCE, 1.2),  # it is its own reference, without evaluation
        ({"reference": ONE_RUNNER}, math.inf, ITERATION, 2 * (0.8 + 0.1)),  # per unit of its parallelism
    ],
)
def test_reference_samples_longer_and_learns_as_long(options, fragment, times, seconds):
    machine = Machine()
    machine.fragment = fragment
    probed = baseline(machine, **options)
    assert seconds_of_reference(probed, times) == pytest.approx(seconds)
    assert probed.reference_for(1000.0, times)[1] == 1.0
    assert (probed.status.source, probed.status.is_baseline) == ("probe", float(options == {"scale": SINGLE}))
    if not options:
        assert math.isnan(probed.status.error), "three probes within a second say nothing about the next second"


@pytest.mark.parametrize(("lasts_s", "least"), [(0.0, 0.93), (3.0, 0.85)])
def test_stated_errors_hold_the_figure_of_another_trial(lasts_s, least):
    """The machine is slower by a half for a time, as often as not. Half a minute has few independent times of 3 s."""
    held = []
    for seed in range(100):
        machine = Machine(noise=0.05)
        machine._random.seed(seed)

        def spell(machine=machine):
            if lasts_s:
                machine.slowness = 1.5 if machine._random.random() < 0.5 else 1.0
            return machine.now + machine._random.expovariate(1 / max(lasts_s, 0.1))

        probed, until = baseline(machine), 0.0
        steady, other = SteadyWindow(SteadyRule()), SteadyWindow(SteadyRule())
        while machine.now < 130.0:
            until = spell() if machine.now > until else until
            times = machine.iterate()
            if probed.observe(1000.0, times):
                steady.start_over()
            steady.add(1000.0, times.total, times.parts)
        here = probed.reference_for(steady.read().env_steps, TimeBreakdown.of_window(steady.read().parts))[0]
        while machine.now < 160.0:
            until = spell() if machine.now > until else until
            other.add(1000.0, machine.iterate(SINGLE).total)
        held.append(abs(math.log(here / other.read().sps)) <= math.log1p(probed.status.error / 100))
    assert least <= sum(held) / 100


@pytest.mark.parametrize(
    ("rounds", "noise", "seconds", "warns"),
    [(3, 0.01, 60.0, False), (3, 0.6, 60.0, True), (3, 0.6, 25.0, False), (1, 0.01, 0.0, True)],
)
def test_an_uncertain_baseline_warns_once_and_not_in_the_first_half_minute(rounds, noise, seconds, warns, warn):
    machine = Machine(noise=noise)
    measure, machine.measure = machine.measure, lambda scales, wanted=1: measure(scales, min(wanted, rounds))
    probed = baseline(machine, warn=warn)
    machine.train(probed, seconds)
    assert list(warn) == ["uncertain baseline"] * warns


class TestAgainstTheTrialsOwnIterations:
    """Probes at the trial's own scale must reproduce its iterations."""

    @pytest.mark.parametrize("times", [3.0, 20.0])
    def test_a_changed_env_is_probed_again_after_two_iterations(self, times):
        machine, probed, warnings = trained(60.0)
        machine.cost_of_step = machine.cost_for_twins = times
        assert [probed.observe(1000.0, machine.iterate()) for _ in range(3)] == [False, True, False]
        assert seconds_of_reference(probed, machine.iterate()) == pytest.approx(times + 0.1, rel=0.2)
        assert not machine.closed, "the new twins agree"
        assert not warnings
        assert probed.status.source == "probe"

    def test_probes_of_another_env_than_the_trials_are_made_anew_then_not_trusted_until_they_agree(self):
        machine, probed, warnings = trained()
        machine.cost_of_step = 20.0
        for _ in range(4):
            assert not probed.observe(1000.0, machine.iterate())
        assert machine.closed == 1
        sps, comparable, *_ = probed.reference_for(1000.0, machine.iterate())
        assert (sps, comparable, probed.status.error) == pytest.approx((math.nan, 0.0, math.nan), nan_ok=True)
        assert probed.status.source == ""
        assert list(warnings) == ["disagree"]
        assert "2r" not in warnings["disagree"]
        assert "4r×2e, take 0." in warnings["disagree"]
        machine.train(probed, 60.0)
        assert not probed.status.source
        machine.cost_of_step = 1.0
        machine.train(probed, 60.0)
        assert probed.status.source == "probe"

    def test_failed_probes_of_a_changed_env_leave_the_baseline_unknown_until_probes_work_again(self):
        machine, probed, warnings = trained()
        machine.cost_of_step = machine.cost_for_twins = 20.0
        measure, machine.measure = machine.measure, Mock(side_effect=ProbeError("An env hangs."))
        for is_known in (True, False, False):  # the first one may be a stall
            assert not probed.observe(1000.0, machine.iterate())
            assert bool(probed.status.source) == is_known
        assert "An env hangs." in warnings["later probe"]
        machine.measure = measure
        machine.train(probed, 600.0)
        assert probed.status.source == "probe"
        assert seconds_of_reference(probed, machine.iterate()) == pytest.approx(20.0 + 0.1, rel=0.1)

    @pytest.mark.parametrize("stall", [4.0, 40.0])
    def test_a_stalled_iteration_changes_nothing(self, stall):
        machine, probed, _ = trained()
        for _ in range(5):
            before = machine.probes
            machine.cost_of_step = stall
            assert not probed.observe(1000.0, machine.iterate())
            assert machine.probes == before
            machine.cost_of_step = 1.0
            assert not machine.train(probed, 10.0)
        assert probed.status.error < 10
        assert not machine.closed

    @pytest.mark.parametrize("stalled", [2, 3, 4])
    def test_a_stall_among_the_first_iterations_does_not_hide_a_change(self, stalled):
        machine, probed, _ = trained(0.0)
        for iteration in range(1, 6):
            machine.cost_of_step = 6.0 if iteration == stalled else 1.0
            probed.observe(1000.0, machine.iterate())
        machine.cost_of_step = 12.0
        for _ in range(3):
            probed.observe(1000.0, machine.iterate())
        assert not probed.status.source

    def test_a_small_difference_is_the_same_time_at_the_reference(self):
        # An iteration of 0.4 s takes 24 ms longer than probes, and so would one of 1 s.
        machine = Machine()
        probed = baseline(machine)
        machine.cost_of_step = 1.06
        machine.train(probed, 30.0)
        assert seconds_of_reference(probed, machine.iterate()) == pytest.approx(1.024 + 0.1)
        assert probed.status.error == pytest.approx(100 * (1.06 / 1.024 - 1), rel=0.05)

    def test_sampling_outside_rllibs_timers_is_noticed_in_the_first_iteration(self):
        machine, probed, warnings = trained(0.0)
        for _ in range(21):
            probed.observe(1000.0, machine.iterate(sample=1e-5 * machine._random.random()))
            assert not probed.status.source
        assert "ENV_RUNNER_SAMPLING_TIMER" in warnings["disagree"]

    def test_env_runners_that_sample_for_less_of_an_iteration_than_in_probes_are_a_disagreement(self):
        machine, probed, warnings = trained(0.0)
        machine.busy_share = 0.3  # the rest is a wait that short probes don't meet
        machine.train(probed, 30.0)
        assert not probed.status.source
        assert list(warnings) == ["disagree"]

    def test_noise_of_a_shared_machine_is_no_disagreement(self):
        machine, probed, warnings = trained(0.0, noise=0.1, disturbed=0.05)
        for _ in range(100):
            machine.slowness = machine._random.choice([1.0, 1.55])
            assert machine.train(probed, 3.0) == 0
            assert probed.status.source == "probe"
        assert "disagree" not in warnings
        assert not machine.closed


def test_resets_are_part_of_the_reference_as_often_as_in_training():
    # 4 env runners of which each spends 0.2 s on resets: a single one would spend 0.8 s.
    times = TimeBreakdown.of({"sample": 0.6, "learn": 0.1}, 0.7, 0.56, 0.56, 0.2, 0.8)
    sps, _, reference, one_runner = baseline(Machine()).reference_for(1000.0, times)
    assert sps == pytest.approx(1000 / (1.0 + 0.8 + 0.1))
    assert (reference.sample, reference.busy) == pytest.approx((1.8e-3, 1.7e-3))
    assert one_runner == pytest.approx(0.36 * 4 * 0.5e-3 + 0.8e-3)
    of_two = baseline(Machine(), reference=TWO_RUNNERS).reference_for(1000.0, times).breakdown
    assert of_two.sample == pytest.approx(2 * (0.5 + 0.8 / 2) / 1000)


def test_stepping_and_contention_are_not_split_by_implausible_probes(monkeypatch):
    monkeypatch.setitem(SECONDS_PER_STEP, ONE_RUNNER, 4 * 0.4e-3 * 1.2)
    probed = baseline(Machine(noise=0.01))
    lost, estimated = losses(OWN, 1000.0, ITERATION, *probed.reference_for(1000.0, ITERATION)[2:])
    assert estimated
    assert lost["contention"] == 0
    assert lost["serial_stepping"] > 0


def test_probing_stays_within_its_share_of_the_time():
    machine = Machine()
    probed = baseline(machine)
    assert probed.take_seconds() > 0
    started = machine.now
    machine.train(probed, 30.0)
    first = probed.take_seconds()
    assert 0.07 < first / 30.0 <= 0.1
    machine.train(probed, 400.0)
    assert 0.005 < (first + probed.take_seconds() - 3.0) / (machine.now - started - 30.0) <= 0.01
    assert probed.status.age < 100


def test_failed_probes_stay_within_their_share_and_keep_the_baseline(warn):
    machine = Machine()
    probed = baseline(machine, warn=warn)
    started = machine.now
    probed.take_seconds()

    def hang(scales, rounds=1):
        machine.now += 10.0
        raise ProbeError("An env hangs.")

    machine.measure = Mock(side_effect=hang)
    machine.train(probed, 5000.0)
    failed = machine.measure.call_count
    assert failed >= 2
    assert probed.take_seconds() == pytest.approx(10.0 * failed)
    assert 10.0 * (failed - 1) <= 3.0 + 0.01 * (machine.now - started)
    assert probed.status.age == pytest.approx(machine.now - started)
    assert probed.status.source == "probe"
    assert list(warn) == ["later probe"]
    assert "An env hangs. The baseline of the last probe is kept" in warn["later probe"]


def test_probe_figures_are_per_env_step_of_all_runners():
    measured = Probe(Scale(2, 4), env_steps=100, seconds=0.5, busy=(0.3, 0.4, 0.2), excess=0.1)
    assert measured.seconds_per_step == pytest.approx(0.004)
    assert measured.busy_per_step == pytest.approx(0.003)
    assert measured.longest_per_step == pytest.approx(0.004)
