"""Ground truth: known costs in seconds are all attributed to the right causes at the same time, and nothing else is.

Costs are sleeps, long compared to RLlib's overhead. Other load on the machine only adds to an iteration, so the least disturbed of
several counts.
"""

import math
import os
from functools import partial

import pytest
import tuning
from envs import SleepingLearner
from tuning import costly, on_the_old_stack, quick

from rl_scaling_callback.core.attribution import CAUSES

STEPS, STEP_S = 16, 0.1
UPDATE_S, PICKLE_S, SLOW_STEP_S = 1.0, 1.0, 0.1
EVALUATION_STEPS, EVALUATION_STEP_S = 8, 0.1
TOLERANCE_S = 0.12
"""Small compared to the costs, which are 0.5 to 1.2 s."""

COSTS = {"step_s": STEP_S, "pickle_s": PICKLE_S, "slow_worker": 2, "slow_step_s": SLOW_STEP_S}

pytestmark = pytest.mark.usefixtures("cluster")


def train(place, *, runners=1, envs=1, steps=STEPS, update_s=UPDATE_S, evaluate=False, costs=COSTS):
    config = (
        costly(batch=steps, **costs)
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=envs, num_cpus_per_env_runner=0.5)
        .training(learner_class=SleepingLearner, learner_config_dict={"update_s": update_s})
        .callbacks(partial(quick, baseline_dir=str(place)))
    )
    if evaluate:
        config.evaluation(
            evaluation_interval=1,
            evaluation_duration=EVALUATION_STEPS,
            evaluation_duration_unit="timesteps",
            evaluation_config={"env_config": {"step_s": EVALUATION_STEP_S, "pickle_s": 0.0}},
        )
    return tuning.train(config, 4)


def lost_seconds(results):
    """Return the minimum seconds per cause over warm iterations, after checking that causes and phases add up."""
    warm = results[1:]
    for result in warm:
        scaling = result["scaling"]
        assert sum(scaling["time"].values()) == pytest.approx(result["time_this_iter_s"], rel=1e-9)
        causes = {cause: scaling["loss"][cause] for cause in CAUSES}
        assert sum(causes.values()) == pytest.approx(scaling["loss"]["total"], abs=1e-9)
    return {cause: min(r["scaling"]["loss"][cause] / 100 * r["time_this_iter_s"] for r in warm) for cause in CAUSES}


def known(n, **seconds):
    """Return the expected losses: the costs that don't shrink with `n`, the given ones, and nothing else."""
    serial = {"learn": UPDATE_S * (1 - 1 / n), "transfer": PICKLE_S * (1 - 1 / n)}
    return pytest.approx(dict.fromkeys(CAUSES, 0.0) | serial | seconds, abs=TOLERANCE_S)


@pytest.fixture(scope="module")
def place(cluster, tmp_path_factory):
    """The directory with the baseline of the env with all these costs."""
    place = tmp_path_factory.mktemp("baselines")
    train(place)
    return place


def test_every_cost_is_attributed_to_its_cause(place):
    """Two env runners, the second of them slow, and evaluation in each iteration."""
    results = train(place, runners=2, evaluate=True)
    straggler = SLOW_STEP_S * STEPS / 2
    assert lost_seconds(results) == known(2, straggler=straggler, evaluate=EVALUATION_STEPS * EVALUATION_STEP_S)
    scaling = results[-1]["scaling"]
    assert scaling["time"]["learn"] == pytest.approx(UPDATE_S, abs=TOLERANCE_S)
    assert scaling["runners"]["reported"] == 2
    assert scaling["runners"]["longest"] == pytest.approx((STEP_S + SLOW_STEP_S) * STEPS / 2, abs=TOLERANCE_S)
    assert scaling["account"] == {"exact": 1.0, "estimated": 0.0}
    # The steady speedup follows from the costs without evaluation.
    expected = (STEPS * STEP_S + UPDATE_S + PICKLE_S) / (STEPS / 2 * (STEP_S + SLOW_STEP_S) + UPDATE_S + PICKLE_S)
    assert scaling["steady"]["speedup"] == pytest.approx(expected, rel=0.08)


def test_sub_envs_of_one_runner_step_one_after_another(place):
    results = train(place, envs=4)
    assert lost_seconds(results) == known(4, serial_stepping=STEPS * STEP_S * (1 - 1 / 4))
    assert results[-1]["scaling"]["account"] == {"exact": 1.0, "estimated": 0.0}
    assert results[-1]["scaling"]["diagnosis"].startswith("serial stepping: ")


@pytest.mark.release
@pytest.mark.alone
def test_cpu_bound_env_on_too_few_cores(tmp_path):
    # The CPU time per step is long compared to RLlib's own. The first core serves most interrupts, so use the last.
    burn_s, steps, runners = 0.1, 32, 4
    costs = {"burn_s": burn_s, "core": max(os.sched_getaffinity(0))}
    train(tmp_path, steps=steps, update_s=0.0, costs=costs)
    results = train(tmp_path, runners=runners, steps=steps, update_s=0.0, costs=costs)
    # Two runners that share one core take as long for half the steps as a single one for all of them, so nothing is gained. Other
    # load on that core only adds to it.
    assert lost_seconds(results)["contention"] == pytest.approx(steps * burn_s * (1 - 1 / runners), rel=0.1)


def test_phases_on_the_old_stack(tmp_path):
    """What its timers log is a running mean; in the first iteration it is that iteration's time."""

    def trained(runners):
        config = on_the_old_stack(costly(batch=STEPS, step_s=0.02))
        fragment = STEPS // max(1, runners)
        config.env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.5, rollout_fragment_length=fragment)
        config.evaluation(evaluation_interval=2, evaluation_duration=1, evaluation_config={"env_config": {"step_s": 0.0}})
        config.evaluation_duration_unit = "timesteps"
        # Named, because a process of its own has fewer threads than this one.
        measure = partial(quick, reference="0r1e", baseline_dir=str(tmp_path), workload="named")
        return tuning.train(config.callbacks(measure), 4)

    trained(0)
    results = trained(2)
    first = results[0]
    assert first["scaling"]["time"]["sample"] == pytest.approx(first["timers"]["sample_time_ms"] / 1000, abs=2e-3)
    assert first["scaling"]["time"]["sync"] == pytest.approx(first["timers"]["synch_weights_time_ms"] / 1000, abs=2e-3)
    learning = ("learn_time_ms", "load_time_ms")
    assert first["scaling"]["time"]["learn"] == pytest.approx(sum(first["timers"][name] for name in learning) / 1000, abs=4e-3)
    for result in results:
        assert sum(result["scaling"]["time"].values()) == pytest.approx(result["time_this_iter_s"], rel=1e-9)
        assert result["scaling"]["time"]["sample"] >= 0.02 * STEPS / 2
        assert math.isnan(result["scaling"]["runners"]["busy"])
    assert [result["scaling"]["time"]["evaluate"] > 0 for result in results] == [False, True, False, True]
    lost = results[-1]["scaling"]["loss"]
    assert {cause for cause in CAUSES if lost[cause] == lost[cause]} == {"learn", "sync", "evaluate", "other"}
    assert results[-1]["scaling"]["diagnosis"] == ""
