"""Helpers for small configs, Tune experiments and plain training loops, and for reading their results."""

import json
from functools import partial
from pathlib import Path

from envs import CostlyEnv
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import ScalingCallback, SteadyRule

quick = partial(ScalingCallback, steady=SteadyRule(warmup_iterations=1, min_iterations=3, max_iterations=3))


def ppo(env, batch, **env_config):
    """Return a PPO config with a tiny model and one minibatch per iteration."""
    return (
        PPOConfig()
        .environment(env, env_config=env_config)
        .training(train_batch_size_per_learner=batch, minibatch_size=batch, num_epochs=1)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .debugging(log_level="ERROR", log_sys_usage=False)  # or else tests beside this one would count as disturbance
    )


def costly(env=CostlyEnv, batch=80, **costs):
    """Return a PPO config with the env costs in `costs`."""
    return ppo(env, batch, **costs)


def cartpole(runners=1, envs=1):
    return ppo("CartPole-v1", 256).env_runners(num_env_runners=runners, num_envs_per_env_runner=envs)


def train(config, iterations):
    """Return the results of a plain training loop."""
    algorithm = config.build_algo()
    try:
        return [algorithm.train() for _ in range(iterations)]
    finally:
        algorithm.stop()


def run(folder, config, *, stop, callbacks=quick, reporters=(), scheduler=None, concurrent=1, **run_config):
    """Return the results of an experiment that runs `concurrent` trials at a time."""
    config.callbacks(callbacks)
    return tune.Tuner(
        "PPO",
        param_space=config,
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, scheduler=scheduler),
        run_config=tune.RunConfig(storage_path=str(folder), stop=stop, callbacks=list(reporters), verbose=0, **run_config),
    ).fit()


def lines(trial):
    return [json.loads(line) for line in (Path(trial.path) / "result.json").read_text().splitlines()]


def scale(result):
    config = result["config"]
    return config["num_env_runners"], config["num_envs_per_env_runner"]
