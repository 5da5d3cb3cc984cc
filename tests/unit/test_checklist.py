from dataclasses import replace

import pytest

from rl_scaling_callback.analysis.checklist import checklist
from rl_scaling_callback.analysis.goals import GOALS
from rl_scaling_callback.analysis.laws import Work
from rl_scaling_callback.analysis.recommendation import recommend
from rl_scaling_callback.analysis.runs import Iteration
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.report.decisions import evidence_text, question_text
from tests.builders import Amdahl, amdahl_rows, by_speedup, configuration, laws, of_the_user
from tests.builders import settled_run as run


def checks(rows, goal="balanced", laws=None):
    return {each.name: each for each in checklist(rows, recommend(rows, GOALS[goal]), laws)}


def test_checklist_without_recorded_facts():
    found = checklist(of_the_user(), recommend(of_the_user(), GOALS["balanced"]))
    assert [(each.stage, each.name, each.verdict) for each in found] == [
        ("before", "baseline", "met"),
        ("before", "cores", "undecided"),
        ("before", "gpu", "undecided"),
        ("before", "ram", "undecided"),
        ("before", "vram", "undecided"),
        ("choosing", "efficiency", "met"),
        ("choosing", "cpu_utilisation", "undecided"),
        ("choosing", "ram_utilisation", "undecided"),
        ("after", "sps", "met"),
        ("after", "speedup", "met"),
        ("after", "goal", "met"),
        ("after", "learning", "undecided"),
    ]
    assert all(question_text(each).endswith("?") for each in found)
    assert [evidence_text(each) for each in found] == [
        "1r×1e: 1,380 steps/s, no error estimate, from 0 runs.",
        "Not recorded: the baseline file that a 1r×1e trial with ScalingCallback writes contains them.",
        "Not recorded: run nvidia-smi on the training host.",
        "Not recorded: RLlib reports it under perf, for iterations of 0.7 s or more.",
        "Not recorded: RLlib needs GPUtil to record it. Or watch nvidia-smi during a trial.",
        "67.7 %, good; threshold 60 %.",
        "Not recorded: RLlib reports it under perf, for iterations of 0.7 s or more.",
        "Not recorded: RLlib reports it under perf, for iterations of 0.7 s or more.",
        "3,730 steps/s, baseline 1,380: 2.71×.",
        "2.71×; no prediction, so any speedup from 1 to N = 4 is expected.",
        "67.7 %, good; threshold 60 %.",
        "No returns recorded for 4r×1e and 1r×1e: episodes must end, and the result of each iteration must be kept.",
    ]


def test_recorded_utilisation_cores_and_headroom():
    baseline, choice = by_speedup(**{"1r1e": 1.0, "4r1e": 3.0})
    choice = replace(choice, runs=(run(cores=20.0),), cpu_utilisation=85.0, ram_utilisation=41.0)
    found = checks([baseline, choice])
    assert (found["cores"].figures, found["ram"].figures) == ({"most": 20.0}, {"most": 41.0})
    assert evidence_text(found["ram"]) == "At most 41 % of a node's RAM was in use, 59 % free."
    assert found["cpu_utilisation"].verdict == "not met"
    assert found["ram_utilisation"].verdict == "met"


@pytest.mark.parametrize(
    ("gpus", "used", "gpu", "vram"),
    [
        ((), NAN, ("met", "none used"), ("met", "none used")),
        (("",), NAN, ("undecided", "not named"), ("undecided", "not recorded")),
        (("H200",), 30.0, ("met", "recorded"), ("met", "recorded")),
        (None, NAN, ("undecided", "not recorded"), ("undecided", "not recorded")),
    ],
)
def test_gpus(gpus, used, gpu, vram):
    rows = [replace(each, runs=(run(vram_utilisation=used),)) for each in by_speedup(**{"1r1e": 1.0, "4r1e": 3.0})]
    found = {each.name: each for each in checklist(rows, recommend(rows, GOALS["balanced"]), gpus=gpus)}
    assert (found["gpu"].verdict, found["gpu"].finding) == gpu
    assert (found["vram"].verdict, found["vram"].finding) == vram


def test_expected_range_is_the_interval_of_the_law():
    law = Amdahl(0.1, 0.9, largest=Scale(4, 1))
    rows = amdahl_rows(law, "1r1e", "2r1e", "4r1e")
    found = checks(rows, laws=laws(law))["speedup"]
    assert (found.verdict, found.finding) == ("met", "predicted")
    assert evidence_text(found) == "3.08×; law Amdahl predicts 2.80 to 3.42× (mean leave-one-out error 4.0 %)."
    assert checks(rows, laws=laws(law, Work()))["speedup"].finding == "not predicted"
    narrow = replace(law, serial=0.4, error=0.01)
    assert checks(rows, laws=laws(narrow))["speedup"].verdict == "not met"


@pytest.mark.parametrize(("speedup", "verdict"), [(3.0, "met"), (3.95, "undecided"), (4.4, "not met")])
def test_expected_range_ends_at_n_without_a_law(speedup, verdict):
    rows = by_speedup(error=3.0, **{"1r1e": 1.0, "4r1e": speedup})
    assert checks(rows)["speedup"].verdict == verdict


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
    return checks(rows)["learning"]


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


def test_evidence_of_learning():
    longer = [*RISING, *RISING]
    assert evidence_text(learning(RISING, longer)) == "Mean return 180, 1r×1e: 180, spread 22, over env steps 15,000 to 20,000."
    assert evidence_text(learning(RISING[:16], longer)).startswith(
        "4 iterations of 4r×1e and 4 of 1r×1e have returns over env steps 12,000"
    )
    assert evidence_text(learning([NAN] * 20, RISING)).startswith("No returns recorded for 4r×1e:")


@pytest.mark.parametrize(
    ("factor", "evidence"),
    [
        (100.0, "Mean return 18,000, 1r×1e: 18,000, spread 2,236, "),
        (1.0, "Mean return 180, 1r×1e: 180, spread 22, "),
        (0.01, "Mean return 1.80, 1r×1e: 1.80, spread 0.22, "),
        (-0.001, "Mean return -0.180, 1r×1e: -0.180, spread 0.022, "),
        (0.0, "Mean return 0, 1r×1e: 0, spread 0, "),
    ],
)
def test_digits_of_returns(factor, evidence):
    returns = [factor * each for each in RISING]
    assert evidence_text(learning(returns, returns)).startswith(evidence)


def test_digits_of_returns_without_spread():
    assert evidence_text(learning([0.25] * 20, [0.5] * 20)).startswith("Mean return 0.2500, 1r×1e: 0.5000, spread 0.0000, ")


def test_choice_is_the_baseline():
    found = checks(by_speedup(**{"1r1e": 1.0, "2r1e": 1.1}), "save")
    assert found["sps"].verdict == "not met"
    assert found["learning"].verdict == "met"


def test_no_choice():
    found = checks([configuration("2r1e", 1000.0)])
    assert found["baseline"].verdict == "not met"
    assert found["baseline"].finding == "no baseline"
    assert {each.verdict for each in found.values() if each.stage != "before"} == {"undecided"}


def test_external_baseline():
    found = checks([configuration("2r1e", 1900.0, 1000.0), configuration("4r1e", 3000.0, 1000.0)])
    assert (found["baseline"].finding, found["baseline"].figures) == ("given", {"sps": 1000.0})
    assert found["learning"].verdict == "undecided"


def test_fastest_has_no_threshold():
    found = checks(of_the_user(), "fastest")["goal"]
    assert (found.verdict, found.finding) == ("met", "no threshold")
    assert evidence_text(found) == "33.8 %, inefficient; the goal has no threshold."
