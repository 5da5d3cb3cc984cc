import math
from dataclasses import dataclass, field, replace

import pytest

from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.analysis.laws import Laws, Prediction
from rl_scaling_callback.analysis.recommendation import recommend
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale

from .test_recommendation import by_speedup, run


@dataclass(frozen=True)
class Amdahl:
    """T = serial + parallel / N, as a law that was fitted to configurations up to `largest`."""

    serial: float
    parallel: float
    largest: Scale
    error: float = 0.1
    name: str = "Amdahl"
    formula: str = "T = a + b/N"
    mean_error: float = 4.0
    max_error: float = 8.0
    parameters: dict = field(default_factory=dict)

    def predict(self, scale):
        seconds = self.serial + self.parallel / scale.parallelism
        far = (
            scale.num_env_runners > 2 * self.largest.num_env_runners
            or scale.num_envs_per_env_runner > 2 * self.largest.num_envs_per_env_runner
            or scale.parallelism > 2 * self.largest.parallelism
        )
        return Prediction(scale, seconds, seconds * (1 - self.error), seconds * (1 + self.error), far)


def laws(law):
    # In rows by speedup, 1r×1e collects 1,000 steps/s.
    env_steps = 1000 * law.predict(Scale(1, 1)).seconds
    return Laws(fits=(law,), chosen=law, axes=(), limit=(NAN, NAN), env_steps=env_steps)


def amdahl_rows(law, *scales):
    return by_speedup(**{scale: law.predict(Scale(1, 1)).seconds / law.predict(Scale.parse(scale)).seconds for scale in scales})


def test_the_best_beyond_the_grid_is_named_with_its_predicted_speedup():
    law = Amdahl(0.1, 0.9, largest=Scale(4, 2))
    found = recommend(amdahl_rows(law, "1r1e", "2r1e", "4r1e", "4r2e"), GOALS["fastest"], laws(law))
    # 1 / (0.1 + 0.9 / 16) and 1 / (0.1 + 0.9 / 12), fewer env runners first; 8r×4e is four times what was measured.
    assert found.measure_next == (
        (Scale(4, 4), pytest.approx(6.4)),
        (Scale(8, 2), pytest.approx(6.4)),
        (Scale(3, 4), pytest.approx(5.7142857)),
    )


def test_only_what_meets_the_goal_and_beats_the_choice_is_worth_measuring():
    law = Amdahl(0.1, 0.9, largest=Scale(8, 1))
    rows = amdahl_rows(law, "1r1e", "4r1e", "8r1e")
    # Efficiency at N = 6 is 66.7 %, at 8 58.8 %.
    found = recommend(rows, GOALS["balanced"], laws(law))
    assert str(found.choice.scale) == "4r×1e"
    assert [str(scale) for scale, _ in found.measure_next] == ["6r×1e"]
    assert recommend(rows, Goal.of("balanced", max_cpus=5), laws(law)).measure_next == ()


def test_a_gain_within_the_laws_own_error_is_not_worth_measuring():
    law = Amdahl(0.1, 0.9, largest=Scale(8, 1))
    rows = amdahl_rows(law, "1r1e", "4r1e", "8r1e")
    assert recommend(rows, GOALS["balanced"], laws(law)).measure_next
    assert recommend(rows, GOALS["balanced"], laws(replace(law, mean_error=31.0))).measure_next == ()


def test_where_nobody_meets_the_goal_what_would_is_next():
    law = Amdahl(0.1, 0.9, largest=Scale(8, 1))
    found = recommend(amdahl_rows(law, "1r1e", "2r1e", "8r1e"), GOALS["balanced"], laws(law))
    assert found.verdict == "not met"
    assert found.measure_next[0] == (Scale(5, 1), pytest.approx(1 / 0.28))


def test_no_more_cpus_than_there_are():
    law = Amdahl(0.1, 0.9, largest=Scale(4, 1))
    rows = [replace(each, runs=(run(cores=6.0),)) for each in amdahl_rows(law, "1r1e", "2r1e", "4r1e")]
    found = recommend(rows, GOALS["fastest"], laws(law))
    assert all(scale.num_env_runners <= 5 for scale, _ in found.measure_next)
    assert found.measure_next


def test_a_law_of_unknown_work_predicts_nothing():
    law = Amdahl(0.1, 0.9, largest=Scale(4, 2))
    found = recommend(amdahl_rows(law, "1r1e", "4r2e"), GOALS["fastest"], replace(laws(law), env_steps=NAN))
    assert [str(scale) for scale, _ in found.measure_next] == ["8r×2e", "4r×4e"]
    assert all(math.isnan(speedup) for _, speedup in found.measure_next)


def test_a_laws_unit_of_work_does_not_matter():
    law = Amdahl(0.1, 0.9, largest=Scale(4, 2))
    tenfold = Amdahl(1.0, 9.0, largest=Scale(4, 2))
    rows = amdahl_rows(law, "1r1e", "2r1e", "4r1e", "4r2e")
    one, ten = (recommend(rows, GOALS["fastest"], laws(each)).measure_next for each in (law, tenfold))
    assert [scale for scale, _ in one] == [scale for scale, _ in ten]
    assert [speedup for _, speedup in one] == pytest.approx([speedup for _, speedup in ten])
