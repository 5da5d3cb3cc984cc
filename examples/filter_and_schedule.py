"""Efficiency in Tune: a scheduler stops inefficient trials early, and the results are filtered by efficiency."""

from functools import partial

import ray
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.schedulers import MedianStoppingRule

from rl_scaling_callback import ScalingCallback

RUNNERS, ENVS = [1, 2, 4], [1, 4]

config = (
    PPOConfig()
    .environment("CartPole-v1")
    .env_runners(num_env_runners=tune.grid_search(RUNNERS))
    .training(train_batch_size_per_learner=2048, minibatch_size=256, num_epochs=4)
    .callbacks(partial(ScalingCallback, probe=True))
)
config.num_envs_per_env_runner = tune.grid_search(ENVS)  # env_runners() takes whole numbers only

# A trial needs 1 CPU and 1 per env runner; if Ray has fewer, Tune waits forever.
ray.init(num_cpus=1 + max(RUNNERS), log_to_driver=False)
results = tune.Tuner(
    "PPO",
    param_space=config,
    tune_config=tune.TuneConfig(
        metric="scaling/steady/efficiency",
        mode="max",
        scheduler=MedianStoppingRule(time_attr="training_iteration", grace_period=5, min_samples_required=2),
        max_concurrent_trials=1,  # concurrent trials would slow each other down
    ),
    run_config=tune.RunConfig(stop={"training_iteration": 10}, verbose=0),
).fit()

trials = results.get_dataframe().set_index(["config/num_env_runners", "config/num_envs_per_env_runner"]).sort_index()
trials = trials[[column for column in trials if column.startswith("scaling/steady/")]]
trials.columns = trials.columns.str.removeprefix("scaling/steady/")
trials.index.names = ["runners", "envs"]
print(trials[["iterations", "sps", "speedup", "efficiency"]].round(1))

runners, envs = trials[trials["efficiency"] >= 40]["speedup"].idxmax()
print(f"Fastest with an efficiency of at least 40 %: {runners}r×{envs}e")
