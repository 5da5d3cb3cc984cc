"""Small experiments of Tune with the callback, and what they leave behind."""

import json
from functools import partial
from pathlib import Path

from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import ScalingCallback

quick = partial(ScalingCallback, warmup_iterations=1, min_iterations=3, max_iterations=3)


def run(tmp_path_factory, config, *, stop, callbacks=quick, scheduler=None, concurrent=1):
    config.callbacks(callbacks).debugging(log_level="ERROR")
    return tune.Tuner(
        "PPO",
        param_space=config,
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, scheduler=scheduler),
        run_config=tune.RunConfig(storage_path=str(tmp_path_factory.mktemp("storage")), stop=stop, verbose=0),
    ).fit()


def lines(trial):
    return [json.loads(line) for line in (Path(trial.path) / "result.json").read_text().splitlines()]


def scale(result):
    config = result["config"]
    return config["num_env_runners"], config["num_envs_per_env_runner"]


def cartpole():
    return (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=1)
        .training(train_batch_size_per_learner=256, minibatch_size=128, num_epochs=1)
    )
