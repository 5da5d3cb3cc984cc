"""Events around an iteration that must not be measured as part of it."""

import copy
import inspect
import math
import time
import weakref
from functools import partial

import pytest
from envs import CostlyEnv
from ray import cloudpickle, tune
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.callbacks.callbacks import RLlibCallback
from tuning import costly, on_the_old_stack, run

from rl_scaling_callback import ScalingCallback, SteadyRule

STEPS = 100

pytestmark = pytest.mark.usefixtures("cluster")


def ppo(env=CostlyEnv, *, runners=0, step_s=0.0, **env_config):
    return (
        costly(env, STEPS, step_s=step_s, **env_config)
        .env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.5, rollout_fragment_length=STEPS // max(1, runners))
        .callbacks(partial(ScalingCallback, baseline_sps=1000.0, steady=SteadyRule(warmup_iterations=0)))
    )


def evaluated(config, step_s, **options):
    """Add an evaluation of 20 steps of `step_s` each."""
    return config.evaluation(
        evaluation_duration=20,
        evaluation_duration_unit="timesteps",
        evaluation_config={"env_config": {"step_s": step_s}, "rollout_fragment_length": 20, "num_cpus_per_env_runner": 0.5},
        evaluation_num_env_runners=1,
        **options,
    )


@pytest.mark.parametrize(
    "stack", [pytest.param(lambda config: config, id="new"), pytest.param(on_the_old_stack, id="old", marks=pytest.mark.release)]
)
def test_evaluation(built, stack):
    """Between iterations it is part of none; in parallel to training it costs the time by which it outlasts training."""
    config = evaluated(stack(ppo(step_s=0.005)), step_s=0.1, evaluation_interval=2, evaluation_parallel_to_training=True)
    algorithm = built(config)
    algorithm.evaluate()
    results = [algorithm.train() for _ in range(4)]
    alone, evaluating = results[::2], results[1::2]
    for result in alone:
        assert result["scaling"]["time"]["evaluate"] == 0
        assert result["scaling"]["sps"] < STEPS / 0.5  # steps of 5 ms
    for result in evaluating:
        # 2 s of evaluation in parallel to 0.5 s of sampling plus learning.
        assert 0.8 < result["scaling"]["time"]["evaluate"] < result["time_this_iter_s"] - 0.5
    trained = [result["time_this_iter_s"] - result["scaling"]["time"]["evaluate"] for result in results]
    assert results[-1]["scaling"]["steady"]["sps"] == pytest.approx(4 * STEPS / sum(trained), rel=1e-6)


class FailingOnce(PPO):
    """Fails once in its third iteration, after sampling."""

    def training_step(self):
        super().training_step()
        if self.training_iteration == 2 and not getattr(self, "has_failed", False):
            self.has_failed = True
            with self.metrics.log_time(("timers", "env_runner_sampling_timer")):
                time.sleep(1.0)
                raise RuntimeError("as expected")


def test_failed_iteration_is_not_part_of_the_next(built):
    config = ppo(runners=1, step_s=0.002)
    config.algo_class = FailingOnce
    algorithm = built(config)
    for _ in range(2):
        algorithm.train()
    with pytest.raises(RuntimeError, match="as expected"):
        algorithm.train()
    mixed, clean = algorithm.train(), algorithm.train()
    for result in (mixed, clean):
        assert result["scaling"]["time"]["sample"] < result["time_this_iter_s"]
        assert result["scaling"]["time"]["other"] >= 0
        assert result["scaling"]["runners"]["busy"] < result["time_this_iter_s"]
    # RLlib counts the steps of both iterations.
    assert mixed["env_runners"]["num_env_steps_sampled"] == 2 * STEPS
    assert math.isnan(mixed["scaling"]["sps"])
    assert clean["scaling"]["env_steps"] == STEPS
    assert clean["scaling"]["steady"]["iterations"] == 3


class Seen(RLlibCallback):
    """Records the results as seen by a callback that runs before ours."""

    texts: list = []  # noqa: RUF012

    def on_train_result(self, *, result, **kwargs):
        self.texts.append(str(result))

    def on_evaluate_end(self, *, evaluation_metrics, **kwargs):
        self.texts.append(str(evaluation_metrics))


def test_env_runner_reports_are_invisible_to_others(built, tmp_path):
    ours = partial(ScalingCallback, baseline_sps=1000.0)
    config = evaluated(ppo(runners=1), step_s=0.0).callbacks([Seen, ours])
    algorithm = built(config)
    Seen.texts.clear()
    result = algorithm.train()
    assert result["scaling"]["runners"]["reported"] == 1
    evaluation = algorithm.evaluate()
    assert len(Seen.texts) == 2
    assert not any("_scaling_env_runners" in text for text in [*Seen.texts, str(result["env_runners"]), str(evaluation)])
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    without_us = built(ppo().callbacks(Seen))
    without_us.restore_from_path(str(tmp_path / "checkpoint"))
    assert "_scaling_env_runners" not in str(without_us.train())


def train_in_a_function(space):
    rule = SteadyRule(warmup_iterations=1, min_iterations=2, max_iterations=2)
    config = ppo().callbacks(partial(ScalingCallback, reference="0r1e", steady=rule))
    algorithm = config.env_runners(num_envs_per_env_runner=space["envs"], rollout_fragment_length="auto").build_algo()
    for _ in range(4):
        tune.report(algorithm.train())
    algorithm.stop()


def test_algorithm_in_a_function_trainable_belongs_to_the_experiment(tmp_path):
    space = {"envs": tune.grid_search([1, 2])}
    results = run(tmp_path, space, callbacks=None, trainable=train_in_a_function, stop=None)
    assert not results.errors
    reference, other = sorted((result.metrics["scaling"] for result in results), key=lambda scaling: scaling["parallelism"])
    assert (reference["is_baseline"], other["is_baseline"]) == (1.0, 0.0)
    assert other["speedup"] > 0


class Neighbour(RLlibCallback):
    """Wraps `training_step` of the Algorithm, and logs a dict by name."""

    def on_algorithm_init(self, *, algorithm, **kwargs):
        of_class, own = type(algorithm).training_step, weakref.ref(algorithm)
        self.steps = 0

        def training_step():
            self.steps += 1
            return of_class(own())

        algorithm.training_step = training_step

    def on_train_result(self, *, algorithm, metrics_logger, result, **kwargs):
        _, given, *_ = inspect.signature(type(metrics_logger).log_dict).parameters
        metrics_logger.log_dict(**{given: {"steps": self.steps}, "key": "neighbour"})
        result["neighbour"] = self.steps


class SendsItself(ScalingCallback):
    """Sends a function that refers to the callback to the env runners, before and while it measures."""

    limit = 0

    def on_algorithm_init(self, *, algorithm, **kwargs):
        self.limit = 7
        self._send(algorithm)
        super().on_algorithm_init(algorithm=algorithm, **kwargs)

    def on_train_result(self, *, algorithm, result, **kwargs):
        super().on_train_result(algorithm=algorithm, result=result, **kwargs)
        self._send(algorithm)
        for copied in (copy.copy(self), copy.deepcopy(self), cloudpickle.loads(cloudpickle.dumps(self))):
            assert (copied.limit, copied._monitor, copied._options.probe) == (7, None, True)

    def _send(self, algorithm):
        assert algorithm.env_runner_group.foreach_env_runner(lambda env_runner: self.limit, local_env_runner=False) == [7, 7]


def test_other_callbacks_and_subclasses_work_as_before(built):
    config = ppo(runners=2).callbacks([Neighbour, partial(SendsItself, probe=True)])
    algorithm = built(config)
    results = [algorithm.train() for _ in range(2)]
    assert [result["neighbour"] for result in results] == [1, 2]
    assert results[-1]["scaling"]["baseline"]["source"] == "probe"
    assert results[-1]["scaling"]["speedup"] > 0
