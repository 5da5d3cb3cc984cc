"""The explanations of recommendations, as far as a rule decides what they say; tests/data/reports has them in full."""

from dataclasses import replace

import pytest

from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.analysis.noise import SWEPT, Noise
from rl_scaling_callback.analysis.recommendation import recommend
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.report.decisions import bottleneck_text, code_text, doubt_lines, reason_text, runner_up_text, verdict_text
from tests.builders import by_speedup, configuration, of_the_user
from tests.builders import settled_run as run


def doubts(rows, goal="save"):
    return " ".join(doubt_lines(recommend(rows, GOALS[goal])))


@pytest.mark.parametrize(
    ("speedup", "advice"),
    [
        # ± 25 % of one run each; of 2 it is 17 %, of 4 12 %, of 10 7 %.
        (3.5, None),
        (3.0, "repeat 4r×1e and the baseline once, about 218 s plus start-up."),
        (2.8, "repeat 4r×1e and the baseline 3 times, about 667 s plus start-up."),
        (2.53, "too close for 9 repeats to settle."),
    ],
)
def test_number_and_cost_of_repeats_that_settle_a_verdict(speedup, advice):
    noise = Noise(dof=1e6)
    rows = by_speedup(**{"1r1e": 1.0, "4r1e": speedup})
    rows = [replace(each, noise=noise, variance=0.057**2, speedup_error=noise.error(2 * 0.057**2), runs=(run(),)) for each in rows]
    said = " ".join(doubt_lines(recommend(rows, Goal("quick", min_speedup=2.5))))
    assert ("Undecided" not in said) if advice is None else said.startswith("Undecided: ") and (advice in said)


def test_longer_sweep_settles_what_a_sweep_left_undecided():
    rows = by_speedup(error=25.0, **{"1r1e": 1.0, "4r1e": 2.6})
    rows = [replace(each, noise=SWEPT, variance=0.01, runs=(run(),)) for each in rows]
    assert "a longer sweep (--budget) would narrow the interval" in reason_text(recommend(rows, Goal("quick", min_speedup=2.5)))


def test_interference_is_to_be_removed_rather_than_averaged():
    rows = [replace(each, disturbed=True) for each in by_speedup(error=2.0, **{"1r1e": 1.0, "4r1e": 3.0})]
    assert "Repeat both without them" in doubts(rows, "balanced")


def test_which_error_is_missing():
    choice = replace(configuration("4r1e", 2600.0, 1000.0), sps_error=5.0)
    assert "The error of the baseline is unknown" in doubts([choice], "fastest")
    assert "These figures have no error estimate" in doubts([replace(choice, sps_error=NAN)], "fastest")


def test_notes_of_choice_and_baseline_are_repeated_but_no_others():
    baseline, choice, other = by_speedup(**{"1r1e": 1.0, "2r1e": 1.9, "1r2e": 1.8})
    rows = [replace(baseline, notes=("slow",)), replace(choice, notes=("failed", "failed")), replace(other, notes=("odd",))]
    assert doubts(rows).endswith("2r×1e: failed. 1r×1e: slow.")


@pytest.mark.parametrize(("exclusive", "concurrent"), [(0.0, True), (1.0, False), (NAN, False)])
def test_concurrent_trials_come_with_a_remedy(exclusive, concurrent):
    baseline, choice = by_speedup(**{"1r1e": 1.0, "2r1e": 1.9})
    said = doubts([replace(baseline, runs=(run(exclusive=exclusive),)), choice])
    assert ("max_concurrent_trials=1" in said) == concurrent


def test_inefficient_choice_comes_with_advice():
    assert "consider less parallelism" in doubts(of_the_user(), "fastest")
    assert "consider less parallelism" not in doubts(of_the_user(), "balanced")


def test_ties_are_explained():
    rows = by_speedup(error=4.2, **{"1r1e": 1.0, "4r2e": 4.87, "8r1e": 5.0, "8r2e": 5.05})
    found = recommend(rows, GOALS["fastest"])
    assert "4r×2e, 8r×1e and 8r×2e are the fastest, about equal; 4r×2e needs the fewest CPUs" in reason_text(found)
    assert runner_up_text(found) == "8r×1e: 5.00× (4.80 to 5.21), efficiency 62.5 %, 9 CPUs, as fast within noise"


def test_code_is_python():
    class Config:
        def env_runners(self, **settings):
            self.settings = settings

    config = Config()
    exec(code_text(recommend(of_the_user(), GOALS["fastest"])), {"config": config})
    assert config.settings == {"num_env_runners": 8, "num_envs_per_env_runner": 2}


def test_verdict_is_given_only_if_the_goal_demands_something():
    assert verdict_text(recommend(of_the_user(), GOALS["save"])) == "Use 2r×1e: 1.64×, 82.1 %. Goal save: met."
    assert verdict_text(recommend(of_the_user(), GOALS["fastest"])) == "Use 8r×2e: 5.40×, 33.8 %."
    assert verdict_text(recommend([], GOALS["save"])) == "No recommendation yet."


def test_bottleneck_is_the_diagnosis_of_the_choice():
    baseline, choice = by_speedup(**{"1r1e": 1.0, "2r1e": 1.9})
    choice = replace(choice, diagnosis="learn: 3 of 5 lost points; a faster learner", losses_estimated=True)
    assert bottleneck_text(recommend([baseline, choice], GOALS["save"])) == (
        "learn: 3 of 5 lost points; a faster learner (estimated: stepping and contention can't be separated)"
    )
