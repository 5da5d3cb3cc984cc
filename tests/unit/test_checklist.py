from dataclasses import replace

import pytest

from rl_scaling_callback.analysis.checklist import checklist
from rl_scaling_callback.analysis.choice import GOALS, recommend
from rl_scaling_callback.analysis.laws import fit_law
from rl_scaling_callback.core.formulas import NAN
from tests.builders import MONOTONE, by_speedup, curve, of_the_user

SPEEDUP = "Is the speedup in the expected range?"


def checks(rows, law=None, gpus=None):
    """Return the verdicts by question."""
    return {each.question: each.verdict for each in checklist(recommend(rows, GOALS["balanced"]), law, gpus)}


@pytest.mark.parametrize(
    ("gpus", "gpu", "vram"), [((), "met", "met"), (("",), "undecided", "undecided"), (("H200",), "met", "undecided")]
)
def test_gpus_of_unknown_name_or_utilisation(gpus, gpu, vram):
    found = checks(by_speedup(**{"1r1e": 1.0, "4r1e": 3.0}), gpus=gpus)
    assert (found["Is the GPU known?"], found["Is the VRAM headroom known?"]) == (gpu, vram)


def test_speedup_outside_the_interval_of_the_law_is_not_expected():
    law = fit_law([replace(each, speedup=each.speedup / 1.5) for each in of_the_user()])
    assert checks(of_the_user(), law=law)[SPEEDUP] == "not met"


def test_no_range_is_expected_without_a_law():
    assert checks(by_speedup(error=3.0, **{"1r1e": 1.0, "4r1e": 3.0}))[SPEEDUP] == "undecided"


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (MONOTONE, "met"),
        ([each + 100 for each in MONOTONE], "met"),
        ([each - 22 for each in MONOTONE], "met"),
        ([each - 23 for each in MONOTONE], "undecided"),
        ([each - 44 for each in MONOTONE], "undecided"),
        ([each - 45 for each in MONOTONE], "not met"),
        (MONOTONE[:10] + [100.0] * 10, "not met"),
        (MONOTONE[:16], "undecided"),
        ([NAN] * 20, "undecided"),
    ],
)
def test_learning_is_compared_at_equal_env_steps(ours, verdict):
    # The last quarter: returns 160 to 200, standard deviation 15.8, so the spread of two such curves is 22.4.
    baseline, choice = by_speedup(**{"1r1e": 1.0, "4r1e": 3.0})
    rows = [replace(baseline, runs=(curve("1r1e", MONOTONE),)), replace(choice, runs=(curve("4r1e", ours),))]
    assert checks(rows)["Is learning still stable?"] == verdict
