import math
from dataclasses import dataclass

import pytest

from rl_scaling_callback.analysis.interference import undisturbed
from rl_scaling_callback.core.scale import Scale


@dataclass(frozen=True)
class Measured:
    scale: Scale
    others: float


@pytest.mark.parametrize(
    ("pairs", "kept"),
    [
        ((("1r1e", 0.1), ("2r1e", 1.2), ("2r1e", 0.1)), (0, 2)),
        ((("1r1e", 0.1), ("2r1e", 1.2)), (0, 1)),  # the only measurement there is
        ((("2r1e", 1.2), ("2r1e", 1.1), ("2r1e", math.nan)), (0, 1, 2)),  # equally disturbed
        ((("1r1e", math.nan), ("2r1e", math.nan), ("2r1e", 3.0)), (0, 1, 2)),  # unknown
    ],
)
def test_less_disturbed_measurements_replace_disturbed_ones(pairs, kept):
    measured = [Measured(Scale.parse(scale), others) for scale, others in pairs]
    assert undisturbed(measured) == [measured[at] for at in kept]
