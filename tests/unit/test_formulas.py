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


def test_amdahl_from_one_measurement():
    assert f"{formulas.speedup(7455, 1378):.2f}" == "5.41"
    s = formulas.serial_fraction(5.41, 16)
    assert f"{s:.4f}" == "0.1305"
    assert formulas.amdahl_speedup(s, 16) == pytest.approx(5.41, rel=1e-12)  # by construction
    assert f"{formulas.amdahl_speedup(0.13, 16):.2f}" == "5.42"
    assert f"{formulas.amdahl_limit(0.13):.2f}" == "7.69"
    assert f"{5.41 / formulas.amdahl_limit(0.13) * 100:.1f}" == "70.3"  # 70.4 from the rounded 7.69
    assert formulas.amdahl_speedup(s, 1) == pytest.approx(1.0)
    assert formulas.amdahl_speedup(1.0, 16) == pytest.approx(1.0)


BOUNDS = {"perfect": (107.0, 100.0), "excellent": (99.99, 80.0), "good": (79.99, 60.0), "fair": (59.99, 40.0)}


@pytest.mark.parametrize(("name", "efficiencies"), [*BOUNDS.items(), ("inefficient", (39.99, -5.0)), ("", (math.nan,))])
def test_bands(name, efficiencies):
    assert {formulas.band(each) for each in efficiencies} == {name}


UNDEFINED = {
    formulas.steps_per_second: [(1000, 0.0), (0, 1.0), (1000, -1.0), (math.nan, 1.0), (1e300, 1e-300)],
    formulas.speedup: [(1000, 0.0), (1000, math.nan)],
    formulas.serial_fraction: [(1.0, 1), (0.0, 4), (math.nan, 4)],
    formulas.amdahl_speedup: [(0.1, 0)],
    formulas.amdahl_limit: [(0.0,)],
    formulas.core_efficiency: [(2.0, 4, math.nan)],
}


def test_undefined_values_are_nan():
    assert all(math.isnan(formula(*each)) for formula, arguments in UNDEFINED.items() for each in arguments)


def test_superlinear_speedup_is_kept_and_core_efficiency_is_relative_to_usable_cores():
    assert formulas.serial_fraction(4.4, 4) < 0
    assert (formulas.loss(formulas.efficiency(4.4, 4)), formulas.gap(4.4, 4)) == pytest.approx((-10, -0.4))
    assert [formulas.core_efficiency(*each) for each in ((2.0, 8, 4), (2.0, 2, 16), (0.5, 0, 16))] == [50, 100, 50]


def test_spellings_of_a_scale_and_zero_runners_count_as_one():
    assert {Scale.parse(text) for text in ("1r1e", "1rx1e", "1r×1e", " 1R x 1E ")} == {Scale(1, 1)}
    assert (str(Scale(8, 2)), Scale(8, 2).slug, Scale(0, 4).parallelism) == ("8r×2e", "8r2e", 4)


@pytest.mark.parametrize("text", ["", "1x1", "r1e", "1r0e", "one", "-1r1e", None, 3, "1r1000001e"])
def test_invalid_scales_are_rejected(text):
    with pytest.raises(ValueError, match="allowed are") as error:
        Scale.parse(text)
    assert repr(text) in str(error.value) or "num_envs_per_env_runner is" in str(error.value)
