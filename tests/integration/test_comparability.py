"""What is compared in an experiment of Tune, from when on, and what is not."""

import math
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("ray")

from ray import tune
from tuning import cartpole, lines, quick, run, scale

CLUSTER_CPUS = 5


@pytest.mark.slow
def test_a_late_baseline_is_used_from_the_iteration_in_which_it_appears(cluster, tmp_path_factory):
    config = cartpole().env_runners(num_env_runners=tune.grid_search([1, 2]))
    results = run(tmp_path_factory, config, stop={"training_iteration": 40}, concurrent=2)
    (late,) = [trial for trial in results if scale(trial.metrics)[0] == 2]
    speedups = [result["scaling"]["speedup"] for result in lines(late)]
    known = [not math.isnan(speedup) for speedup in speedups]
    assert not known[0]
    assert known[-1]
    assert known == sorted(known)
    # Both ran on this node, side by side: at least one of them saw the other.
    assert 0 in [result["scaling"]["exclusive"] for trial in results for result in lines(trial)]


@pytest.mark.slow
def test_two_workloads_in_one_experiment_never_share_a_baseline(cluster, tmp_path_factory):
    config = cartpole().env_runners(num_env_runners=tune.grid_search([1, 0]))
    config.num_epochs = tune.grid_search([1, 3])
    results = run(tmp_path_factory, config, stop={"training_iteration": 5})
    baselines = {}
    for trial in results:
        baselines.setdefault(trial.metrics["config"]["num_epochs"], set()).add(trial.metrics["scaling"]["baseline_sps"])
    assert all(len(values) == 1 for values in baselines.values())
    assert not baselines[1] & baselines[3]
    assert len(list((Path(results.experiment_path) / "scaling_baselines").iterdir())) == 2


@pytest.mark.slow
def test_a_mismatch_is_not_comparable(cluster, tmp_path_factory, tmp_path):
    lasting = partial(quick, baseline_dir=str(tmp_path))
    run(tmp_path_factory, cartpole(), stop={"training_iteration": 4}, callbacks=lasting)
    other = cartpole().env_runners(num_env_runners=2).training(num_epochs=2)
    results = run(tmp_path_factory, other, stop={"training_iteration": 2}, callbacks=lasting)
    for result in lines(results[0]):
        assert result["scaling"]["comparable"] == 0
        assert math.isnan(result["scaling"]["speedup"])
    same_workload = cartpole().env_runners(num_env_runners=2)
    results = run(tmp_path_factory, same_workload, stop={"training_iteration": 2}, callbacks=lasting)
    assert [result["scaling"]["comparable"] for result in lines(results[0])] == [1, 1]


@pytest.mark.slow
def test_a_baseline_file_that_cannot_be_used_is_set_aside(cluster, tmp_path_factory, tmp_path):
    content = '{"schema": "rl_scaling_callback.base'  # the unit tests have the other kinds
    lasting = partial(quick, baseline_dir=str(tmp_path))
    run(tmp_path_factory, cartpole(), stop={"training_iteration": 4}, callbacks=lasting)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    results = run(tmp_path_factory, cartpole().env_runners(num_env_runners=2), stop={"training_iteration": 2}, callbacks=lasting)
    assert not results.errors
    assert all(math.isnan(result["scaling"]["speedup"]) for result in lines(results[0]))
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith(file.name + ".set-aside-")
    assert aside.read_text() == content
