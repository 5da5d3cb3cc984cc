"""When trials are compared with a baseline."""

import math
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("ray")

from ray import tune
from tuning import cartpole, quick, run, train

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def lasting(tmp_path):
    """Creates callbacks that share one store; trials that sample in the Algorithm's process are the reference."""
    return partial(quick, reference="0r1e", baseline_dir=str(tmp_path))


def scalings(results):
    return [result["scaling"] for result in results]


def test_late_baseline_is_used_from_the_iteration_it_appears_in(lasting):
    late = cartpole(runners=0, envs=2).callbacks(lasting).build_algo()
    reference = cartpole(runners=0).callbacks(lasting).build_algo()
    try:
        before = scalings(late.train() for _ in range(2))
        assert all(math.isnan(scaling["speedup"]) for scaling in before)
        sps = scalings(reference.train() for _ in range(4))[-1]["baseline_sps"]
        after = late.train()["scaling"]
    finally:
        late.stop()
        reference.stop()
    assert after["baseline_sps"] == sps > 0
    assert after["speedup"] == pytest.approx(after["sps"] / sps)
    assert after["comparable"] == 1


def test_mismatch_is_not_comparable(lasting, caplog):
    train(cartpole(runners=0).callbacks(lasting), 4)
    assert "num_epochs" not in caplog.text
    for scaling in scalings(train(cartpole(runners=0, envs=2).training(num_epochs=2).callbacks(lasting), 2)):
        assert scaling["sps"] > 0
        assert math.isnan(scaling["speedup"])
        assert scaling["comparable"] == 0
    assert "num_epochs: 2 here, 1 there" in caplog.text
    served = scalings(train(cartpole(runners=0, envs=2).callbacks(lasting), 2))
    assert [scaling["comparable"] for scaling in served] == [1, 1]


def test_unusable_baseline_file_is_set_aside(lasting, tmp_path):
    content = '{"schema": "rl_scaling_callback.base'  # unit tests cover other kinds of damage
    train(cartpole(runners=0).callbacks(lasting), 4)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    assert all(math.isnan(scaling["speedup"]) for scaling in scalings(train(cartpole(runners=0, envs=2).callbacks(lasting), 2)))
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith(file.name + ".set-aside-")
    assert aside.read_text() == content


@pytest.mark.slow
def test_two_workloads_in_one_experiment_never_share_a_baseline(tmp_path):
    config = cartpole(runners=tune.grid_search([1, 0]))
    config.num_epochs = tune.grid_search([1, 3])
    results = run(tmp_path, config, stop={"training_iteration": 5})
    baselines = {}
    for trial in results:
        baselines.setdefault(trial.metrics["config"]["num_epochs"], set()).add(trial.metrics["scaling"]["baseline_sps"])
    assert all(len(values) == 1 for values in baselines.values())
    assert not baselines[1] & baselines[3]
    assert len(list((Path(results.experiment_path) / "scaling_baselines").iterdir())) == 2
