"""Helpers for small configs, Tune experiments and plain training loops, and for reading their results."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
from envs import CostlyEnv
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.utils import flatten_dict

from rl_scaling_callback import ScalingCallback, SteadyRule
from rl_scaling_callback.core.schema import KEYS

quick = partial(ScalingCallback, steady=SteadyRule(warmup_iterations=1, min_iterations=3, max_iterations=3))


def costly(env=CostlyEnv, batch=80, **costs):
    """Return a PPO config with a tiny model, one minibatch per iteration, and the env costs in `costs`."""
    return (
        PPOConfig()
        .environment(env, env_config=costs)
        .training(train_batch_size_per_learner=batch, minibatch_size=batch, num_epochs=1)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .debugging(log_level="ERROR", log_sys_usage=False)  # or else tests beside this one would count as disturbance
    )


def cartpole(runners=1, envs=1):
    return costly("CartPole-v1", 256).env_runners(num_env_runners=runners, num_envs_per_env_runner=envs)


def tiny(config, env="CartPole-v1", runners=1, envs=1, **env_config):
    """Return the config of any algorithm with a tiny model and fractional CPUs."""
    config.environment(env, env_config=env_config).learners(num_cpus_per_learner=0.1).debugging(log_level="ERROR", seed=7)
    config.env_runners(num_env_runners=runners, num_envs_per_env_runner=envs, num_cpus_per_env_runner=0.1)
    return config.rl_module(model_config={"fcnet_hiddens": [8]})


def tiny_ppo(env="CartPole-v1", **scale):
    return tiny(PPOConfig(), env, **scale).training(train_batch_size_per_learner=96, minibatch_size=48, num_epochs=1)


def off_policy(config, env="CartPole-v1", **scale):
    """Return the config of SAC or DQN, tiny."""
    config = tiny(config, env, **scale).reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=64)
    return config.training(train_batch_size_per_learner=16, num_steps_sampled_before_learning_starts=32)


def on_the_old_stack(config):
    """Return the PPO config with the same batches and model on the old API stack."""
    batch, model = config.train_batch_size_per_learner, {"fcnet_hiddens": [8]}
    config.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False).rl_module(model_config={})
    return config.training(train_batch_size=batch, minibatch_size=batch, num_epochs=1, model=model)


def train(config, iterations, between=lambda algorithm, iteration: None):
    """Return the results of a plain training loop that calls `between` before each iteration."""
    algorithm = config.build_algo()
    results = []
    try:
        for iteration in range(iterations):
            between(algorithm, iteration)
            results.append(algorithm.train())
        return results
    finally:
        algorithm.stop()


def run(
    folder,
    config,
    *,
    stop,
    trainable="PPO",
    callbacks=quick,
    reporters=(),
    checkpoint_every=0,
    failures=0,
    name=None,
    storage_filesystem=None,
    **tune_config,
):
    """Return the results of an experiment, of one trial at a time unless `tune_config` says otherwise.

    `stop` may be a number of iterations. The config's own callbacks are used if `callbacks` is None.
    """
    if callbacks is not None:
        config.callbacks(callbacks)
    return tune.Tuner(
        trainable,
        param_space=config,
        tune_config=tune.TuneConfig(**{"max_concurrent_trials": 1} | tune_config),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(folder),
            storage_filesystem=storage_filesystem,
            stop={"training_iteration": stop} if isinstance(stop, int) else stop,
            callbacks=list(reporters),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=checkpoint_every),
            failure_config=tune.FailureConfig(max_failures=failures),
            verbose=0,
        ),
    ).fit()


def lines(trial):
    return [json.loads(line) for line in (Path(trial.path) / "result.json").read_text().splitlines()]


def sps_in(file):
    """Return the SPS of a baseline's file."""
    return json.loads(file.read_text())["steady"]["sps"]


def scale(result):
    config = result["config"]
    return config["num_env_runners"], config["num_envs_per_env_runner"]


def flat(result):
    """Flatten `result["scaling"]` as Tune and its loggers do: `scaling["steady"]["sps"]` becomes `["steady/sps"]`."""
    return flatten_dict(result["scaling"], delimiter="/")


def checked(result, env_steps):
    """Return a flattened `result["scaling"]`, which has the schema's keys and types, nothing infinite, and these env steps."""
    scaling = flat(result)
    assert {name: type(value) for name, value in scaling.items()} == {key.name: type(key.unknown) for key in KEYS}
    assert not any(math.isinf(value) for value in scaling.values() if isinstance(value, float))
    sps = env_steps / result["time_this_iter_s"] if env_steps else math.nan
    assert (scaling["env_steps"], scaling["sps"]) == pytest.approx((env_steps, sps), rel=1e-9, nan_ok=True)
    return scaling


def scalings(results):
    return [result["scaling"] for result in results]


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name.startswith("rl_scaling_callback")]
