import math

import pytest

from rl_scaling_callback.rllib.hardware import _quota


@pytest.mark.parametrize(("text", "cpus"), [("150000 100000\n", 1.5), ("max 100000\n", math.inf), ("junk\n", math.inf)])
def test_quota_of_a_container(tmp_path, text, cpus):
    file = tmp_path / "cpu.max"
    assert _quota(file) == math.inf
    file.write_text(text)
    assert _quota(file) == cpus
