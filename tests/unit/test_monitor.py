import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_scaling_callback.baseline.source import BaselineSource, GivenBaseline, Status
from rl_scaling_callback.core import schema
from rl_scaling_callback.core.attribution import CAUSES, TimeBreakdown
from rl_scaling_callback.core.comparison import ReferenceFigures, Resources
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import SteadyRule, SteadyWindow
from rl_scaling_callback.core.trial import Trial
from rl_scaling_callback.live.learners import LearnersWork
from rl_scaling_callback.live.load import Load
from rl_scaling_callback.live.monitor import TrialMonitor
from rl_scaling_callback.live.reading import IterationReader
from rl_scaling_callback.live.runners import RunnersWork
from rl_scaling_callback.live.spent import Spent
from rl_scaling_callback.rllib.configs import is_asynchronous, steps_before_learning
from rl_scaling_callback.rllib.results import RunnerReport
from tests.builders import RESULT_KEYS, WORKLOAD, Warnings, anything, leaves

RULE = SteadyRule(warmup_iterations=1, min_iterations=2)


class Measured(BaselineSource):
    """A measured baseline: 1,000 steps/s, with 0.8 ms of sampling and 0.2 ms of learning per step."""

    def __init__(self, comparable=1.0, **status):
        breakdown = TimeBreakdown.of({"sample": 0.8e-3, "learn": 0.2e-3}, 1e-3, 0.8e-3, 0.8e-3)
        self._figures = ReferenceFigures(1000.0, comparable, breakdown)
        self._status = Status(**{"source": "trial"} | status)

    @property
    def status(self):
        return self._status


def trial(config=None, rule=RULE, source=None, offset=lambda: 0.0, load=None, is_exclusive=lambda: 1.0, warn=None):
    config, warn = config or {}, Warnings() if warn is None else warn
    return TrialMonitor(
        Trial("trial", Scale(4, 2), WORKLOAD, Resources(cores=2.0, cpus=5.0), overlaps=is_asynchronous(config)),
        source or GivenBaseline(1000.0, Scale(1, 1)),
        reader=IterationReader(config, warn, offset),
        window=SteadyWindow(rule, learns_after=steps_before_learning(config)),
        load=load or Load(2.0, 4),
        is_exclusive=is_exclusive,
        warn=warn,
    )


def measure(monitor, result, evaluation_s=0.0, phases=None, work=RunnersWork(), learners=LearnersWork()):  # noqa: B008
    return monitor.measure(result, Spent(phases, evaluation_s, work, learners))


def result(env_steps, seconds):
    return {"env_runners": {"num_env_steps_sampled": env_steps}, "time_this_iter_s": seconds}


def test_all_values_of_one_iteration():
    values = dict(leaves(measure(trial(), result(4000, 2.0), 0.5)))
    known = {name: value for name, value in values.items() if value == value and value != ""}
    assert known == {
        "sps": 2000.0,
        "env_steps": 4000.0,
        "parallelism": 8.0,
        "baseline_sps": 1000.0,
        "baseline/source": "given",
        "speedup": 2.0,
        "efficiency": 25.0,
        "gap": 6.0,
        "serial_fraction": pytest.approx((1 / 2 - 1 / 8) / (1 - 1 / 8)),
        "band": "inefficient",
        "steady/iterations": 0.0,
        "steady/converged": 0.0,
        "core_efficiency": 100.0,
        "sps_per_cpu": 400.0,
        "time/evaluate": 0.5,
        "time/probe": 0.0,
        "loss/total": 75.0,
        "is_baseline": 0.0,
        "comparable": 1.0,
        "workload": WORKLOAD.id,
        "exclusive": 1.0,
        "runners/reported": 0.0,
    }


WORK = RunnersWork((RunnerReport(busy=0.6, env_step=0.5, inference=0.05, cpu=0.6),) * 4, busy=0.6, longest=0.6)


def test_loss_attribution_of_an_iteration():
    values = measure(trial(source=Measured()), result(4000, 2.0), 0.0, {"sample": 1.0, "learn": 0.8}, WORK)
    # With perfect scaling, learning from 4,000 steps of 0.2 ms would have taken 0.8 s / 8.
    assert values["loss"]["learn"] == pytest.approx(100 * (0.8 - 0.8 / 8) / 2.0)
    assert sum(values["loss"][cause] for cause in CAUSES) == pytest.approx(values["loss"]["total"])
    assert values["time"] == {"sample": 1.0, "learn": 0.8, "sync": 0.0, "evaluate": 0.0, "other": pytest.approx(0.2), "probe": 0.0}
    assert values["account"] == {"exact": 1.0, "estimated": 1.0}
    assert values["runners"]["rest"] == pytest.approx(0.05)


@pytest.mark.parametrize("named", [None, {"sample": 1.0, "learn": 0.8}])
def test_every_result_has_the_keys_of_the_schema(named):
    values = measure(trial(source=Measured()), result(4000, 2.0), 0.0, named, WORK)
    assert {name: type(value) for name, value in leaves(values)} == {key.name: type(key.unknown) for key in schema.KEYS}


@pytest.mark.parametrize(
    ("config", "comparable", "exclusive"), [({}, 0.0, 1.0), ({}, math.nan, 1.0), ({"broadcast_interval": 1}, 1.0, 0.0)]
)
def test_incomparable_or_overlapping_iterations_have_no_loss_attribution(config, comparable, exclusive):
    measured = trial(config, source=Measured(comparable))
    values = measure(measured, result(4000, 2.0), 0.0, {"sample": 1.0, "learn": 0.8}, WORK)
    assert all(math.isnan(values["loss"][cause]) for cause in CAUSES)
    assert values["account"]["exact"] == exclusive
    assert values["diagnosis"] == ""


@pytest.mark.parametrize("turned", [-3600.0, -0.5, 0.5, 3600.0])
def test_clock_jump_makes_the_iteration_nan(turned, warn):
    offsets = iter([0.0, 0.0, 0.001, turned, turned])
    measured = trial(warn=warn, offset=lambda: next(offsets))
    sps = [measure(measured, result(4000, 2.0))["sps"] for _ in range(4)]
    assert [value == value for value in sps] == [True, True, False, True]
    assert f"jumped by {turned - 0.001:+.3g} s" in warn["clock"]


def test_steady_figures_exclude_evaluation_and_warm_up():
    measured = trial()
    for seconds, evaluation_s in ((9.0, 0.0), (3.0, 1.0), (2.0, 0.0)):
        steady = measure(measured, result(4000, seconds), evaluation_s)["steady"]
    assert (steady["sps"], steady["speedup"], steady["efficiency"], steady["iterations"]) == (2000.0, 2.0, 25.0, 2.0)


def test_steps_of_a_failed_iteration_do_not_count_for_the_next(warn):
    reader = IterationReader({}, warn)
    reader.note_failure()
    env_steps = [reader.read(result(4000, 2.0))[0] for _ in range(2)]
    assert [value == value for value in env_steps] == [False, True]
    assert list(warn) == ["failure"]


@pytest.mark.parametrize("timed", [True, False])
def test_slower_sampling_warns_once(timed, warn):
    measured = trial(warn=warn)
    for iteration in range(97):
        busy = 1.0 + iteration / 100
        work = RunnersWork((RunnerReport(busy=busy),) * 4, busy, busy) if timed else RunnersWork()
        steady = measure(measured, result(4000, 0.25 + busy), 0.0, {"sample": busy}, work)["steady"]
        assert math.isnan(steady["drift"]) == (iteration < 16)
    # 84 % between the means of iterations 2 to 9 and of the last eight; less if learning can't be excluded.
    assert steady["drift"] == pytest.approx(100 * (1.925 / 1.045 - 1) if timed else 100 * (2.175 / 1.295 - 1), abs=1.0)
    assert "drift" in warn


def test_drift_is_silent_while_the_baseline_follows_it(warn):
    monitor = trial(warn=warn, source=Measured(follows_drift=True))
    for iteration in range(40):
        measure(monitor, result(4000, 1.25 + iteration / 20), 0.0, {"sample": 1.0 + iteration / 20})
    assert "drift" not in warn


@pytest.mark.parametrize("broken", [result(0, 1.0), result(100, 0.0), {}, {"env_runners": None, "time_this_iter_s": 1.0}])
def test_broken_result_is_nan_with_one_warning(broken, warn):
    measured = trial(warn=warn)
    for _ in range(3):
        values = measure(measured, broken)
    assert math.isnan(values["sps"])
    assert math.isnan(values["speedup"])
    assert values["band"] == ""
    assert len(warn) == 1


def test_asynchronous_algorithm_may_start_without_steps(warn):
    measured = trial({"min_time_s_per_iteration": 10}, warn=warn)
    for env_steps, warned in ((0, []), (1000, []), (0, ["steps"])):
        measure(measured, result(env_steps, 10.0))
        assert list(warn) == warned


@pytest.mark.parametrize("config", [{}, {"broadcast_interval": 1}], ids=["phases in turn", "phases overlap"])
def test_given_baseline_yields_only_causes_that_need_no_breakdown(config, warn):
    measured = trial(config, warn=warn)
    phases = {"sample": 1.0, "learn": 0.5, "evaluate": 0.25}
    work = RunnersWork((), 0.8, 0.9, phases if config else None)
    for _ in range(3):
        values = measure(measured, result(4000, 2.0), 0.25, phases, work, LearnersWork(busy=1.94) if config else LearnersWork())
    known = {cause: values["loss"][cause] for cause in CAUSES if values["loss"][cause] == values["loss"][cause]}
    assert known == {"straggler": pytest.approx(100 * 0.1 / 2), "evaluate": pytest.approx(100 * 0.25 / 2)}
    assert list(warn) == ["breakdown"]
    assert ("The learner is busy" in values["diagnosis"]) == bool(config)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(RESULT_KEYS), anything | st.fixed_dictionaries({"num_env_steps_sampled": anything})),
        max_size=8,
    )
)
def test_no_sequence_of_results_raises_or_yields_infinity(results):
    measured = trial()
    for each in results:
        values = dict(leaves(measure(measured, each)))
        assert values.pop("band") in {"", "perfect", "excellent", "good", "fair", "inefficient"}
        assert values.pop("diagnosis") == ""
        assert values.pop("baseline/source") == "given"
        assert values.pop("workload") == WORKLOAD.id
        assert all(type(value) is float and not math.isinf(value) for value in values.values())


def test_cores_are_unknown_in_iterations_around_probes():
    spent = iter((0.0, 0.3, 0.0, 0.0, 0.2, 0.0))  # before the first iteration, and after each
    source = Measured()
    source.take_seconds = lambda: next(spent)
    monitor = trial(source=source, load=SimpleNamespace(look=lambda utilisation, runners_cpu_s: (1.5, 0.25)))
    found = [measure(monitor, result(4000, 2.0))["cores"] for _ in range(5)]
    known = {"own": 1.5, "others": 0.25}
    assert [each == known for each in found] == [True, False, True, True, False]
    assert math.isnan(found[1]["own"])


@pytest.mark.parametrize(("exclusive", "others"), [(0.0, math.nan), (1.0, 0.3), (math.nan, 1.5)])
def test_baseline_is_measured_while_nothing_else_runs(exclusive, others):
    """Four undisturbed iterations of 1,000 steps/s, the first of which is warm-up, after four disturbed ones of 500."""
    rule = SteadyRule(warmup_iterations=1, min_iterations=3)
    now, published = [exclusive, others], []
    source = Measured()
    source.update = published.append
    load = SimpleNamespace(look=lambda utilisation, runners_cpu_s: (1.0, now[1]))
    monitor = trial(rule=rule, source=source, load=load, is_exclusive=lambda: now[0])
    for iteration in range(8):
        if iteration == 4:
            now[:] = 1.0, 0.2
        values = measure(monitor, result(1000, 2.0 if iteration < 4 else 1.0), 0.0)
    assert values["steady"]["iterations"] == 7.0
    assert [each.settled for each in published] == [False] * 7 + [True]
    assert (published[-1].sps, published[-1].disturbed) == (1000.0, 0.0)


def test_baseline_is_marked_if_something_else_always_ran():
    published, source = [], Measured()
    source.update = published.append
    monitor = trial(source=source, is_exclusive=lambda: 0.0)
    for _ in range(9):
        measure(monitor, result(1000, 2.0))
    assert (published[-1].settled, published[-1].disturbed) == (True, 1.0)


@pytest.mark.parametrize(
    ("healthy", "reports", "delivered"),
    [(4, 4, 4), (4, 3, 3), (3, 3, 3), (3, 0, 3), (4, 0, 4), (0, 0, 0)],
    ids=["all", "one is late", "one is dead", "one is dead, none reports", "none reports", "all are dead"],
)
@pytest.mark.parametrize("source", ["trial", "probe"])
def test_env_runners_that_deliver_no_samples_do_not_count(healthy, reports, delivered, source, warn):
    baseline = Measured(source=source)
    baseline.observe = lambda env_steps, spent: warn("observed", "")
    monitor = trial(warn=warn, source=baseline)
    work = RunnersWork(WORK.reports[:reports], busy=0.6, longest=0.6)
    for _ in range(3):
        fleet = {"fault_tolerance": {"num_healthy_workers": healthy}}
        values = measure(monitor, result(4000, 2.0) | fleet, 0.0, {"sample": 1.0, "learn": 0.8}, work)
    assert values["sps"] == 2000.0
    assert values["parallelism"] == 2 * max(1, delivered)
    if delivered == 4:
        assert list(warn) == ["observed"]
        assert values["steady"]["iterations"] == 2
        assert values["efficiency"] == 25.0
        return
    assert list(warn) == ["runners"]
    assert f"only {delivered} of 4 env runners" in warn["runners"]
    assert values["steady"]["iterations"] == 0
    assert values["diagnosis"] == ""
    assert all(math.isnan(values["loss"][cause]) for cause in CAUSES)
    if source == "probe":
        assert math.isnan(values["speedup"])
        assert values["comparable"] == 0.0
    else:
        assert values["efficiency"] == pytest.approx(100 * 2.0 / (2 * max(1, delivered)))


@pytest.mark.parametrize(("steps", "comparable"), [(2000, 0.0), (1002, 1.0)])  # RLlib rounds fragments up
def test_iterations_with_another_number_of_env_steps_than_the_baselines_are_not_compared(steps, comparable, warn):
    monitor = trial(source=Measured(steps_per_iteration=1000.0), warn=warn)
    for _ in range(4):
        values = measure(monitor, result(steps, 1.0))
        assert values["comparable"] == comparable
    speedups = values["speedup"], values["steady"]["speedup"]
    assert speedups == pytest.approx((steps / 1000,) * 2 if comparable else (math.nan,) * 2, nan_ok=True)
    assert ("2000 env steps" in warn.get("other steps", "")) == (not comparable)


def test_a_changed_env_starts_the_steady_state_anew():
    baseline = Measured()
    changes = iter([False] * 5 + [True] + [False] * 3)
    baseline.observe = lambda env_steps, spent: next(changes)
    monitor = trial(source=baseline)
    iterations = [measure(monitor, result(4000, 2.0), 0.0, {"sample": 1.0}, WORK)["steady"]["iterations"] for _ in range(9)]
    assert iterations == [0, 1, 2, 3, 4, 1, 2, 3, 4]
