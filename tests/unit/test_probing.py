import pytest

from rl_scaling_callback.core.probing import Probe
from rl_scaling_callback.core.scale import Scale


def test_probe_figures_are_per_env_step_of_all_runners():
    measured = Probe(Scale(2, 4), env_steps=100, seconds=0.5, busy=(0.3, 0.4, 0.2), excess=0.1)
    assert measured.seconds_per_step == pytest.approx(0.004)
    assert measured.busy_per_step == pytest.approx(0.003)
    assert measured.longest_per_step == pytest.approx(0.004)
