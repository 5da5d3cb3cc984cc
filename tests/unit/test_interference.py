import math
from dataclasses import dataclass

from rl_scaling_callback.analysis.interference import undisturbed
from rl_scaling_callback.core.scale import Scale


@dataclass(frozen=True)
class Measured:
    scale: Scale
    others: float


def measured(*pairs):
    return [Measured(Scale.parse(scale), others) for scale, others in pairs]


def test_less_disturbed_measurement_replaces_a_disturbed_one():
    baseline, disturbed, again = measured(("1r1e", 0.1), ("2r1e", 1.2), ("2r1e", 0.1))
    assert undisturbed([baseline, disturbed, again]) == [baseline, again]
    assert undisturbed([baseline, disturbed]) == [baseline, disturbed], "the only measurement there is"


def test_equally_disturbed_repeats_are_all_kept():
    same = measured(("2r1e", 1.2), ("2r1e", 1.1), ("2r1e", math.nan))
    assert undisturbed(same) == same


def test_unknown_interference_is_not_left_out():
    unknown = measured(("1r1e", math.nan), ("2r1e", math.nan), ("2r1e", 3.0))
    assert undisturbed(unknown) == unknown
