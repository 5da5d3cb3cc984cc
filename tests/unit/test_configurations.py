import math
import random

import pytest

from rl_scaling_callback.analysis.configurations import configurations
from rl_scaling_callback.analysis.runs import GivenBaseline, Study
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from tests.builders import run, users_ten, window


def by_scale(*runs, **facts):
    return {str(each.scale): each for each in configurations(Study("test", runs, **facts))}


def test_the_users_ten_rows():
    found = {scale: (f"{each.speedup:.2f}", f"{each.efficiency:.1f}", each.band) for scale, each in by_scale(*users_ten()).items()}
    assert found == {
        "1r×1e": ("1.00", "100.0", "perfect"),
        "2r×1e": ("1.64", "82.1", "excellent"),
        "1r×2e": ("1.52", "76.0", "good"),
        "4r×1e": ("2.71", "67.7", "good"),
        "2r×2e": ("2.41", "60.2", "good"),
        "1r×4e": ("2.01", "50.1", "fair"),
        "8r×1e": ("4.11", "51.4", "fair"),
        "2r×4e": ("3.03", "37.9", "inefficient"),
        "1r×8e": ("2.58", "32.3", "inefficient"),
        "8r×2e": ("5.40", "33.8", "inefficient"),
    }
    assert next(iter(found)) == "1r×1e"


def test_one_iteration_has_no_error():
    for each in by_scale(*users_ten()).values():
        assert math.isnan(each.sps_error)
        assert each.speedup_error == 0 if each.is_baseline else math.isnan(each.speedup_error)


def test_without_a_baseline_only_sps_is_known():
    each = by_scale(run("2r1e", [1.0, 1.1, 0.9]))["2r×1e"]
    assert each.sps == pytest.approx(1000)
    assert math.isnan(each.speedup)
    assert (each.band, each.losses, each.diagnosis) == ("", {}, "")


def test_a_baseline_from_a_file():
    given = GivenBaseline(Scale(1, 1), window([2.0] * 5), "an older experiment")
    each = by_scale(run("2r1e", [1.25] * 5), baseline=given)["2r×1e"]
    assert (each.speedup, each.efficiency, each.is_baseline) == (pytest.approx(1.6), pytest.approx(80), False)


def test_a_baseline_that_is_only_a_number():
    number = Steady(500.0, math.nan, 0, math.nan, math.nan, converged=False, settled=False)
    each = by_scale(run("2r1e", [1.25] * 5), baseline=GivenBaseline(Scale(1, 1), number, "the trial's own option"))["2r×1e"]
    assert each.speedup == pytest.approx(1.6)
    assert math.isnan(each.speedup_error)
    assert not each.losses


def test_a_larger_reference_scales_perfectly_up_to_itself():
    study = Study("test", (run("4r1e", [1.0] * 5), run("8r1e", [0.625] * 5)))
    four, eight = configurations(study, Scale(4, 1))
    assert (four.speedup, four.efficiency) == (pytest.approx(4), pytest.approx(100))
    assert (eight.speedup, eight.efficiency) == (pytest.approx(6.4), pytest.approx(80))


def test_other_steps_per_iteration_are_not_compared():
    each = by_scale(run("1r1e", [1.0] * 5), run("2r1e", [1.0] * 5, env_steps=2000))["2r×1e"]
    assert math.isnan(each.speedup)
    assert each.note == "2,000 env steps an iteration, 1,000 in the baseline's: not comparable"
    timed = by_scale(run("1r1e", [1.0] * 5), run("2r1e", [1.0] * 5, env_steps=2000), timed_iterations=True)["2r×1e"]
    assert timed.speedup == pytest.approx(2)


def test_the_losses_sum_to_the_loss():
    alone = {"sample": 0.8, "learn": 0.15, "sync": 0.03, "other": 0.02, "busy": 0.75, "longest": 0.75}
    both = {"sample": 0.5, "learn": 0.15, "sync": 0.03, "other": 0.02, "busy": 0.4, "longest": 0.45}
    each = by_scale(run("1r1e", [1.0] * 5, parts=alone), run("2r1e", [0.7] * 5, parts=both))["2r×1e"]
    assert sum(each.losses.values()) == pytest.approx(each.loss, abs=1e-9)
    assert each.losses["learn"] == pytest.approx(100 * (0.15 - 0.075) / 0.7)
    assert each.diagnosis.startswith("learn: 11 of 29 lost points")
    assert not by_scale(run("1r1e", [1.0], parts=alone), run("2r1e", [0.7], parts=both), exclusive_phases=False)["2r×1e"].losses


def test_what_a_reader_must_know():
    each = by_scale(run("1r1e", [1.0] * 5), run("2r1e", [1.0] * 5, exclusive=0.0, note="ended with an error"))["2r×1e"]
    assert each.note == "ended with an error; another trial ran on its node at the same time"
    assert by_scale(run("4r1e", [1.0], cpus=5.0))["4r×1e"].sps_per_cpu == 200
    assert by_scale(run("3r1e", [1.0]))["3r×1e"].sps_per_cpu == 250


@pytest.mark.parametrize("who", ["1r1e", "2r1e"])
def test_a_speedup_is_disturbed_where_its_baseline_was(who):
    def disturbed(**facts):
        return by_scale(*(run(scale, [1.0] * 5, **(facts if scale == who else {})) for scale in ("1r1e", "2r1e")))[
            "2r×1e"
        ].disturbed

    assert disturbed(others=0.5)
    assert disturbed(exclusive=0.0)
    assert not disturbed(others=0.1, exclusive=1.0)


def covered(rng, repetitions, between, within):
    """Return whether the interval of a speedup held the truth."""

    def noisy(seconds):
        this_run = seconds * rng.lognormvariate(0, between)
        return [this_run * rng.lognormvariate(0, within) for _ in range(6)]

    truth = {"1r1e": 1.0, "2r1e": 0.6, "4r1e": 0.4}
    found = by_scale(*(run(scale, noisy(seconds)) for scale, seconds in truth.items() for _ in range(repetitions)))["4r×1e"]
    return found.speedup / (1 + found.speedup_error / 100) <= 2.5 <= found.speedup * (1 + found.speedup_error / 100)


@pytest.mark.parametrize(("repetitions", "between"), [(3, 0.08), (2, 0.05), (1, 0.0)])
def test_the_interval_of_a_speedup_holds_the_truth(repetitions, between):
    rng = random.Random(1)
    tries = 600
    share = sum(covered(rng, repetitions, between, 0.05) for _ in range(tries)) / tries
    assert 0.92 <= share <= 0.99


def test_a_single_run_of_a_noisy_machine_does_not_cover():
    """What the page says of it: such an interval speaks of this run's iterations only."""
    rng = random.Random(2)
    share = sum(covered(rng, 1, 0.08, 0.02) for _ in range(200)) / 200
    assert share < 0.7


def test_repeated_runs_are_pooled():
    each = by_scale(run("1r1e", [1.0] * 5), run("2r1e", [0.5] * 5), run("2r1e", [0.7] * 5))["2r×1e"]
    assert each.sps == pytest.approx(10_000 / 6.0)
    assert each.between_runs
    assert each.sps_error > 100  # two runs that far apart leave one degree of freedom: t = 12.7


def test_windows_of_unknown_error():
    empty = Steady(math.nan, math.nan, 0, 0.0, 0.0, converged=False, settled=False)
    found = configurations(Study("test", (), GivenBaseline(Scale(1, 1), empty, "nowhere")))
    assert found == ()
