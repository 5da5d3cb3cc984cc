"""Sweeps by probes with a scripted process in place of an Algorithm."""

import math
import pickle
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from rl_scaling_callback.analysis.goals import Goal
from rl_scaling_callback.core.probing import Probe
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.report import make_report
from rl_scaling_callback.rllib.hardware import this_host
from rl_scaling_callback.rllib.prober import ProbeError
from rl_scaling_callback.sweeping import probes
from rl_scaling_callback.sweeping.probe_host import TrainedIteration
from rl_scaling_callback.sweeping.rounds import ProbeRounds
from rl_scaling_callback.sweeping.sweep import sweep
from rl_scaling_callback.sweeping.trials import _Announcer

CONFIG = SimpleNamespace(algo_class=SimpleNamespace(__name__="PPO"), env="Env")


class ScriptedHost:
    """A fake `ProbeHost` with perfectly scaling sampling and a simulated clock; `fails(host)` raises to end a sweep."""

    fails = staticmethod(lambda host: None)
    now = 0.0
    evaluation_s = 0.0
    dies = False

    def __init__(self, config, keep_envs, say):
        ScriptedHost.now = 0.0
        self.host, self.probed, self.added, self.trained_since = this_host(), 0, 0, 0

    def warm_up(self):
        return self.evaluation_s

    def close(self):
        pass

    def recover(self):
        return self.dies

    def steps_per_update(self, scales):
        self.added += len(scales)
        return dict.fromkeys(scales, math.inf)

    def train(self, scale):
        self.trained_since += 1
        self.fails(self)
        seconds = 0.8 / scale.parallelism + 0.01
        ScriptedHost.now += seconds
        return TrainedIteration(scale, 80.0, seconds, {"learn": 0.008, "sync": 0.001, "other": 0.001})

    def probe(self, scale, number):
        self.probed, self.trained_since = number + 1, 0
        self.fails(self)
        seconds = 0.8 / scale.parallelism * (1 + 0.01 * math.sin(7 * number + scale.parallelism))
        ScriptedHost.now += seconds
        return Probe(scale, number, 80.0, seconds, (seconds,) * scale.num_env_runners)


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(probes, "ProbeHost", ScriptedHost)
    monkeypatch.setattr(probes.placement, "alive_nodes", list)
    monkeypatch.setattr(probes.placement, "check", lambda *_: None)
    monkeypatch.setattr(probes.placement, "at_scale", lambda config, scale: config)
    monkeypatch.setattr(probes.placement, "cpus_of", lambda config: (1.0, 1.0))


def probe(**options):
    """Sweep the scripted process; return the measurements and the messages."""
    said = []
    return (*probes.sweep_by_probes(CONFIG, Goal("fast"), say=said.append, clock=lambda: ScriptedHost.now, **options), said)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ProbeError("The process died")])
@pytest.mark.parametrize(
    "when",
    [
        pytest.param(lambda host: host.probed == 2, id="probing"),
        pytest.param(lambda host: host.added > 4, id="right after larger configurations were added"),
        pytest.param(lambda host: host.probed > 2 and host.trained_since > 4, id="confirming"),
    ],
)
def test_sweep_that_ends_early_reports_the_results_so_far(scripted, monkeypatch, when, error):
    def fails(host):
        if when(host):
            raise error

    monkeypatch.setattr(ScriptedHost, "fails", staticmethod(fails))
    experiment, rounds, said = probe(runners=[1, 2])
    assert rounds.probes
    assert rounds.interrupted == isinstance(error, KeyboardInterrupt)
    assert {run.scale for run in experiment.studies[0].runs} >= {Scale(1, 1), Scale(1, 2), Scale(2, 1), Scale(2, 2)}
    assert any(text.startswith("Interrupted:" if isinstance(error, KeyboardInterrupt) else "Ended early") for text in said)


def test_configuration_that_cannot_be_probed_is_not_trained(scripted, monkeypatch):
    trained = []

    def fail(self, scale, number):
        return "no licence" if scale.num_envs_per_env_runner > 1 else ScriptedHost.probe(self, scale, number)

    def train(self, scale):
        trained.append(scale)
        return ScriptedHost.train(self, scale)

    monkeypatch.setattr(probes, "ProbeHost", type("Host", (ScriptedHost,), {"probe": fail, "train": train}))
    experiment, rounds, _ = probe(runners=[1, 2], envs=[1, 4], budget_s=20.0)
    assert set(trained) == {Scale(1, 1), Scale(2, 1)}
    assert set(rounds.failed) == {Scale(1, 4), Scale(2, 4)}
    assert dict(experiment.left_out) == {"1r×4e": "no licence", "2r×4e": "no licence"}


@pytest.mark.parametrize("dies", [True, False])
def test_larger_configurations_are_skipped_after_one_kills_env_runners(scripted, monkeypatch, dies):
    tried = []

    def fail(self, scale, number):
        tried.append(scale)
        return "it died" if scale.num_envs_per_env_runner > 2 else ScriptedHost.probe(self, scale, number)

    monkeypatch.setattr(probes, "ProbeHost", type("Host", (ScriptedHost,), {"probe": fail, "dies": dies}))
    _, rounds, _ = probe(runners=[1, 2], envs=[1, 4, 8], budget_s=20.0)
    assert set(rounds.failed) == {Scale(r, e) for r in (1, 2) for e in (4, 8)}
    assert set(tried) - {Scale(1, 1), Scale(2, 1)} == ({Scale(2, 4), Scale(1, 4)} if dies else set(rounds.failed))
    assert rounds.failed[Scale(2, 8)] == ("not tried after 2r×4e: it died" if dies else "it died")


@pytest.mark.parametrize("budget_s", [10.0, 20.0])
def test_budget_includes_the_confirmation(scripted, budget_s):
    experiment, rounds, _ = probe(runners=[1, 2], budget_s=budget_s)
    assert len(rounds.probes) > 1
    assert ScriptedHost.now <= budget_s
    assert all(note.startswith("training iterations: ") for run in experiment.studies[0].runs for note in run.notes)
    assert any(run.notes for run in experiment.studies[0].runs)


def test_reference_and_choice_are_trained_equally_often(scripted):
    _, rounds, _ = probe(runners=[1, 2], envs=[1, 4])
    times = Counter(each.scale for each in rounds.iterations + rounds.confirmations)
    assert times[Scale(2, 4)] >= 3
    assert abs(times[Scale(1, 1)] - times[Scale(2, 4)]) <= 1


def test_every_reference_iteration_confirms_the_choice(scripted):
    """They are the slowest, so none is wasted: not in the first round, and not between the rounds and the confirmation."""
    _, rounds, _ = probe(runners=[1, 2], envs=[1, 4])
    trained = [each.scale for each in rounds.iterations + rounds.confirmations]
    assert trained[1:3] == [Scale(1, 1), Scale(2, 4)]
    assert trained.count(Scale(1, 1)) == len(rounds.trained_speedups(Scale(2, 4)))


@pytest.mark.parametrize("count", [4, 5])
def test_confirmation_goes_on_where_the_rounds_ended(scripted, count):
    host, choice = ScriptedHost(CONFIG, True, print), Scale(2, 4)
    rounds = ProbeRounds([Scale(1, 1), choice], dict.fromkeys([Scale(1, 1), choice], math.inf))
    for number in range(3):
        rounds.probes.append({scale: host.probe(scale, number) for scale in rounds.scales})
    for scale in [choice, Scale(1, 1), choice, choice, Scale(1, 1)][:count]:
        rounds.trained(host.train(scale))
    outcome = rounds.judge(probes.race_for(CONFIG, Goal("fast")))
    probes._confirm(host, rounds, outcome, probes._TimeLimit(None, 3, lambda: ScriptedHost.now), print)
    assert [each.scale for each in rounds.confirmations] == [Scale(1, 1), choice, Scale(1, 1), choice][count - 4 :]


def test_a_stall_leads_to_more_iterations_that_confirm_instead_of_a_wide_interval(scripted, monkeypatch):
    trained = []

    def train(self, scale):
        trained.append(scale)
        iteration = ScriptedHost.train(self, scale)
        stalls = scale == Scale(2, 4) and trained.count(scale) == 2
        return replace(iteration, seconds=10 * iteration.seconds) if stalls else iteration

    monkeypatch.setattr(probes, "ProbeHost", type("Host", (ScriptedHost,), {"train": train}))
    experiment, rounds, _ = probe(runners=[1, 2], envs=[1, 4])
    (note,) = next(run.notes for run in experiment.studies[0].runs if run.scale == Scale(2, 4))
    assert float(re.search(r"± (\d+) %", note)[1]) < 11
    assert len(rounds.trained_speedups(Scale(2, 4))) > 4


def test_budget_shorter_than_a_round_runs_one_round(scripted):
    experiment, rounds, said = probe(runners=[1, 2], budget_s=0.1)
    assert len(rounds.probes) == 1
    assert "no time to confirm" in said[-1]
    assert {run.scale for run in experiment.studies[0].runs} == {Scale(1, 1), Scale(1, 2), Scale(2, 1), Scale(2, 2)}
    (study,) = make_report(experiment, Goal("fast", min_speedup=1.5)).studies
    assert study.recommendation.verdict == "undecided"


def test_evaluation_is_reported_separately(scripted, monkeypatch):
    monkeypatch.setattr(ScriptedHost, "evaluation_s", 0.81)
    experiment, *_ = probe(runners=[1, 2], envs=[1], budget_s=20.0)
    one, two = sorted(experiment.studies[0].runs, key=lambda run: run.scale)
    assert two.steady.sps / one.steady.sps == pytest.approx(0.81 / 0.41, rel=0.02)
    # (0.81 + 0.81) s with evaluation against (0.41 + 0.81) s.
    assert "evaluation adds 0.81 s per iteration on average, which figures exclude: with it 1.33×" in two.notes
    assert "evaluation" not in " ".join(one.notes)


def test_one_env_runner_with_as_many_envs_completes_the_loss_attribution(scripted):
    experiment, *_ = probe(runners=[2], confirm=False)
    (study,) = make_report(experiment, Goal("fast")).studies
    choice = study.recommendation.choice
    assert choice.scale.num_env_runners == 2
    assert choice.scale.num_envs_per_env_runner > 2
    assert choice.losses
    assert not choice.losses_estimated


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"runners": 4}, ValueError, "runners is 4; allowed are several numbers"),
        ({"envs": np.int64(4)}, ValueError, "envs is .*4.*; allowed are several numbers"),
        ({"envs": np.array([1.5])}, ValueError, "envs is .*1.5.*; allowed are whole numbers from 1 up"),
        ({"budget": 1.0}, TypeError, "'budget'"),
        ({"engine": "probes", "resume": True}, ValueError, "engine is 'probes'"),
        ({}, TypeError, "config is namespace"),
    ],
)
def test_invalid_options_are_rejected_before_ray_starts(monkeypatch, options, error, text):
    monkeypatch.setattr("rl_scaling_callback.sweeping.sweep.connect", lambda *_, **__: pytest.fail("connected"))
    with pytest.raises(error, match=text):
        sweep(CONFIG, **options)


def test_update_time_rises_with_env_runners_and_envs():
    def update(scale):
        return 0.01 + 0.002 * scale.num_env_runners + 0.0005 * scale.parallelism

    scales = [Scale(1, 1), Scale(2, 1), Scale(1, 4), Scale(2, 4), Scale(4, 8)]
    steps = {scale: float(scale.parallelism) for scale in scales}  # one update per step of all envs
    rounds = probes.ProbeRounds(scales, steps)
    for scale in scales[:-1]:
        rounds.trained(
            TrainedIteration(scale, 80.0, 2.0, {"learn": 80.0 / steps[scale] * update(scale), "sync": 0.0, "other": 0.0})
        )
    assert rounds.rest == pytest.approx([update(scale) / steps[scale] for scale in scales])


def test_few_training_iterations_do_not_hide_their_error():
    scales = [Scale(2, 4), probes.SINGLE, Scale(2, 2), Scale(2, 1)]
    rounds = probes.ProbeRounds(scales, dict.fromkeys(scales, 80.0))
    for scale, learn in zip(scales[: probes.FEWEST_ITERATIONS], [1.0, 1.2, 0.8, 1.1], strict=True):
        rounds.trained(TrainedIteration(scale, 80.0, 2.0, {"learn": learn, "sync": 0.0, "other": 0.0}))
    assert rounds.rest_error > 0.05


def test_failed_configuration_leaves_the_race():
    scales = [probes.SINGLE, Scale(1, 2)]
    found = {scale: Probe(scale, 0, 100.0, 0.1, (0.1,)) for scale in scales}
    rounds = probes.ProbeRounds(
        scales, dict.fromkeys(scales, 80.0), [found, {probes.SINGLE: found[probes.SINGLE]}], failed={Scale(1, 2): "crashed"}
    )
    assert np.isnan(rounds.seconds[:, 1]).all()
    assert rounds.of(Scale(1, 2)) == []
    assert len(rounds.of(probes.SINGLE)) == 2


@pytest.mark.parametrize(("budget_s", "is_known", "left"), [(None, True, -3), (None, False, 15), (40.0, False, 20 - 15 - 3)])
def test_rounds_go_on_for_longer_while_errors_are_large(budget_s, is_known, left):
    """By default only: 12 or 30 s after the first round. Otherwise, another round and three turns of 1 s have to fit in."""
    now = 0.0
    limit = probes._TimeLimit(budget_s, 3, lambda: now)
    now = 5.0
    limit.after_round(1, is_known, turns=0, turn_s=1.0)
    now = 20.0
    assert limit.after_round(3, is_known, turns=0, turn_s=1.0) == left


def test_tune_can_store_the_announcements_of_trials():
    """Ray replaces `builtins.print`; pickle then refuses the original, as it does a lambda."""
    assert isinstance(pickle.loads(pickle.dumps(_Announcer(None, lambda text: None))), _Announcer)
