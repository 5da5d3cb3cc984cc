"""A trial changes its own scale and the learner's threads while it trains."""

import functools
import logging

import pytest
import ray
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPO, PPOConfig

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.rescale import Rescaler

pytestmark = pytest.mark.usefixtures("cluster")


def ppo(runners, envs, **callback):
    config = PPOConfig().environment("CartPole-v1").training(train_batch_size_per_learner=512, minibatch_size=128, num_epochs=1)
    config.env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.25).debugging(seed=3)
    config.num_envs_per_env_runner = envs
    config.evaluation(evaluation_interval=1, evaluation_num_env_runners=0, evaluation_duration=1)
    return config.callbacks(functools.partial(ScalingCallback, **callback))


def of_env_runners(algorithm, ask):
    return algorithm.env_runner_group.foreach_env_runner(ask, local_env_runner=False)


def envs_of(algorithm):
    return of_env_runners(algorithm, lambda runner: runner.env.num_envs)


def seed_of(env_runner):
    return getattr(env_runner, "_seed", env_runner.config.seed)


def die(env_runner):
    import os

    os._exit(1)


@pytest.fixture
def algorithm():
    built = ppo(2, 1, probe=False).fault_tolerance(restart_failed_env_runners=True).build_algo()
    yield built
    built.stop()


def test_an_algorithm_trains_at_another_scale_and_back(algorithm):
    rescaler = Rescaler(algorithm)
    seeds = of_env_runners(algorithm, seed_of)
    algorithm.train()
    for scale in (Scale(1, 4), Scale(2, 8), Scale(2, 1)):
        rescaler.apply(scale)
        result = algorithm.train()
        assert envs_of(algorithm) == [scale.num_envs_per_env_runner] * scale.num_env_runners
        # An env that is reset doesn't step meanwhile.
        assert 512 <= result["env_runners"]["num_env_steps_sampled"] < 512 + scale.parallelism
        assert result["fault_tolerance"]["num_healthy_workers"] == scale.num_env_runners
        assert algorithm.config.num_env_runners == scale.num_env_runners
    # An env runner that was left out has the weights of the others again.
    assert len(set(of_env_runners(algorithm, lambda runner: str(runner.module.get_state())))) == 1
    assert not set(seeds) & set(of_env_runners(algorithm, seed_of))
    assert algorithm.evaluate()["env_runners"]["num_episodes"] > 0


def test_env_runners_left_out_are_stopped_in_the_end(algorithm):
    rescaler = Rescaler(algorithm)
    last = [*algorithm.env_runner_group._worker_manager.actors().values()][-1]
    rescaler.apply(Scale(1, 2))
    rescaler.settle()
    algorithm.train()
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(last.ping.remote(), timeout=30)
    assert envs_of(algorithm) == [2]


@pytest.fixture(scope="module")
def tuned(cluster):
    built = ppo(2, 1, autotune=True, max_envs=8).fault_tolerance(restart_failed_env_runners=True).build_algo()
    results = [built.train()["scaling"]]
    while not results[-1]["tuned"]["gain"] > 0 and len(results) < 60:
        results.append(built.train()["scaling"])
    yield built, results
    built.stop()


@pytest.mark.alone
def test_a_trial_tunes_itself(tuned):
    algorithm, results = tuned
    last = results[-1]["tuned"]
    assert 1.1 < last["gain"] < 8  # one env per env runner wastes most of an env runner's time on calls of the policy
    assert envs_of(algorithm) == [last["num_envs_per_env_runner"]] * int(last["num_env_runners"])
    after = algorithm.train()["scaling"]
    assert after["parallelism"] == last["num_env_runners"] * last["num_envs_per_env_runner"]
    assert 512 <= after["env_steps"] < 512 + after["parallelism"]
    assert after["steady"]["iterations"] <= 1  # measured anew
    assert after["baseline"]["source"] == "probe"


@pytest.mark.alone
def test_env_runners_that_restart_get_the_chosen_envs(tuned):
    algorithm, results = tuned
    envs = results[-1]["tuned"]["num_envs_per_env_runner"]
    algorithm.env_runner_group.foreach_env_runner(die, local_env_runner=False, timeout_seconds=5)
    for _ in range(30):
        algorithm.train()
        if algorithm.env_runner_group.num_healthy_remote_workers() == algorithm.config.num_env_runners:
            break
    algorithm.train()
    assert set(envs_of(algorithm)) == {envs}


@pytest.mark.alone
def test_a_tuned_trial_can_be_saved_and_restored(tuned, tmp_path):
    algorithm, _ = tuned
    algorithm.save_to_path(tmp_path)
    restored = PPO.from_checkpoint(tmp_path)
    try:
        before = restored.training_iteration
        assert restored.train()["training_iteration"] == before + 1
        assert restored.config.num_envs_per_env_runner == algorithm.config.num_envs_per_env_runner
    finally:
        restored.stop()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (DQNConfig().training(num_steps_sampled_before_learning_starts=100), "number of updates"),
        (APPOConfig(), "overlaps learning"),
        (PPOConfig().api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False), "old API stack"),
    ],
)
def test_what_cant_be_tuned_trains_as_configured(caplog, config, reason):
    config.environment("CartPole-v1").env_runners(num_env_runners=1, num_cpus_per_env_runner=0.25)
    config.reporting(min_sample_timesteps_per_iteration=200)
    with caplog.at_level(logging.WARNING, "rl_scaling_callback"):
        built = config.callbacks(functools.partial(ScalingCallback, autotune=True)).build_algo()
    try:
        assert built.train()["training_iteration"] == 1
    finally:
        built.stop()
    assert sum(reason in record.getMessage() for record in caplog.records if "autotune" in record.getMessage()) == 1


def test_threads_of_the_learner_as_an_option():
    import torch

    before = torch.get_num_threads()
    built = ppo(1, 1, probe=False, learner_threads=3).build_algo()
    try:
        assert built.train()["scaling"]["learner"]["threads"] == torch.get_num_threads() == 3
    finally:
        built.stop()
        torch.set_num_threads(before)
