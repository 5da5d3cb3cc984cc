"""An env whose step only sleeps scales in a known way, whatever the machine."""

from functools import partial

import pytest

from rl_scaling_callback import ScalingCallback

pytest.importorskip("ray")

from envs import CostlyEnv, SleepingLearner
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig

CLUSTER_CPUS = 5
STEPS, STEP_S, UPDATE_S = 120, 0.02, 0.5


def predicted(runners):
    """Amdahl, with the sleeps of the env steps as the parallel and the learner's sleep as the serial part."""
    return (STEPS * STEP_S + UPDATE_S) / (STEPS * STEP_S / runners + UPDATE_S)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.flaky(reruns=2)  # what other users of the machine disturbed is measured again
def test_sleeping_env(cluster, tmp_path):
    config = (
        PPOConfig()
        .environment(CostlyEnv, env_config={"step_s": STEP_S})
        .env_runners(num_env_runners=tune.grid_search([1, 2, 4]))
        .training(
            train_batch_size_per_learner=STEPS,
            minibatch_size=STEPS,
            num_epochs=1,
            learner_class=SleepingLearner,
            learner_config_dict={"update_s": UPDATE_S},
        )
        .callbacks(partial(ScalingCallback, warmup_iterations=1, min_iterations=3, max_iterations=3))
    )
    results = tune.Tuner(
        "PPO",
        param_space=config,
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(tmp_path), stop={"training_iteration": 4}, verbose=0),
    ).fit()
    assert not results.errors
    steady = {trial.metrics["config"]["num_env_runners"]: trial.metrics["scaling"]["steady"] for trial in results}
    for runners in (1, 2, 4):
        assert steady[runners]["speedup"] == pytest.approx(predicted(runners), rel=0.1)
        assert steady[runners]["efficiency"] == pytest.approx(100 * predicted(runners) / runners, rel=0.1)
