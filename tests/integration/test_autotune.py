"""A trial changes its own scale and the learner's threads while it trains: samplers, learners, filters, ways to start it again."""

import os
from functools import partial

import gymnasium
import pytest
import ray
import torch
from ray import tune
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.env_to_module import MeanStdFilter
from tuning import on_the_old_stack, run, warnings_of

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.rescale import Rescaler

pytestmark = pytest.mark.usefixtures("cluster")

TUNES = partial(ScalingCallback, autotune=True, max_envs=4)


def small(config, env="CartPole-v1", runners=2, callbacks=TUNES):
    config.environment(env).callbacks(callbacks).debugging(seed=3, log_level="ERROR").resources(num_cpus_for_main_process=0.25)
    return config.env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.25).learners(num_cpus_per_learner=0.25)


def ppo(batch=1024, **options):
    training = {"train_batch_size_per_learner": batch, "minibatch_size": batch // 2, "num_epochs": 1}
    return small(PPOConfig().training(**training), **options)


def sac():
    config = SACConfig().training(num_steps_sampled_before_learning_starts=64)
    config.reporting(min_sample_timesteps_per_iteration=50, min_time_s_per_iteration=0)
    return small(config, "Pendulum-v1", runners=1)


def with_filter(**options):
    return ppo(**options).env_runners(env_to_module_connector=lambda *_, **__: MeanStdFilter())


def of_env_runners(algorithm, ask):
    return algorithm.env_runner_group.foreach_env_runner(ask, local_env_runner=not algorithm.config.num_env_runners)


def envs_of(algorithm):
    return of_env_runners(algorithm, lambda runner: runner.env.num_envs)


def train_until_tuned(algorithm):
    """Return what was injected last."""
    for _ in range(80):
        scaling = algorithm.train()["scaling"]
        if scaling["tuned"]["gain"] > 0:
            break
    tuned = scaling["tuned"]
    assert envs_of(algorithm) == [tuned["num_envs_per_env_runner"]] * max(1, int(tuned["num_env_runners"]))
    return scaling


def seed_of(env_runner):
    return getattr(env_runner, "_seed", env_runner.config.seed)


class Restores(RLlibCallback):
    """Sets something on the envs of env runners that come back."""

    def on_env_runners_recreated(self, *, env_runner_group, env_runner_indices, **kwargs):
        env_runner_group.foreach_env_runner(mark, local_env_runner=False, remote_worker_ids=env_runner_indices)


def mark(env_runner):
    env_runner.env.unwrapped.marked = True


def test_an_algorithm_trains_at_another_scale_and_back(built):
    config = ppo(512, callbacks=Restores).evaluation(evaluation_interval=1, evaluation_num_env_runners=0, evaluation_duration=1)
    algorithm = built(config)
    rescaler = Rescaler(algorithm)
    seeds = of_env_runners(algorithm, seed_of)
    algorithm.train()
    for scale in (Scale(2, 8), Scale(1, 4), Scale(2, 1)):
        rescaler.apply(scale)
        result = algorithm.train()
        assert envs_of(algorithm) == [scale.num_envs_per_env_runner] * scale.num_env_runners
        # An env that is reset doesn't step meanwhile.
        assert 512 <= result["env_runners"]["num_env_steps_sampled"] < 512 + scale.parallelism
        assert result["fault_tolerance"]["num_healthy_workers"] == scale.num_env_runners
    # An env runner that was left out has the weights of the others again, and callbacks were told that it is back.
    marked = of_env_runners(algorithm, lambda runner: getattr(runner.env.unwrapped, "marked", False))
    assert marked == [False, True]
    assert len(set(of_env_runners(algorithm, lambda runner: str(runner.module.get_state())))) == 1
    assert not set(seeds) & set(of_env_runners(algorithm, seed_of))
    assert algorithm.evaluate()["env_runners"]["num_episodes"] > 0
    # Env runners left out in the end are stopped.
    last = [*algorithm.env_runner_group._worker_manager.actors().values()][-1]
    rescaler.apply(Scale(1, 2))
    numbers = [algorithm.get_ctor_args_and_kwargs()[0][0]["num_env_runners"]]  # of a checkpoint
    rescaler.settle()
    numbers.append(algorithm.get_ctor_args_and_kwargs()[0][0]["num_env_runners"])
    assert numbers == [2, 1]
    algorithm.train()
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(last.ping.remote(), timeout=30)
    assert envs_of(algorithm) == [2]


def pushes(env_runner):
    """Return how many observations the filter of an env runner has seen."""
    pieces = [env_runner._env_to_module]
    for piece in pieces:
        pieces += getattr(piece, "connectors", [])
    [mean_std] = [piece for piece in pieces if isinstance(piece, MeanStdFilter)]
    return mean_std._filters[None].running_stats.num_pushes


def test_an_env_runner_that_is_left_out_takes_no_observations_of_the_filter_with_it(built):
    algorithm = built(with_filter(batch=256, callbacks=[]))
    rescaler = Rescaler(algorithm)
    for scale, observations in ((Scale(2, 1), 256), (Scale(1, 4), 512), (Scale(2, 2), 768)):
        rescaler.apply(scale)
        algorithm.train()
        found = of_env_runners(algorithm, pushes)
        assert len(found) == scale.num_env_runners
        assert min(found) > 0.9 * observations  # older releases (2.45) count some twice


def die(env_runner):
    os._exit(1)


@pytest.mark.alone
def test_a_trial_tunes_itself_and_keeps_that_when_env_runners_restart_and_when_it_is_restored(built, tmp_path):
    config = ppo(2048, callbacks=partial(TUNES, max_envs=8)).fault_tolerance(restart_failed_env_runners=True)
    algorithm = built(config)
    tuned = train_until_tuned(algorithm)["tuned"]
    assert 1.1 < tuned["gain"] < 8  # one env per env runner wastes most of an env runner's time on calls of the policy
    after = algorithm.train()["scaling"]
    assert after["parallelism"] == tuned["num_env_runners"] * tuned["num_envs_per_env_runner"]
    assert 2048 <= after["env_steps"] < 2048 + after["parallelism"]
    assert after["steady"]["iterations"] <= 1  # measured anew
    assert after["baseline"]["source"] == "probe"
    algorithm.env_runner_group.foreach_env_runner(die, local_env_runner=False, timeout_seconds=5)
    for _ in range(30):
        algorithm.train()
        if algorithm.env_runner_group.num_healthy_remote_workers() == algorithm.config.num_env_runners:
            break
    algorithm.train()
    assert set(envs_of(algorithm)) == {tuned["num_envs_per_env_runner"]}
    algorithm.save_to_path(tmp_path)
    restored = PPO.from_checkpoint(tmp_path)
    try:
        before = restored.training_iteration
        assert restored.train()["training_iteration"] == before + 1
        assert restored.config.num_envs_per_env_runner == algorithm.config.num_envs_per_env_runner
    finally:
        restored.stop()


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(lambda: ppo(512, runners=0), id="sampling in the Algorithm's process"),
        pytest.param(lambda: with_filter(batch=512).learners(num_learners=2), id="two remote learners", marks=pytest.mark.release),
        pytest.param(sac, id="SAC", marks=pytest.mark.release),
    ],
)
def test_a_trial_of_each_kind_ends_its_tuning_and_trains_on(built, config, caplog):
    algorithm = built(config())
    assert train_until_tuned(algorithm)["tuned"]["gain"] > 0, warnings_of(caplog)
    assert algorithm.train()["scaling"]["sps"] > 0
    assert not [text for text in warnings_of(caplog) if "gave up" in text]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (DQNConfig().training(num_steps_sampled_before_learning_starts=32), "number of updates"),
        (on_the_old_stack(ppo()), "old API stack"),
        (PPOConfig().training(train_batch_size_per_learner=64, minibatch_size=64), "NormalizeObservation"),
    ],
)
def test_what_cant_be_tuned_trains_as_configured(built, caplog, config, reason):
    tune.register_env("normalised", lambda _: gymnasium.wrappers.NormalizeObservation(gymnasium.make("CartPole-v1")))
    env = "normalised" if "Normalize" in reason else "CartPole-v1"
    config = small(config, env, runners=1).reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=64)
    assert built(config).train()["training_iteration"] == 1
    assert sum(reason in text for text in warnings_of(caplog) if "autotune" in text) == 1


def test_threads_of_the_learner_as_an_option_last_as_long_as_the_trial():
    before = torch.get_num_threads()
    algorithm = ppo(128, runners=0, callbacks=partial(ScalingCallback, probe=False, learner_threads=3)).build_algo()
    try:
        assert algorithm.train()["scaling"]["learner"]["threads"] == torch.get_num_threads() == 3
    finally:
        algorithm.stop()
    assert torch.get_num_threads() == before != 3


# ---------------------------------------------------------------- Tune's ways to start a trial again


class FailsOnce(RLlibCallback):
    """Ends a trial with an error in its ninth iteration, unless it was restored."""

    def on_train_result(self, *, result, **kwargs):
        if result["iterations_since_restore"] == result["training_iteration"] == 9:
            raise RuntimeError("no such luck")


def check_that_it_trains(trial):
    scaling = trial.metrics["scaling"]
    assert scaling["sps"] > 0
    assert scaling["parallelism"] == scaling["tuned"]["num_env_runners"] * scaling["tuned"]["num_envs_per_env_runner"]


@pytest.mark.release
def test_an_experiment_is_restored_while_a_trial_tunes_itself(tmp_path):
    config = ppo(callbacks=[TUNES, FailsOnce])
    [failed] = run(tmp_path, config, stop=14, callbacks=None, checkpoint_every=3, name="tuned")
    assert "no such luck" in str(failed.error)
    [trial] = tune.Tuner.restore(str(tmp_path / "tuned"), "PPO", resume_errored=True, param_space=config).fit()
    assert not trial.error
    assert trial.metrics["training_iteration"] == 14
    check_that_it_trains(trial)


@pytest.mark.release
def test_a_population_of_trials_that_tune_themselves(tmp_path):
    scheduler = tune.schedulers.PopulationBasedTraining(
        metric="env_runners/episode_return_mean",
        mode="max",
        perturbation_interval=4,
        hyperparam_mutations={"lr": tune.loguniform(1e-5, 1e-2)},
    )
    config = ppo()
    config.lr = tune.loguniform(1e-5, 1e-2)
    results = run(tmp_path, config, stop=12, callbacks=None, num_samples=2, scheduler=scheduler, max_concurrent_trials=2)
    assert not results.errors
    for trial in results:
        check_that_it_trains(trial)
