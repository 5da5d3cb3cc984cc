import math
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_scaling_callback.baseline.source import BaselineSource, GivenBaseline, ReferenceFigures, Status
from rl_scaling_callback.core import schema
from rl_scaling_callback.core.attribution import CAUSES, TimeBreakdown
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import SteadyRule
from rl_scaling_callback.core.trial import Resources, Trial
from rl_scaling_callback.live.monitor import TrialMonitor
from rl_scaling_callback.live.reports import Spent
from rl_scaling_callback.rllib.configs import is_asynchronous
from rl_scaling_callback.rllib.results import RunnerReport
from tests.builders import WORKLOAD, Warnings, leaves

RULE = SteadyRule(warmup_iterations=1, min_iterations=2)
GIVEN = GivenBaseline(1000.0, Scale(1, 1))


class Measured(BaselineSource):
    """A measured baseline: 1,000 steps/s, with 0.8 ms of sampling and 0.2 ms of learning per step."""

    status = Status("trial")

    def __init__(self, comparable=1.0, **changes):
        breakdown = TimeBreakdown.of({"sample": 0.8e-3, "learn": 0.2e-3}, 1e-3, 0.8e-3, 0.8e-3)
        self._figures = ReferenceFigures(1000.0, comparable, breakdown)
        vars(self).update(changes)


def trial(config=None, rule=RULE, source=GIVEN, warn=None, cores=None):
    """A monitor of a trial; `cores` are those that it and others use."""
    config = config or {}
    facts = Trial("trial", Scale(4, 2), WORKLOAD, Resources(cores=2.0, cpus=5.0), overlaps=is_asynchronous(config))
    monitor = TrialMonitor(facts, source, config, rule, Warnings() if warn is None else warn)
    if cores is not None:
        monitor._load = SimpleNamespace(read=lambda utilisation, runners_cpu_s: cores)
    return monitor


def result(env_steps, seconds):
    return {"env_runners": {"num_env_steps_sampled": env_steps}, "time_this_iter_s": seconds}


REPORTS = (RunnerReport(busy=0.6, env_step=0.5, cpu=0.6),) * 4
SPENT = Spent({"sample": 1.0, "learn": 0.8}, reports=REPORTS, busy=0.6, longest=0.6)


def test_all_values_of_one_iteration():
    values = dict(leaves(trial().measure(result(4000, 2.0), Spent(evaluation_s=0.5), exclusive=1.0)))
    assert {name: type(value) for name, value in values.items()} == {key.name: type(key.unknown) for key in schema.KEYS}
    known = {name: value for name, value in values.items() if value == value and value != ""}
    speed = {"sps": 2000.0, "env_steps": 4000.0, "parallelism": 8.0, "sps_per_cpu": 400.0, "baseline_sps": 1000.0, "speedup": 2.0}
    scaling = {"efficiency": 25.0, "serial_fraction": pytest.approx(3 / 7), "gap": 6.0, "core_efficiency": 100.0}
    times = {"time/evaluate": 0.5, "time/probe": 0.0, "steady/iterations": 0.0, "steady/converged": 0.0, "runners/reported": 0.0}
    facts = {"comparable": 1.0, "baseline/source": "given", "is_baseline": 0.0, "workload": WORKLOAD.id, "exclusive": 1.0}
    assert known == speed | scaling | times | facts | {"band": "inefficient", "loss/total": 75.0}


def test_every_key_is_present():
    unknown = {key.name: key.unknown for key in schema.KEYS}
    assert dict(leaves(schema.unknown())) == pytest.approx(unknown, nan_ok=True)
    assert {name for name, value in unknown.items() if value == ""} == {"band", "baseline/source", "diagnosis", "workload"}


def test_loss_attribution_of_an_iteration():
    values = trial(source=Measured()).measure(result(4000, 2.0), SPENT)
    assert {name for name, _ in leaves(values)} == {key.name for key in schema.KEYS}
    # With perfect scaling, learning from 4,000 steps of 0.2 ms would have taken 0.8 s / 8.
    assert values["loss"]["learn"] == pytest.approx(100 * (0.8 - 0.8 / 8) / 2.0)
    assert sum(values["loss"][cause] for cause in CAUSES) == pytest.approx(values["loss"]["total"])
    assert values["time"] == {"sample": 1.0, "learn": 0.8, "sync": 0.0, "evaluate": 0.0, "other": pytest.approx(0.2), "probe": 0.0}
    assert values["account"] == {"exact": 1.0, "estimated": 1.0}
    assert values["runners"]["env_step"] == 0.5


@pytest.mark.parametrize(("comparable", "exact"), [(0.0, 1.0), (math.nan, 1.0), (1.0, 0.0)])
def test_incomparable_or_overlapping_iterations_have_no_loss_attribution(comparable, exact):
    values = trial(source=Measured(comparable)).measure(result(4000, 2.0), SPENT._replace(exact=exact))
    assert all(math.isnan(values["loss"][cause]) for cause in CAUSES)
    assert values["account"]["exact"] == exact
    assert values["diagnosis"] == ""


def test_steady_figures_exclude_evaluation_and_warm_up():
    measured = trial()
    for seconds, evaluation_s in ((9.0, 0.0), (3.0, 1.0), (2.0, 0.0)):
        steady = measured.measure(result(4000, seconds), Spent(evaluation_s=evaluation_s))["steady"]
    assert [steady[name] for name in ("sps", "speedup", "efficiency", "iterations")] == [2000.0, 2.0, 25.0, 2.0]


@pytest.mark.parametrize(("source", "warned"), [(Measured(), True), (Measured(status=Status("probe")), False)])
@pytest.mark.parametrize("timed", [True, False])
def test_slower_sampling_warns_unless_the_baseline_follows_it(timed, source, warned, warn):
    measured = trial(warn=warn, source=source)
    for iteration in range(97):
        busy = 1.0 + iteration / 100
        spent = Spent({"sample": busy}, reports=REPORTS, busy=busy, longest=busy) if timed else Spent({"sample": busy})
        steady = measured.measure(result(4000, 0.25 + busy), spent)["steady"]
        assert math.isnan(steady["drift"]) == (iteration < 16)
    # 84 % between the means of iterations 2 to 9 and of the last eight; less if learning can't be excluded.
    assert steady["drift"] == pytest.approx(100 * (1.925 / 1.045 - 1) if timed else 100 * (2.175 / 1.295 - 1), abs=1.0)
    assert ("drift" in warn) == warned


@pytest.mark.parametrize("broken", [result(0, 1.0), result(100, 0.0), {}, {"env_runners": None, "time_this_iter_s": 1.0}])
def test_broken_result_is_nan_with_one_warning(broken, warn):
    measured = trial(warn=warn)
    for _ in range(3):
        values = measured.measure(broken)
    assert (values["sps"], values["speedup"]) == pytest.approx((math.nan, math.nan), nan_ok=True)
    assert (values["band"], len(warn)) == ("", 1)


@pytest.mark.parametrize("learner_busy", [math.nan, 1.94], ids=["phases in turn", "phases overlap"])
def test_given_baseline_yields_only_causes_that_need_no_breakdown(learner_busy):
    phases = {"sample": 1.0, "learn": 0.5, "evaluate": 0.25}
    spent = Spent(phases, evaluation_s=0.25, busy=0.8, longest=0.9, learner_busy=learner_busy)
    measured = trial()
    for _ in range(3):
        values = measured.measure(result(4000, 2.0), spent)
    known = {cause: values["loss"][cause] for cause in CAUSES if values["loss"][cause] == values["loss"][cause]}
    assert known == {"straggler": pytest.approx(100 * 0.1 / 2), "evaluate": pytest.approx(100 * 0.25 / 2)}
    assert ("The learner is busy" in values["diagnosis"]) == (learner_busy > 0)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
RESULT_KEYS = ["env_runners", "time_this_iter_s", "num_env_steps_sampled", "num_env_steps_sampled_this_iter"]


@given(
    st.lists(
        st.dictionaries(st.sampled_from(RESULT_KEYS), anything | st.fixed_dictionaries({"num_env_steps_sampled": anything})),
        max_size=8,
    )
)
def test_no_sequence_of_results_raises_or_yields_infinity(results):
    measured = trial()
    for each in results:
        values = dict(leaves(measured.measure(each)))
        assert values.pop("band") in {"", "perfect", "excellent", "good", "fair", "inefficient"}
        texts = [values.pop(name) for name in ("diagnosis", "baseline/source", "workload")]
        assert texts == ["", "given", WORKLOAD.id]
        assert all(type(value) is float and not math.isinf(value) for value in values.values())


def test_cores_are_unknown_in_iterations_around_probes():
    spent = iter((0.0, 0.3, 0.0, 0.0, 0.2, 0.0))  # before the first iteration, and after each
    monitor = trial(source=Measured(take_seconds=lambda: next(spent)), cores=(1.5, 0.25))
    found = [monitor.measure(result(4000, 2.0))["cores"]["own"] for _ in range(5)]
    assert found == pytest.approx([1.5, math.nan, 1.5, 1.5, math.nan], nan_ok=True)


@pytest.mark.parametrize(("exclusive", "others"), [(0.0, math.nan), (1.0, 0.3), (math.nan, 1.5)])
def test_iterations_beside_others_do_not_make_a_baseline(exclusive, others):
    """Four iterations of 500 steps/s, then undisturbed ones of 1,000, the first of which is warm-up."""
    load, published = [1.0, others], []
    rule = SteadyRule(warmup_iterations=1, min_iterations=3)
    monitor = trial(rule=rule, source=Measured(update=published.append), cores=load)
    for seconds in (2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0):
        if seconds == 1.0:
            exclusive, load[1] = 1.0, 0.2
        monitor.measure(result(1000, seconds), exclusive=exclusive)
    assert [each.settled for each in published] == [False] * 7 + [True]
    assert (published[-1].sps, published[-1].disturbed) == (1000.0, 0.0)


@pytest.mark.parametrize(
    ("healthy", "reports", "delivered"),
    [(4, 4, 4), (4, 3, 3), (3, 3, 3), (3, 0, 3), (4, 0, 4), (0, 0, 0)],
    ids=["all", "one is late", "one is dead", "one is dead, none reports", "none reports", "all are dead"],
)
@pytest.mark.parametrize("source", ["trial", "probe"])
def test_env_runners_that_deliver_no_samples_do_not_count(healthy, reports, delivered, source, warn):
    monitor = trial(warn=warn, source=Measured(status=Status(source), observe=lambda env_steps, spent: warn("observed", "")))
    fleet = {"fault_tolerance": {"num_healthy_workers": healthy}}
    for _ in range(3):
        values = monitor.measure(result(4000, 2.0) | fleet, SPENT._replace(reports=REPORTS[:reports]))
    assert values["sps"] == 2000.0
    assert values["parallelism"] == 2 * max(1, delivered)
    if delivered == 4:
        assert list(warn) == ["observed"]
        assert (values["steady"]["iterations"], values["efficiency"]) == (2, 25.0)
        return
    assert f"only {delivered} of 4 env runners" in warn["runners"]
    assert (len(warn), values["steady"]["iterations"], values["diagnosis"]) == (1, 0, "")
    assert all(math.isnan(values["loss"][cause]) for cause in CAUSES)
    unknown = source == "probe"
    assert values["comparable"] == (0.0 if unknown else 1.0)
    assert values["efficiency"] == pytest.approx(math.nan if unknown else 100 / max(1, delivered), nan_ok=True)


def test_a_changed_env_starts_the_steady_state_anew():
    changes = iter([False] * 5 + [True] + [False] * 3)
    monitor = trial(source=Measured(observe=lambda env_steps, spent: next(changes)))
    found = [monitor.measure(result(4000, 2.0) | {"iterations_since_restore": i}, SPENT)["steady"] for i in range(1, 10)]
    assert [steady["iterations"] for steady in found] == [0, 1, 2, 3, 4, 1, 2, 3, 4]


@pytest.mark.parametrize(("steps", "comparable"), [(2000, 0.0), (1002, 1.0)])  # RLlib rounds fragments up
def test_iterations_with_another_number_of_env_steps_than_the_baselines_are_not_compared(steps, comparable, warn):
    monitor = trial(source=Measured(status=Status("trial", steps_per_iteration=1000.0)), warn=warn)
    for _ in range(4):
        values = monitor.measure(result(steps, 1.0))
        assert values["comparable"] == comparable
    speedups = values["speedup"], values["steady"]["speedup"]
    assert speedups == pytest.approx((steps / 1000,) * 2 if comparable else (math.nan,) * 2, nan_ok=True)
    assert ("2000 env steps" in warn.get("other steps", "")) == (not comparable)


# ---------------------------------------------------------------- what makes steps or durations unknown


@pytest.mark.parametrize("turned", [-3600.0, -0.5, 0.5, 3600.0])
def test_clock_jump_makes_the_duration_unknown(turned, warn, monkeypatch):
    offset = [0.0]
    monkeypatch.setattr(time, "time", lambda: time.monotonic() + offset[0])
    monitor, found = trial(warn=warn), []
    for offset[0] in (0.0, 0.001, turned, turned):
        found.append(monitor.measure(result(4000, 2.0))["sps"] > 0)
    assert found == [True, True, False, True]
    assert f"jumped by {turned - 0.001:+.3g} s" in warn["clock"]


def test_steps_of_a_failed_iteration_do_not_count_for_the_next(warn):
    monitor = trial(warn=warn)
    monitor.note_failure()
    assert [monitor.measure(result(4000, 2.0))["env_steps"] > 0 for _ in range(2)] == [False, True]
    assert list(warn) == ["failure"]


def test_asynchronous_algorithm_may_start_without_steps(warn):
    monitor = trial({"min_time_s_per_iteration": 10}, warn=warn)
    for env_steps, warned in ((0, []), (1000, []), (0, ["steps"])):
        monitor.measure(result(env_steps, 10.0))
        assert list(warn) == warned
