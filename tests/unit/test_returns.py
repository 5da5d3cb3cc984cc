"""Time to return: when curves stay at a return, at which return they are compared, and what the report says about it."""

import json
import math

import pytest

from rl_scaling_callback.analysis.configurations import configurations
from rl_scaling_callback.analysis.runs import Study
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.report.report import make_report, render_page, to_json
from rl_scaling_callback.report.sections import remarks
from rl_scaling_callback.report.study import COLUMNS
from tests.builders import LATE, MONOTONE, curve, report_of


def compared(*runs, target=None):
    """Return target, seconds, env steps and speedup of the time to return by configuration."""
    found = [(str(c.scale), c.to_return) for c in configurations(Study("test", runs), target_return=target)]
    return {scale: (each.target, each.seconds, each.env_steps, each.sooner) for scale, each in found}


@pytest.mark.parametrize(
    ("returns", "first"),
    [
        (MONOTONE, 10),
        # Noise around the target: the last time below it counts.
        ([*MONOTONE[:8], 110.0, 95.0, 105.0, 99.0, *MONOTONE[12:]], 13),
        # Overshoots, falls back and recovers.
        ([20.0, 150.0, 180.0, 30.0, *MONOTONE[4:]], 10),
        # No episode ends in the first iterations, nor in the one at which the target would be reached.
        ([NAN] * 9 + [NAN] + MONOTONE[10:], 11),
        # Stays at the target exactly.
        ([10.0] * 5 + [100.0] * 15, 6),
        # Never stays there.
        ([*MONOTONE[:-1], 99.0], NAN),
        ([50.0] * 20, NAN),
    ],
)
def test_a_run_stays_at_a_return_from_the_last_crossing_on(returns, first):
    found = compared(curve("1r1e", MONOTONE), curve("4r1e", returns, 0.5), target=100.0)
    assert found["1r×1e"] == pytest.approx((100.0, 10.0, 10_000, 1.0))
    assert found["4r×1e"] == pytest.approx((100.0, 0.5 * first, 1000 * first, 20 / first), nan_ok=True)


PLATEAU = MONOTONE[:10] + [100.0, 92.0, 108.0, 97.0, 103.0] * 2


@pytest.mark.parametrize(
    ("one", "four", "target", "times"),
    [
        # The last quarter of the first begins after 15 s, at 150; that of the other, shorter one after 6 s, at 120.
        (MONOTONE, [20.0 * i for i in range(1, 9)], 120.0, (12.0, 6.0)),
        # Noise along a plateau does not decide.
        (PLATEAU, PLATEAU, 92.0, (10.0, 10.0)),
    ],
)
def test_runs_are_compared_at_the_highest_return_at_which_they_stay_for_their_last_quarter(one, four, target, times):
    found = compared(curve("1r1e", one), curve("4r1e", four))
    assert [each[:2] for each in found.values()] == [pytest.approx((target, seconds)) for seconds in times]


def test_a_single_run_that_collapses_does_not_decide_the_return():
    collapsed = [curve("4r1e", MONOTONE, 0.5), curve("4r1e", MONOTONE, 0.6), curve("4r1e", [*MONOTONE[:-1], 5.0], 0.5)]
    found = compared(curve("1r1e", MONOTONE), *collapsed)
    assert found["1r×1e"][:2] == (150.0, 15.0)
    assert math.isnan(found["4r×1e"][1])


@pytest.mark.parametrize(("lowest", "target"), [(447.7, 447.0), (-1234.0, -1240.0), (0.012349, 0.0123), (0.3, 0.3), (0.0, 0.0)])
def test_the_return_has_three_digits_and_all_runs_reach_it(lowest, target):
    returns = [lowest - 5000.0, *[lowest] * 9]
    found = compared(curve("1r1e", returns), curve("4r1e", returns))
    assert [(each[0], each[2]) for each in found.values()] == [(target, pytest.approx(2000))] * 2


@pytest.mark.parametrize(
    "other",
    [
        curve("4r1e", [NAN] * 20),
        curve("4r1e", MONOTONE[:4]),
        # Trained before: it is there from the start.
        curve("4r1e", [200.0] * 20),
        # Collapses to where all runs begin.
        curve("4r1e", [*MONOTONE, 5.0]),
        # The clock jumped: its training time is unknown.
        curve("4r1e", MONOTONE, elapsed=NAN),
        curve("1r1e", MONOTONE),
    ],
)
def test_nothing_is_shown_where_returns_cannot_be_compared(other):
    report = report_of(curve("1r1e", MONOTONE), other)
    shown = json.loads(to_json(report))["studies"][0]
    assert shown["target_return"] is None
    assert {row[key] for row in shown["configurations"] for key in row if "return" in key or key == "sooner"} == {None}
    page = render_page(report)
    assert not any(text in page for text in ("Time to return", "sooner"))


def test_repeats_give_an_interval_for_a_repeat():
    slow, fast = [curve("1r1e", MONOTONE, s) for s in (1.0, 1.2)], [curve("4r1e", MONOTONE, s) for s in (0.4, 0.5)]
    one, four = (each.to_return for each in configurations(Study("test", (*slow, *fast))))
    assert (four.sooner, four.seconds) == pytest.approx((math.sqrt(1.2 / 0.2), 15 * math.sqrt(0.2)))
    # The variances of ln time are pooled, 2 degrees of freedom: t = 4.303. Two means of two runs each, and as many in the repeat.
    variance = (math.log(1.2) ** 2 / 2 + math.log(1.25) ** 2 / 2) / 2
    assert four.sooner_error == pytest.approx(100 * math.expm1(4.30265 * math.sqrt(2 * variance)), rel=1e-4)
    assert one.error == pytest.approx(100 * math.expm1(4.30265 * math.sqrt(variance)), rel=1e-4)
    assert one.sooner_error == 0.0


def test_long_runs_are_thinned_but_every_dip_counts():
    returns = [float(i) for i in range(1, 1001)]
    # Between two of the iterations that are kept.
    kept = {sample.number for sample in curve("1r1e", returns).samples}
    dip = next(number for number in range(700, 800) if number not in kept)
    returns[dip - 1] = 100.0
    found = compared(curve("1r1e", returns), curve("4r1e", returns), target=500.0)
    assert dip < found["1r×1e"][1] < dip + 5


# What the report makes of it; tests/data/reports has the sentences.


def test_a_given_return_that_no_run_reaches_is_said():
    experiment = report_of(curve("1r1e", MONOTONE), curve("4r1e", MONOTONE)).experiment
    report = make_report(experiment, target_return=1000)
    assert [*remarks(report.studies[0])] == ["No configuration stays at return 1,000 in all of its runs."]
    with pytest.raises(ValueError, match="target_return is nan; allowed are finite numbers"):
        make_report(experiment, target_return=NAN)
