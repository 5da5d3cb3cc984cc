"""Time to return: when curves stay at a return, at which return they are compared, and what the report says about it."""

import math

import pytest

from rl_scaling_callback.analysis.configurations import configurations
from rl_scaling_callback.analysis.returns import reached
from rl_scaling_callback.analysis.runs import Study
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.report.report import render_page
from rl_scaling_callback.report.sections import remarks
from rl_scaling_callback.report.study import COLUMNS
from tests.builders import MONOTONE, curve, report_of


def compared(*runs):
    """Return target, seconds and env steps of the time to return of each configuration."""
    found = [c.to_return for c in configurations(Study("test", runs))]
    return [(each.target, each.seconds, each.env_steps) for each in found]


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
        ([*MONOTONE[:-1], 99.0], None),
        ([50.0] * 20, None),
    ],
)
def test_a_run_stays_at_a_return_from_the_last_crossing_on(returns, first):
    found = reached(curve("4r1e", returns).samples, 100.0)
    assert (found and found.number) == first


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
    assert [each[:2] for each in found] == [pytest.approx((target, seconds)) for seconds in times]


def test_a_single_run_that_collapses_does_not_decide_the_return_but_then_its_configuration_has_no_time():
    collapsed = [curve("4r1e", MONOTONE, 0.5), curve("4r1e", MONOTONE, 0.6), curve("4r1e", [*MONOTONE[:-1], 5.0], 0.5)]
    report = report_of(curve("1r1e", MONOTONE), *collapsed)
    (study,) = report.studies
    one, four = study.configurations
    assert (one.to_return.target, one.to_return.seconds, one.sooner) == (150.0, 15.0, 1.0)
    assert [column.cell(four) for column in COLUMNS[-3:]] == ["–", "–", "–"]
    assert "It is – where not all runs of a configuration do." in remarks(study)


@pytest.mark.parametrize(("lowest", "target"), [(447.7, 447.0), (-1234.0, -1240.0), (0.012349, 0.0123), (0.3, 0.3), (0.0, 0.0)])
def test_the_return_has_three_digits_and_all_runs_reach_it(lowest, target):
    returns = [lowest - 5000.0, *[lowest] * 9]
    found = compared(curve("1r1e", returns), curve("4r1e", returns))
    assert [(each[0], each[2]) for each in found] == [(target, pytest.approx(2000))] * 2


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
    assert math.isnan(report.studies[0].configurations[0].to_return.target)
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
    assert not any("one run each" in remark for remark in remarks(report_of(*slow, *fast).studies[0]))


def test_long_runs_are_thinned_but_every_dip_counts():
    returns = [float(i) for i in range(1, 1001)]
    # Between two of the iterations that are kept.
    kept = {sample.number for sample in curve("1r1e", returns).samples}
    dip = next(number for number in range(700, 800) if number not in kept)
    returns[dip - 1] = 100.0
    assert dip < reached(curve("1r1e", returns).samples, 500.0).number < dip + 5
