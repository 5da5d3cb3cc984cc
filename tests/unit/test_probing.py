"""From probes of sampling to the throughput of whole iterations."""

import math

import pytest

from rl_scaling_callback.core.probing import Probe, Rest, seconds_per_step
from rl_scaling_callback.core.scale import Scale

ONE, FOUR, EIGHT = Scale(1, 1), Scale(2, 2), Scale(2, 4)


def probe(scale, seconds, number=0, **fields):
    return Probe(scale, number, env_steps=100, seconds=seconds, busy=fields.pop("busy", (seconds,)), **fields)


def test_a_probe_speaks_per_env_step_of_all_runners():
    measured = probe(EIGHT, 0.5, busy=(0.3, 0.4, 0.2), excess=0.1)
    assert measured.seconds_per_step == pytest.approx(0.004)
    assert measured.busy_per_step == pytest.approx(0.003)
    assert measured.longest_per_step == pytest.approx(0.004)


def test_the_median_over_rounds_stands_for_a_scale():
    probes = [probe(ONE, seconds, number) for number, seconds in enumerate((1.0, 1.2, 9.0))] + [probe(FOUR, 0.4)]
    assert seconds_per_step(probes) == pytest.approx({ONE: 0.012, FOUR: 0.004})


def test_on_policy_the_rest_goes_with_the_env_steps():
    # 1,000 steps: 4 s of sampling at 2r×4e and 3 s of learning; 1r×1e samples them in 16 s.
    rest = Rest.of_iteration(7.0, 1000, 0.004, EIGHT, lambda _: math.inf)
    assert rest.sps(EIGHT, 0.004) == pytest.approx(1000 / 7)
    assert rest.sps(ONE, 0.016) == pytest.approx(1000 / 19)


def test_off_policy_the_rest_goes_with_the_rounds():
    # A round samples one step of each env and learns once: 8 steps at 2r×4e, 1 at 1r×1e.
    rest = Rest.of_iteration(10.0, 1000, 0.002, EIGHT, lambda scale: scale.parallelism)
    assert rest.per_round == pytest.approx(8 * 0.008)
    assert rest.sps(EIGHT, 0.002) == pytest.approx(100)
    assert rest.sps(ONE, 0.01) == pytest.approx(1 / (0.01 + 0.064))
