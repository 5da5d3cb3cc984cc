from dataclasses import replace

import pytest

from rl_scaling_callback.analysis.checklist import checklist
from rl_scaling_callback.analysis.goals import GOALS
from rl_scaling_callback.analysis.recommendation import recommend
from rl_scaling_callback.analysis.runs import Sample
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from tests.builders import Amdahl, amdahl_rows, by_speedup, configuration, laws, of_the_user
from tests.builders import settled_run as run


def checks(rows, goal="balanced", laws=None):
    return {each.text: each for each in checklist(rows, recommend(rows, GOALS[goal]), laws)}


def test_the_checklist_of_the_users_measurements():
    found = checklist(of_the_user(), recommend(of_the_user(), GOALS["balanced"]))
    assert [(each.stage, each.text, each.verdict) for each in found] == [
        ("before", "Is the baseline's SPS measured?", "met"),
        ("before", "Are the CPU cores known?", "undecided"),
        ("before", "Is the GPU known?", "undecided"),
        ("before", "Is the RAM headroom known?", "undecided"),
        ("before", "Is the VRAM headroom known?", "undecided"),
        ("choosing", "Is the efficiency at least 60 %?", "met"),
        ("choosing", "Is the CPU utilisation below 80 %?", "undecided"),
        ("choosing", "Is the RAM utilisation below 80 %?", "undecided"),
        ("after", "Did SPS rise?", "met"),
        ("after", "Is the speedup in the expected range?", "met"),
        ("after", "Does the efficiency reach the goal's threshold?", "met"),
        ("after", "Is learning still stable?", "undecided"),
    ]
    evidence = {each.text: each.evidence for each in found}
    assert evidence["Is the efficiency at least 60 %?"] == "67.7 %, good; at least 60 %."
    assert evidence["Did SPS rise?"] == "3,732 steps/s against 1,378: 2.71×."
    assert all(evidence.values())


def test_utilisation_cores_and_headroom_where_they_were_recorded():
    baseline, choice = by_speedup(**{"1r1e": 1.0, "4r1e": 3.0})
    choice = replace(choice, runs=(run(cores=20.0),), cpu_utilisation=85.0, ram_utilisation=41.0)
    found = checks([baseline, choice])
    assert found["Are the CPU cores known?"].evidence == "20 logical cores."
    assert found["Is the RAM headroom known?"].evidence == "At most 41 % of a node's RAM were in use: 59 % are free."
    assert found["Is the CPU utilisation below 80 %?"].verdict == "not met"
    assert found["Is the RAM utilisation below 80 %?"].verdict == "met"


CPUS_ONLY = {"num_gpus": 0, "num_gpus_per_learner": 0, "num_gpus_per_env_runner": 0, "accelerators": []}


@pytest.mark.parametrize(
    ("facts", "used", "known", "gpu", "vram"),
    [
        (CPUS_ONLY, NAN, ("met", "met"), "None is used", "None is used"),
        ({**CPUS_ONLY, "num_gpus_per_learner": 1}, NAN, ("undecided", "undecided"), "One is used; which", "Not recorded"),
        (
            {**CPUS_ONLY, "num_gpus_per_learner": 1, "accelerators": ["H200"]},
            30.0,
            ("met", "met"),
            "H200, as Ray",
            "At most 30 % of a GPU's memory were in use: 70 % are free.",
        ),
        ({"name": "on the user's word"}, NAN, ("undecided", "undecided"), "Not recorded", "Not recorded"),
    ],
)
def test_what_is_known_of_gpus(facts, used, known, gpu, vram):
    rows = [replace(each, runs=(run(vram_utilisation=used),)) for each in by_speedup(**{"1r1e": 1.0, "4r1e": 3.0})]
    found = {each.text: each for each in checklist(rows, recommend(rows, GOALS["balanced"]), facts=facts)}
    of_gpu, of_vram = found["Is the GPU known?"], found["Is the VRAM headroom known?"]
    assert (of_gpu.verdict, of_vram.verdict) == known
    assert of_gpu.evidence.startswith(gpu)
    assert of_vram.evidence.startswith(vram)


def test_the_expected_range_is_the_laws_interval():
    law = Amdahl(0.1, 0.9, largest=Scale(4, 1))
    rows = amdahl_rows(law, "1r1e", "2r1e", "4r1e")
    found = checks(rows, laws=laws(law))["Is the speedup in the expected range?"]
    assert found.verdict == "met"
    assert found.evidence == "3.08×; law Amdahl expects 2.80 to 3.42×, its mean leave-one-out error is 4.0 %."
    unknown_work = checks(rows, laws=replace(laws(law), env_steps=NAN))["Is the speedup in the expected range?"]
    assert unknown_work.evidence == "3.08×; without a prediction, anything from 1 to N = 4 is expected."
    narrow = replace(law, serial=0.4, error=0.01)
    assert checks(rows, laws=laws(narrow))["Is the speedup in the expected range?"].verdict == "not met"


@pytest.mark.parametrize(("speedup", "verdict"), [(3.0, "met"), (3.95, "undecided"), (4.4, "not met")])
def test_without_a_law_more_than_n_is_not_expected(speedup, verdict):
    rows = by_speedup(error=3.0, **{"1r1e": 1.0, "4r1e": speedup})
    assert checks(rows)["Is the speedup in the expected range?"].verdict == verdict


def curve(scale, returns, steps=1000.0):
    samples = tuple(
        Sample(iteration, steps, 1.0, iteration > 2, episode_return, iteration * steps)
        for iteration, episode_return in enumerate(returns, 1)
    )
    return run(scale, samples=samples)


def learning(ours, theirs):
    baseline, choice = by_speedup(**{"1r1e": 1.0, "4r1e": 3.0})
    rows = [replace(baseline, runs=(curve("1r1e", theirs),)), replace(choice, runs=(curve("4r1e", ours),))]
    return checks(rows)["Is learning still stable?"]


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


def test_the_evidence_of_learning():
    longer = [*RISING, *RISING]
    assert learning(RISING, longer).evidence == "Mean return 180 against 180 of 1r×1e, spread 22, over env steps 15,000 to 20,000."
    assert learning(RISING[:16], longer).evidence.startswith(
        "4 iterations of 4r×1e and 4 of 1r×1e have a return over env steps 12,000"
    )
    assert learning([NAN] * 20, RISING).evidence.startswith("No return is recorded of 4r×1e:")


@pytest.mark.parametrize(
    ("factor", "evidence"),
    [
        (100.0, "Mean return 18,000 against 18,000 of 1r×1e, spread 2,236, "),
        (1.0, "Mean return 180 against 180 of 1r×1e, spread 22, "),
        (0.01, "Mean return 1.80 against 1.80 of 1r×1e, spread 0.22, "),
        (-0.001, "Mean return -0.180 against -0.180 of 1r×1e, spread 0.022, "),
        (0.0, "Mean return 0 against 0 of 1r×1e, spread 0, "),
    ],
)
def test_returns_are_written_for_people(factor, evidence):
    returns = [factor * each for each in RISING]
    assert learning(returns, returns).evidence.startswith(evidence)


def test_returns_without_a_spread_keep_their_digits():
    assert learning([0.25] * 20, [0.5] * 20).evidence.startswith("Mean return 0.2500 against 0.5000 of 1r×1e, spread 0.0000, ")


def test_a_choice_that_is_the_baseline():
    found = checks(by_speedup(**{"1r1e": 1.0, "2r1e": 1.1}), "save")
    assert found["Did SPS rise?"].verdict == "not met"
    assert found["Is learning still stable?"].verdict == "met"


def test_without_a_choice_there_is_nothing_to_check():
    found = checks([configuration("2r1e", 1000.0)])
    assert found["Is the baseline's SPS measured?"].verdict == "not met"
    assert "baseline_dir" in found["Is the baseline's SPS measured?"].evidence
    assert {each.verdict for each in found.values() if each.stage != "before"} == {"undecided"}


def test_a_baseline_from_outside():
    found = checks([configuration("2r1e", 1900.0, 1000.0), configuration("4r1e", 3000.0, 1000.0)])
    assert found["Is the baseline's SPS measured?"].evidence == "1,000 steps/s, from outside this experiment."
    assert found["Is learning still stable?"].verdict == "undecided"


def test_the_fastest_has_no_threshold():
    found = checks(of_the_user(), "fastest")["Does the efficiency reach the goal's threshold?"]
    assert (found.verdict, found.evidence) == ("met", "The goal has none; it is 33.8 %, inefficient.")
