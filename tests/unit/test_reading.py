import enum
import functools
import math

import numpy as np
import pytest

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import configs
from rl_scaling_callback.rllib import results as read
from rl_scaling_callback.rllib.configs import read_facts
from rl_scaling_callback.rllib.content import plain
from rl_scaling_callback.rllib.names import number

# ---------------------------------------------------------------- results


def counted(env_steps, **more):
    return {"env_runners": {"num_env_steps_sampled": env_steps}, "time_this_iter_s": 1.0} | more


@pytest.mark.parametrize(
    ("result", "env_steps", "seconds", "problem"),
    [
        (counted(np.int64(4096), time_this_iter_s=2.0, num_env_steps_sampled_lifetime=9000), 4096.0, 2.0, ""),
        ({"env_runners": {}, "time_this_iter_s": 1.0}, 0.0, 1.0, ""),  # an asynchronous algorithm that has just started
        ({"time_this_iter_s": 1.0}, math.nan, 1.0, "no env_runners"),
        (counted("many"), math.nan, 1.0, "'many', not a count"),
        (counted(-5), math.nan, 1.0, "-5, not a count"),
        (counted(True), math.nan, 1.0, "True, not a count"),
        (counted(5, time_this_iter_s=-1.0), 5, math.nan, "time_this_iter_s is -1.0"),
        (counted(5, time_this_iter_s=None), 5, math.nan, "time_this_iter_s is None"),
    ],
)
def test_unreadable_results_are_nan_with_a_reason(result, env_steps, seconds, problem):
    iteration = read.read_iteration(result)
    assert (iteration.env_steps, iteration.seconds) == pytest.approx((env_steps, seconds), nan_ok=True)
    assert problem in iteration.problem if problem else iteration.problem == ""


def test_numbers_of_results():
    assert read.read_number({"num_healthy_workers": 1}, "healthy") == 1.0
    assert math.isnan(read.read_number({"perf": None}, "cpu_utilisation"))
    assert read.read_vram_utilisation({"perf": {"vram_util_percent0": 0.25, "vram_util_percent1": 0.75}}) == 75.0


def test_env_runner_reports_are_removed_from_their_metrics():
    logged = [
        {"num_env_steps_sampled": 10, read.REPORTS: {"1": {"busy": np.float64(0.5), "cpu": 0.4}}},
        {read.REPORTS: {"2": {"busy": 0.25, "env_step": 0.1, "reset": 0.03, "cpu": 0.2}, "3": "junk"}},
        "junk",
    ]
    (first, one), (second, two) = read.runner_reports(read.take_reports(logged))
    assert (first, one.busy, one.cpu, second, two) == ("1", 0.5, 0.4, "2", read.RunnerReport(0.25, 0.1, 0.03, 0.2))
    assert logged == [{"num_env_steps_sampled": 10}, {}, "junk"]
    both = two + two
    assert (both.busy, both.env_step) == (0.5, 0.2)


def test_finite_numbers_become_plain_floats_and_anything_else_is_nan():
    for value in (2, 2.0, np.int64(2), np.float32(2), np.array(2.0)):
        assert (number(value), type(number(value))) == (2.0, float)
    for value in (math.inf, math.nan, np.float64("inf"), True, None, "1", b"1", 10**400, [1.0], {}):
        assert math.isnan(number(value))


# ---------------------------------------------------------------- configs


def test_scale_from_a_config():
    scale = configs.read_scale({"num_env_runners": np.int64(2), "num_envs_per_env_runner": np.int32(4)})
    assert (scale, scale.slug, type(scale.num_env_runners), type(scale.parallelism)) == (Scale(2, 4), "2r4e", int, int)
    for junk in (2.0, "2", None):
        with pytest.raises(ValueError, match=f"num_env_runners is {junk!r}.* allowed are whole numbers"):
            configs.read_scale({"num_env_runners": junk, "num_envs_per_env_runner": 1})


def test_logged_config_has_todays_names():
    logged = {"env": "<class 'envs.Custom'>", "_learner_connector": "<function f at 0x7fe1484a44a0>"}
    assert configs.read_logged_config(logged) == {"env": "envs.Custom", "_learner_connector": "<function f>"}
    # RLlib sets settings that it has renamed to -1 or None, and once copied some into `optimizer`.
    older = {"num_envs_per_env_runner": -1, "num_envs_per_worker": 2, "optimizer": {"num_envs_per_worker": 2, "momentum": 0.9}}
    assert configs.read_logged_config(older) == {"num_envs_per_env_runner": 2, "optimizer": {"momentum": 0.9}}
    assert configs.read_logged_config({"minibatch_size": None, "sgd_minibatch_size": 64}) == {"minibatch_size": 64}


@pytest.mark.parametrize(
    ("fact", "config", "expected"),
    [
        (configs.uses_gpus, {"num_gpus": 0, "num_gpus_per_learner": 0}, False),
        (configs.uses_gpus, {"num_gpus": 0, "num_gpus_per_learner": 0.5}, True),
        (configs.uses_gpus, {"num_gpus_per_env_runner": 0.1}, True),
        (configs.iterations_are_timed, {"min_time_s_per_iteration": None}, False),
        (configs.evaluates, {"evaluation_interval": None}, False),
        (configs.evaluates, {"evaluation_interval": 1, "evaluation_parallel_to_training": True}, False),
        (configs.steps_before_learning, {"num_steps_sampled_before_learning_starts": -1}, 0.0),
        (configs.samples_env, {"input_": "sampler"}, True),
        (configs.samples_env, {"input_": "/data"}, False),
    ],
)
def test_properties_of_a_config(fact, config, expected):
    assert fact(config) == expected
    assert fact({}) == fact({"unknown": 1})


def test_cpus_of_a_config_are_unknown_if_learners_or_evaluation_use_more():
    config = {"num_cpus_for_main_process": 1, "num_cpus_per_env_runner": 0.5, "num_env_runners": 4}
    assert configs.read_cpus(config) == 3.0
    assert all(math.isnan(configs.read_cpus({**config, other: 1})) for other in ("num_learners", "evaluation_num_env_runners"))


# ---------------------------------------------------------------- what identifies a workload


class Custom:
    pass


class Mode(enum.Enum):
    SYNC = "sync"


def test_plain_values_are_readable():
    value = {"mode": Mode.SYNC, "scalar": np.float32(0.5), "set": {3, 1}, "tuple": (1, None), "nan": math.nan}
    assert plain(value) == {"mode": plain("sync"), "scalar": 0.5, "set": [1, 3], "tuple": [1, None], "nan": "nan"}
    assert plain(Custom()) == plain(Custom)
    assert plain(Custom).startswith(f"{__name__}.Custom #")
    loop: dict = {}
    loop["self"] = loop
    assert plain(loop) == {"self": "builtins.dict"}


BASE = {
    "env": "HalfCheetah-v5",
    "env_config": {"forward_reward_weight": 1.0},
    "_train_batch_size_per_learner": 4096,
    "num_epochs": 4,
    "num_learners": 0,
    "enable_rl_module_and_learner": True,
    "lr": 3e-4,
    "num_env_runners": 1,
    "gym_env_vectorize_mode": "sync",
}


OURS = type("ScalingCallback", (), {"__module__": "rl_scaling_callback.callback"})
"""A stand-in, because the real one can't be imported without Ray."""


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 1e-3, "seed": 2, "gamma": 0.9, "train_batch_size": 99, "learning_starts": -1, "evaluation_interval": 1},
        {"num_env_runners": 8, "num_envs_per_env_runner": 4, "rollout_fragment_length": 256, "num_cpus_per_env_runner": 0.5},
        {"a_setting_of_another_release": None, "__stdout_file__": "x"},
        *({"gym_env_vectorize_mode": mode} for mode in ("SYNC", Mode.SYNC, "VectorizeMode.SYNC")),
        {"callbacks_class": [OURS, functools.partial(OURS, 3)], "callbacks": "mine.Callback"},
        {"callbacks": ["functools.partial(rl_scaling_callback.callback.ScalingCallback, min_iterations=3)"]},
    ],
)
def test_settings_that_do_not_change_the_work_are_ignored(changes):
    assert read_facts({**BASE, **changes}) == read_facts(BASE)


@pytest.mark.parametrize(
    "changes",
    [
        {"env": "Ant-v5", "env_config": {"forward_reward_weight": 2.0}, "gym_env_vectorize_mode": "async", "output": "/somewhere"},
        {"_train_batch_size_per_learner": 2048, "num_epochs": 8, "num_learners": 2, "num_gpus_per_learner": 1},
        {"_model_config": {"fcnet_hiddens": [8]}, "policies": {"a", "b"}, "policies_to_train": ["a"], "a_setting_of_the_users": 1},
        {"callbacks_class": Custom, "callbacks": "mine.Callback", "callbacks_on_episode_step": lambda **kwargs: None},
        # Unusual values.
        {"num_learners": "all", "_train_batch_size_per_learner": "auto", "policies": 3},
    ],
)
def test_each_setting_that_changes_the_work_counts(changes):
    for name, value in changes.items():
        assert read_facts({**BASE, name: value}) != read_facts(BASE), name


def test_parallel_evaluation_and_the_effective_batch_size_count():
    assert read_facts({**BASE, "evaluation_interval": 1, "evaluation_parallel_to_training": True}) != read_facts(BASE)
    assert read_facts({**BASE, "_train_batch_size_per_learner": 2048, "num_learners": 2})["train_batch_size"] == 4096
    assert read_facts({**BASE, "_train_batch_size_per_learner": None, "train_batch_size": 4000})["train_batch_size"] == 4000
