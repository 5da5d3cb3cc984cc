import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_scaling_callback import formulas
from rl_scaling_callback.account import CAUSES, Busy, PhaseTimes, Work, diagnosis, losses

BASELINE = Work.of({"sample": 8.0, "learn": 1.5, "sync": 0.3, "other": 0.2, "busy": 7.5}, 1000)
seconds = st.floats(0, 1e4)


def test_work_per_env_step():
    assert BASELINE.phases.total == pytest.approx(10.0 / 1000)
    assert BASELINE.busy == pytest.approx(0.0075)
    assert math.isnan(Work.of({"sample": 1.0}, 10).busy)


@given(
    runners=st.integers(1, 64),
    envs=st.integers(1, 16),
    env_steps=st.integers(1, 10**6),
    phases=st.builds(PhaseTimes, seconds, seconds, seconds, seconds, st.floats(1e-3, 1e4)),
    busy=st.lists(seconds, min_size=1, max_size=8),
    single=seconds,
)
def test_the_causes_sum_to_the_loss_whatever_happened(runners, envs, env_steps, phases, busy, single):
    n = runners * envs
    lost = losses(n, runners, env_steps, phases, Busy.of(busy), BASELINE, single)
    speedup = BASELINE.phases.total * env_steps / phases.total
    loss = formulas.loss(formulas.efficiency(speedup, n))
    assert list(lost) == list(CAUSES)
    # 1e-9 of the largest share that was added up
    assert sum(lost.values()) == pytest.approx(loss, abs=1e-9 * max(1.0, *map(abs, lost.values())))


def lost(phases, busy, *, n=4, runners=4, single=7.5):
    return losses(n, runners, 1000, phases, Busy.of(busy), BASELINE, single)


IDEAL = PhaseTimes(2.0, 0.375, 0.075, 0.0, 0.05)


def test_perfect_scaling_loses_nothing():
    assert lost(IDEAL, [1.875] * 4) == {cause: pytest.approx(0, abs=1e-9) for cause in CAUSES}


@pytest.mark.parametrize(
    ("cause", "phases", "busy", "single"),
    [
        ("learn", PhaseTimes(2.0, 1.375, 0.075, 0.0, 0.05), [1.875] * 4, 7.5),
        ("sync", PhaseTimes(2.0, 0.375, 1.075, 0.0, 0.05), [1.875] * 4, 7.5),
        ("evaluate", PhaseTimes(2.0, 0.375, 0.075, 1.0, 0.05), [1.875] * 4, 7.5),
        ("other", PhaseTimes(2.0, 0.375, 0.075, 0.0, 1.05), [1.875] * 4, 7.5),
        ("transfer", PhaseTimes(3.0, 0.375, 0.075, 0.0, 0.05), [1.875] * 4, 7.5),
        ("contention", PhaseTimes(3.0, 0.375, 0.075, 0.0, 0.05), [2.875] * 4, 7.5),
        ("serial_stepping", PhaseTimes(3.0, 0.375, 0.075, 0.0, 0.05), [2.875] * 4, 11.5),
    ],
)
def test_a_second_more_is_booked_under_its_own_cause(cause, phases, busy, single):
    found = lost(phases, busy, single=single)
    assert found.pop(cause) == pytest.approx(100 * 1.0 / phases.total)
    assert all(points == pytest.approx(0, abs=1e-9) for points in found.values())


def test_one_slow_runner_is_a_straggler():
    phases = PhaseTimes(3.0, 0.375, 0.075, 0.0, 0.05)
    found = lost(phases, [1.875, 1.875, 1.875, 2.875])
    assert found.pop("straggler") == pytest.approx(100 * 1.0 / phases.total)
    assert all(points == pytest.approx(0, abs=1e-9) for points in found.values())


def test_negative_shares_are_kept():
    faster = PhaseTimes(1.5, 0.375, 0.075, 0.0, 0.05)
    assert lost(faster, [1.375] * 4)["contention"] < 0


def test_the_rest_of_an_iteration_is_other():
    phases = PhaseTimes.of({"sample": 1.0, "learn": 0.5}, 2.0)
    assert phases == PhaseTimes(1.0, 0.5, 0.0, 0.0, 0.5)
    assert phases.total == 2.0


def test_the_diagnosis_names_the_largest_cause():
    lost = dict.fromkeys(CAUSES, 0.0) | {"learn": 61.0, "transfer": 5.0}
    assert diagnosis(lost).startswith("learn: 61 of 66 lost points; ")
    assert diagnosis(dict.fromkeys(CAUSES, 0.0)) == ""
    assert diagnosis(lost | {"sync": math.nan}) == ""
    assert diagnosis({}) == ""
