"""Which trials share a baseline, in a directory that outlives them."""

import math
from functools import partial

import pytest

pytest.importorskip("ray")

from tuning import cartpole, quick, scalings, sps_in, train

pytestmark = pytest.mark.usefixtures("cluster")


def test_baselines_in_a_directory(tmp_path, caplog):
    """Trials that sample in the Algorithm's process: one env is the reference, two are compared with it."""
    lasting = partial(quick, reference="0r1e", baseline_dir=str(tmp_path))

    def trial(envs, epochs=1):
        return cartpole(runners=0, envs=envs).training(num_epochs=epochs).callbacks(lasting)

    late = trial(envs=2).build_algo()
    try:
        assert all(math.isnan(late.train()["scaling"]["speedup"]) for _ in range(2))
        reference = scalings(train(trial(envs=1), 4))
        after = late.train()["scaling"]
    finally:
        late.stop()
    assert [scaling["is_baseline"] for scaling in reference] == [1] * 4
    (file,) = tmp_path.iterdir()
    sps = sps_in(file)
    assert reference[-1]["baseline_sps"] == reference[-1]["steady"]["sps"] == sps
    # From the iteration on in which it appears.
    assert (after["baseline_sps"], after["comparable"], after["is_baseline"]) == (sps, 1, 0)
    assert after["speedup"] == pytest.approx(after["sps"] / sps)

    assert "num_epochs" not in caplog.text
    *_, other = scalings(train(trial(envs=2, epochs=2), 2))
    assert other["sps"] > 0
    assert math.isnan(other["speedup"])
    assert other["comparable"] == 0
    assert "num_epochs: 2 here, 1 there" in caplog.text
