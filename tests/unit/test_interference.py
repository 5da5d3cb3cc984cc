import math
from dataclasses import dataclass

from rl_scaling_callback.analysis.interference import undisturbed, worth_repeating
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


def test_disturbed_configuration_is_repeated_once():
    first = measured(("1r1e", 0.1), ("2r1e", 1.2))
    assert worth_repeating(first) == Scale(2, 1)
    assert worth_repeating([*first, *measured(("2r1e", 0.1))]) is None


def test_disturbed_baseline_is_repeated():
    assert worth_repeating(measured(("1r1e", 0.9))) is None
    assert worth_repeating(measured(("1r1e", 0.9), ("2r1e", 0.1))) == Scale(1, 1)


def test_interference_with_all_alike_causes_no_repeat():
    assert worth_repeating(measured(("1r1e", 0.9), ("2r1e", 1.0), ("4r1e", 0.8))) is None


def test_permanent_interference_ends_repeats():
    # Envs that start other programs: the more env runners, the more of them.
    own = measured(("1r1e", 0.5), ("2r1e", 1.0), ("2r1e", 1.0), ("4r1e", 2.0))
    assert worth_repeating(own) is None


def test_unknown_interference_is_neither_left_out_nor_repeated():
    unknown = measured(("1r1e", math.nan), ("2r1e", math.nan), ("2r1e", 3.0))
    assert undisturbed(unknown) == unknown
    assert worth_repeating(unknown) is None
    assert worth_repeating([]) is None
