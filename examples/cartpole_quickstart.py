"""The three-line use: import the callback, add it, read the result. Runs in about a minute."""

import ray
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import ScalingCallback

ray.init(num_cpus=3, include_dashboard=False)
config = (
    PPOConfig()
    .environment("CartPole-v1")
    .env_runners(num_env_runners=tune.grid_search([1, 2]))
    .training(train_batch_size_per_learner=2048, minibatch_size=256, num_epochs=4)
    .callbacks(ScalingCallback)
)
results = tune.Tuner(
    "PPO",
    param_space=config,
    tune_config=tune.TuneConfig(max_concurrent_trials=1),
    run_config=tune.RunConfig(stop={"training_iteration": 10}),
).fit()

trials = results.get_dataframe()
print(trials[["config/num_env_runners", "scaling/steady/sps", "scaling/steady/speedup", "scaling/steady/efficiency"]])
