"""Autotune in trials of many kinds: samplers, learners, filters, algorithms, and Tune's ways to start a trial again."""

import functools

import pytest
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.env_to_module import MeanStdFilter
from tuning import run, warnings_of

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.rescale import Rescaler

pytestmark = pytest.mark.usefixtures("cluster")

TUNES = functools.partial(ScalingCallback, autotune=True, max_envs=4)


def ppo(runners=2):
    config = PPOConfig().environment("CartPole-v1").training(train_batch_size_per_learner=256, minibatch_size=128, num_epochs=1)
    config.env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.25).learners(num_cpus_per_learner=0.25)
    return config.resources(num_cpus_for_main_process=0.25).callbacks(TUNES).debugging(log_level="ERROR")


def sac():
    config = SACConfig().environment("Pendulum-v1").training(num_steps_sampled_before_learning_starts=64)
    config.reporting(min_sample_timesteps_per_iteration=50, min_time_s_per_iteration=0)
    return config.env_runners(num_env_runners=1, num_cpus_per_env_runner=0.25).callbacks(TUNES)


def with_filter():
    return ppo().env_runners(env_to_module_connector=lambda *_, **__: MeanStdFilter())


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(lambda: ppo(runners=0), id="sampling in the Algorithm's process"),
        pytest.param(lambda: with_filter().learners(num_learners=2), id="two remote learners"),
        pytest.param(sac, id="SAC", marks=pytest.mark.release),
    ],
)
def test_a_trial_of_each_kind_ends_its_tuning_and_trains_on(config, caplog):
    algorithm = config().build_algo()
    try:
        scaling = algorithm.train()["scaling"]
        for _ in range(80):
            if scaling["tuned"]["gain"] > 0:
                break
            scaling = algorithm.train()["scaling"]
        tuned = scaling["tuned"]
        assert tuned["gain"] > 0, warnings_of(caplog)
        runners = algorithm.env_runner_group.foreach_env_runner(
            lambda runner: runner.env.num_envs, local_env_runner=not tuned["num_env_runners"]
        )
        assert runners == [tuned["num_envs_per_env_runner"]] * max(1, int(tuned["num_env_runners"]))
        assert algorithm.train()["scaling"]["sps"] > 0
    finally:
        algorithm.stop()
    assert not [text for text in warnings_of(caplog) if "gave up" in text]


def pushes(env_runner):
    """Return how many observations the filter of an env runner has seen."""
    pieces = [env_runner._env_to_module]
    for piece in pieces:
        pieces += getattr(piece, "connectors", [])
    [mean_std] = [piece for piece in pieces if isinstance(piece, MeanStdFilter)]
    return mean_std._filters[None].running_stats.num_pushes


def test_an_env_runner_that_is_left_out_takes_no_observations_of_the_filter_with_it():
    algorithm = with_filter().callbacks([]).build_algo()
    try:
        rescaler, group = Rescaler(algorithm), algorithm.env_runner_group
        for scale, observations in ((Scale(2, 1), 256), (Scale(1, 4), 512), (Scale(2, 2), 768)):
            rescaler.apply(scale)
            algorithm.train()
            found = group.foreach_env_runner(pushes, local_env_runner=False)
            assert len(found) == scale.num_env_runners
            assert min(found) > 0.9 * observations  # older releases (2.45) count some twice
    finally:
        algorithm.stop()


class FailsOnce(RLlibCallback):
    """Ends a trial with an error in its ninth iteration, unless it was restored."""

    def on_train_result(self, *, result, **kwargs):
        if result["iterations_since_restore"] == result["training_iteration"] == 9:
            raise RuntimeError("no such luck")


def test_an_experiment_is_restored_while_a_trial_tunes_itself(tmp_path):
    config = ppo().callbacks([TUNES, FailsOnce])
    [failed] = run(tmp_path, config, stop=14, callbacks=None, checkpoint_every=3, name="tuned")
    assert "no such luck" in str(failed.error)
    [trial] = tune.Tuner.restore(str(tmp_path / "tuned"), "PPO", resume_errored=True, param_space=config).fit()
    assert not trial.error
    assert trial.metrics["training_iteration"] == 14
    scaling = trial.metrics["scaling"]
    assert scaling["sps"] > 0
    assert scaling["parallelism"] == scaling["tuned"]["num_env_runners"] * scaling["tuned"]["num_envs_per_env_runner"]


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
        scaling = trial.metrics["scaling"]
        assert scaling["sps"] > 0
        assert scaling["parallelism"] == scaling["tuned"]["num_env_runners"] * scaling["tuned"]["num_envs_per_env_runner"]
