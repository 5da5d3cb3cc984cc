from dataclasses import replace

import pytest

from rl_scaling_callback.analysis.checklist import checklist
from rl_scaling_callback.analysis.goals import GOALS
from rl_scaling_callback.analysis.laws import Measured, fit_laws
from rl_scaling_callback.analysis.recommendation import recommend
from rl_scaling_callback.analysis.runs import Iteration
from rl_scaling_callback.core.formulas import NAN
from tests.builders import by_speedup, configuration, of_the_user
from tests.builders import settled_run as run

EFFICIENCY = "Is the efficiency at least 60 %?"
CPU, RAM = "Is the CPU utilisation below 80 %?", "Is the RAM utilisation below 80 %?"
SPS, SPEEDUP = "Did SPS increase?", "Is the speedup in the expected range?"
GOAL, LEARNING = "Does the efficiency meet the goal's threshold?", "Is learning still stable?"
BASELINE = "Was the baseline's SPS measured?"


def checks(rows, goal="balanced", laws=None, gpus=None):
    return {each.question: each for each in checklist(recommend(rows, GOALS[goal]), laws, gpus)}


def test_facts_that_were_not_recorded_are_undecided():
    found = checks(of_the_user())
    assert {question for question, each in found.items() if each.verdict == "met"} == {BASELINE, EFFICIENCY, SPS, SPEEDUP, GOAL}
    assert {each.verdict for each in found.values()} == {"met", "undecided"}


def test_utilisation_is_compared_with_the_highest_allowed():
    baseline, choice = by_speedup(**{"1r1e": 1.0, "4r1e": 3.0})
    found = checks([baseline, replace(choice, cpu_utilisation=85.0, ram_utilisation=41.0)])
    assert (found[CPU].verdict, found[RAM].verdict) == ("not met", "met")
    assert found["Is the RAM headroom known?"].evidence == "At most 41 % of a node's RAM was in use, 59 % free."


@pytest.mark.parametrize(
    ("gpus", "used", "gpu", "vram"),
    [
        ((), NAN, "met", "met"),
        (("",), NAN, "undecided", "undecided"),
        (("H200",), 30.0, "met", "met"),
        (None, NAN, "undecided", "undecided"),
    ],
)
def test_gpus(gpus, used, gpu, vram):
    rows = [replace(each, runs=(run(vram_utilisation=used),)) for each in by_speedup(**{"1r1e": 1.0, "4r1e": 3.0})]
    found = checks(rows, gpus=gpus)
    assert (found["Is the GPU known?"].verdict, found["Is the VRAM headroom known?"].verdict) == (gpu, vram)


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "met"), (1.5, "not met")])
def test_expected_range_is_the_interval_of_the_law(factor, verdict):
    rows = of_the_user()
    measured = [Measured(each.scale, each.sps) for each in rows]
    laws = fit_laws(measured, baseline=Measured(rows[0].scale, factor * rows[0].sps))
    assert checks(rows, laws=laws)[SPEEDUP].verdict == verdict


@pytest.mark.parametrize(("speedup", "verdict"), [(3.0, "met"), (3.95, "undecided"), (4.4, "not met")])
def test_expected_range_ends_at_n_without_a_law(speedup, verdict):
    rows = by_speedup(error=3.0, **{"1r1e": 1.0, "4r1e": speedup})
    assert checks(rows)[SPEEDUP].verdict == verdict


def curve(scale, returns, steps=1000.0):
    samples = tuple(
        Iteration(
            iteration,
            steps,
            1.0,
            measured=iteration > 2,
            episode_return=episode_return,
            lifetime_steps=iteration * steps,
        )
        for iteration, episode_return in enumerate(returns, 1)
    )
    return run(scale, samples=samples)


def learning(ours, theirs):
    baseline, choice = by_speedup(**{"1r1e": 1.0, "4r1e": 3.0})
    rows = [replace(baseline, runs=(curve("1r1e", theirs),)), replace(choice, runs=(curve("4r1e", ours),))]
    return checks(rows)[LEARNING]


RISING = [10.0 * iteration for iteration in range(1, 21)]


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (RISING, "met"),
        ([each + 100 for each in RISING], "met"),
        ([each - 22 for each in RISING], "met"),
        ([each - 23 for each in RISING], "undecided"),
        ([each - 44 for each in RISING], "undecided"),
        ([each - 45 for each in RISING], "not met"),
        (RISING[:10] + [100.0] * 10, "not met"),
        (RISING[:16], "undecided"),
        ([NAN] * 20, "undecided"),
    ],
)
def test_learning_is_compared_at_equal_env_steps(ours, verdict):
    # The last quarter: returns 160 to 200, standard deviation 15.8, so the spread of two such curves is 22.4.
    assert learning(ours, RISING).verdict == verdict


@pytest.mark.parametrize(
    ("factor", "evidence"),
    [
        (100.0, "Mean return 18,000, 1r×1e: 18,000, spread 2,240, "),
        (-0.001, "Mean return -0.180, 1r×1e: -0.180, spread 0.0224, "),
        (0.0, "Mean return 0, 1r×1e: 0, spread 0, "),
    ],
)
def test_digits_of_returns(factor, evidence):
    returns = [factor * each for each in RISING]
    assert learning(returns, returns).evidence.startswith(evidence)


def test_choice_is_the_baseline():
    found = checks(by_speedup(**{"1r1e": 1.0, "2r1e": 1.1}), "save")
    assert (found[SPS].verdict, found[LEARNING].verdict) == ("not met", "met")


def test_without_a_choice_only_facts_are_checked():
    found = checks([configuration("2r1e", 1000.0)])
    assert found[BASELINE].verdict == "not met"
    assert {each.stage for each in found.values()} == {"before"}


def test_external_baseline():
    found = checks([configuration("2r1e", 1900.0, 1000.0), configuration("4r1e", 3000.0, 1000.0)])
    assert (found[BASELINE].verdict, found[LEARNING].verdict) == ("met", "undecided")


def test_fastest_has_no_threshold():
    assert checks(of_the_user(), "fastest")[GOAL].verdict == "met"
