"""The formulas reproduce the published HalfCheetah measurements to the printed digits."""

import math

import pytest

from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.scale import Scale
from tests.builders import PRINTED, ROWS

BASELINE_SPS = formulas.steps_per_second(16384, 11.89)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['num_env_runners']}r{row['num_envs_per_env_runner']}e")
def test_the_ten_rows(row):
    scale = Scale(int(row["num_env_runners"]), int(row["num_envs_per_env_runner"]))
    sps = formulas.steps_per_second(float(row["env_steps"]), float(row["time_this_iter_s"]))
    speedup = formulas.speedup(sps, BASELINE_SPS)
    efficiency = formulas.efficiency(speedup, scale.parallelism)
    n, printed_speedup, printed_efficiency = PRINTED[str(scale)]
    assert scale.parallelism == n
    # For 1r×8e and 8r×2e the rounded times give 2.58 and 5.40, the unrounded ones 2.59 and 5.41.
    assert f"{speedup:.2f}" == printed_speedup
    assert round(efficiency, 1) == float(printed_efficiency)
    assert formulas.gap(speedup, n) == n - speedup
    assert formulas.loss(efficiency) == pytest.approx((n - speedup) / n * 100, rel=1e-12)


@pytest.mark.parametrize(
    ("n", "speedup", "efficiency"),
    [
        (1, 1.00, 100.0),
        (2, 1.64, 82.1),
        (4, 2.71, 67.7),
        (8, 4.12, 51.5),
        (2, 1.52, 76.0),
        (4, 2.41, 60.2),
        (4, 2.01, 50.1),
        (8, 2.59, 32.3),
        (8, 3.03, 37.9),
        (16, 5.41, 33.8),
    ],
)
def test_efficiencies_as_printed(n, speedup, efficiency):
    # Speedups are printed with two decimals, so efficiencies [%] are known to within 0.5 / N, plus their own rounding.
    assert formulas.efficiency(speedup, n) == pytest.approx(efficiency, abs=0.5 / n + 0.05)


def test_eight_runners_of_two_envs():
    assert round(formulas.steps_per_second(16384, 11.89)) == 1378
    assert round(formulas.steps_per_second(16384, 2.20)) == 7447
    assert f"{formulas.speedup(7455, 1378):.2f}" == "5.41"
    assert f"{formulas.loss(formulas.efficiency(5.41, 16)):.1f}" == "66.2"


def test_six_runners_of_two_envs():
    sps = formulas.steps_per_second(16384, 3.45)
    speedup = formulas.speedup(sps, BASELINE_SPS)
    efficiency = formulas.efficiency(speedup, 12)
    assert round(sps) == 4749
    assert f"{speedup:.2f}" == "3.45"
    assert f"{efficiency:.1f}" == "28.7"
    assert formulas.band(efficiency) == "inefficient"


def test_amdahl_from_one_measurement():
    s = formulas.serial_fraction(5.41, 16)
    assert f"{s:.4f}" == "0.1305"
    assert formulas.amdahl_speedup(s, 16) == pytest.approx(5.41, rel=1e-12)  # by construction
    assert f"{formulas.amdahl_speedup(0.13, 16):.2f}" == "5.42"
    assert f"{formulas.amdahl_limit(0.13):.2f}" == "7.69"
    assert f"{5.41 / formulas.amdahl_limit(0.13) * 100:.1f}" == "70.3"  # 70.4 from the rounded 7.69
    assert f"{5.41 / 7.69 * 100:.1f}" == "70.4"
    assert formulas.amdahl_speedup(s, 1) == pytest.approx(1.0)
    assert formulas.amdahl_speedup(1.0, 16) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("efficiency", "name"),
    [
        (107.0, "perfect"),
        (100.0, "perfect"),
        (99.99, "excellent"),
        (80.0, "excellent"),
        (79.99, "good"),
        (60.0, "good"),
        (59.99, "fair"),
        (40.0, "fair"),
        (39.99, "inefficient"),
        (-5.0, "inefficient"),
        (math.nan, ""),
    ],
)
def test_bands(efficiency, name):
    assert formulas.band(efficiency) == name


@pytest.mark.parametrize(
    "value",
    [
        formulas.steps_per_second(1000, 0.0),
        formulas.steps_per_second(0, 1.0),
        formulas.steps_per_second(1000, -1.0),
        formulas.steps_per_second(math.nan, 1.0),
        formulas.steps_per_second(1e300, 1e-300),
        formulas.speedup(1000, 0.0),
        formulas.speedup(1000, math.nan),
        formulas.serial_fraction(1.0, 1),
        formulas.serial_fraction(0.0, 4),
        formulas.serial_fraction(math.nan, 4),
        formulas.amdahl_speedup(0.1, 0),
        formulas.amdahl_limit(0.0),
        formulas.core_efficiency(2.0, 4, math.nan),
    ],
)
def test_undefined_values_are_nan(value):
    assert math.isnan(value)


def test_superlinear_speedup_is_kept():
    assert formulas.serial_fraction(4.4, 4) < 0
    assert formulas.loss(formulas.efficiency(4.4, 4)) == pytest.approx(-10)
    assert formulas.gap(4.4, 4) == pytest.approx(-0.4)


def test_core_efficiency_is_relative_to_usable_cores():
    assert formulas.core_efficiency(2.0, 8, 4) == 50
    assert formulas.core_efficiency(2.0, 2, 16) == 100
    assert formulas.core_efficiency(0.5, 0, 16) == 50


@pytest.mark.parametrize("text", ["1r1e", "1rx1e", "1r×1e", " 1R x 1E "])
def test_spellings_of_a_scale(text):
    assert Scale.parse(text) == Scale(1, 1)


@pytest.mark.parametrize("text", ["", "1x1", "r1e", "1r0e", "one", "-1r1e", None, 3])
def test_invalid_scales_are_rejected(text):
    with pytest.raises(ValueError, match="allowed are") as error:
        Scale.parse(text)
    assert (repr(text) in str(error.value)) or "0" in str(error.value)


def test_zero_runners_count_as_one():
    assert Scale(0, 4).parallelism == 4
    assert str(Scale(8, 2)) == "8r×2e"
    assert Scale(8, 2).slug == "8r2e"
    with pytest.raises(ValueError, match="num_env_runners is -1"):
        Scale(-1, 1)
