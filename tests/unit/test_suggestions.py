import math
from dataclasses import replace

import pytest

from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.analysis.laws import Work
from rl_scaling_callback.analysis.recommendation import recommend
from rl_scaling_callback.core.scale import Scale
from tests.builders import Amdahl, amdahl_rows, laws
from tests.builders import settled_run as run


def test_best_beyond_the_grid_is_suggested():
    law = Amdahl(0.1, 0.9, largest=Scale(4, 2))
    found = recommend(amdahl_rows(law, "1r1e", "2r1e", "4r1e", "4r2e"), GOALS["fastest"], laws(law))
    # 1 / (0.1 + 0.9 / 16) and 1 / (0.1 + 0.9 / 12), fewer env runners first; 8r×4e is four times the measured range.
    assert [(each.scale, each.speedup) for each in found.measure_next] == [
        (Scale(4, 4), pytest.approx(6.4)),
        (Scale(8, 2), pytest.approx(6.4)),
        (Scale(3, 4), pytest.approx(5.7142857)),
    ]


def test_suggestions_meet_the_goal_and_beat_the_choice():
    law = Amdahl(0.1, 0.9, largest=Scale(8, 1))
    rows = amdahl_rows(law, "1r1e", "4r1e", "8r1e")
    # Efficiency at N = 6 is 66.7 %, at 8 58.8 %.
    found = recommend(rows, GOALS["balanced"], laws(law))
    assert str(found.choice.scale) == "4r×1e"
    assert [str(each.scale) for each in found.measure_next] == ["6r×1e"]
    assert recommend(rows, Goal.of("balanced", max_cpus=5), laws(law)).measure_next == ()


def test_gain_within_the_error_of_the_law_is_not_suggested():
    law = Amdahl(0.1, 0.9, largest=Scale(8, 1))
    rows = amdahl_rows(law, "1r1e", "4r1e", "8r1e")
    assert recommend(rows, GOALS["balanced"], laws(law)).measure_next
    assert recommend(rows, GOALS["balanced"], laws(replace(law, mean_error=31.0))).measure_next == ()


def test_configurations_that_would_meet_an_unmet_goal_are_suggested():
    law = Amdahl(0.1, 0.9, largest=Scale(8, 1))
    found = recommend(amdahl_rows(law, "1r1e", "2r1e", "8r1e"), GOALS["balanced"], laws(law))
    assert found.verdict == "not met"
    first = found.measure_next[0]
    assert (first.scale, first.speedup) == (Scale(5, 1), pytest.approx(1 / 0.28))


def test_suggestions_fit_the_available_cpus():
    law = Amdahl(0.1, 0.9, largest=Scale(4, 1))
    rows = [replace(each, runs=(run(cores=6.0),)) for each in amdahl_rows(law, "1r1e", "2r1e", "4r1e")]
    found = recommend(rows, GOALS["fastest"], laws(law))
    assert all(each.scale.num_env_runners <= 5 for each in found.measure_next)
    assert found.measure_next


def test_law_of_unknown_work_predicts_nothing():
    law = Amdahl(0.1, 0.9, largest=Scale(4, 2))
    found = recommend(amdahl_rows(law, "1r1e", "4r2e"), GOALS["fastest"], laws(law, Work()))
    assert [str(each.scale) for each in found.measure_next] == ["8r×2e", "4r×4e"]
    assert all(math.isnan(each.speedup) for each in found.measure_next)


def test_unit_of_work_does_not_matter():
    law = Amdahl(0.1, 0.9, largest=Scale(4, 2))
    tenfold = Amdahl(1.0, 9.0, largest=Scale(4, 2))
    rows = amdahl_rows(law, "1r1e", "2r1e", "4r1e", "4r2e")
    one, ten = (recommend(rows, GOALS["fastest"], laws(each)).measure_next for each in (law, tenfold))
    assert [each.scale for each in one] == [each.scale for each in ten]
    assert [each.speedup for each in one] == pytest.approx([each.speedup for each in ten])
