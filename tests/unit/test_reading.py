import enum
import functools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.configs import (
    TIMER_PHASES,
    evaluates,
    iterations_are_timed,
    read_logged_config,
    read_scale,
    samples_env,
    steps_before_learning,
    steps_follow_scale,
    steps_in_turn,
    uses_gpus,
)
from rl_scaling_callback.rllib.facts import read_facts
from rl_scaling_callback.rllib.results import (
    MEASURED_KEYS,
    REPORTS,
    Circumstances,
    RunnerReport,
    read_circumstances,
    read_injected,
    read_iteration,
    read_measured,
    take_reports,
)
from rl_scaling_callback.rllib.values import number, plain
from tests.builders import RESULT_KEYS, anything


def test_new_stack_counts_in_env_runners():
    result = {
        "env_runners": {"num_env_steps_sampled": np.int64(4096)},
        "time_this_iter_s": 2.0,
        "num_env_steps_sampled_lifetime": 9000,
    }
    iteration = read_iteration(result)
    assert (iteration.env_steps, iteration.seconds, iteration.problem) == (4096.0, 2.0, "")


def test_asynchronous_start_has_no_steps_yet():
    iteration = read_iteration({"env_runners": {}, "time_this_iter_s": 1.0})
    assert (iteration.env_steps, iteration.problem) == (0.0, "")


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        ({"time_this_iter_s": 1.0}, "no env_runners"),
        ({"env_runners": None, "time_this_iter_s": 1.0}, "no env_runners"),
        ({"env_runners": {"num_env_steps_sampled": "many"}, "time_this_iter_s": 1.0}, "'many', not a count"),
        ({"env_runners": {"num_env_steps_sampled": -5}, "time_this_iter_s": 1.0}, "-5, not a count"),
        ({"env_runners": {"num_env_steps_sampled": True}, "time_this_iter_s": 1.0}, "True, not a count"),
        ({"env_runners": {"num_env_steps_sampled": 5}, "time_this_iter_s": 0}, "time_this_iter_s is 0"),
        ({"env_runners": {"num_env_steps_sampled": 5}, "time_this_iter_s": -1.0}, "time_this_iter_s is -1.0"),
        ({"env_runners": {"num_env_steps_sampled": 5}}, "time_this_iter_s is None"),
    ],
)
def test_unreadable_results_are_nan_with_a_reason(result, problem):
    iteration = read_iteration(result)
    assert math.isnan(iteration.env_steps) or math.isnan(iteration.seconds)
    assert problem in iteration.problem


@given(
    st.dictionaries(st.sampled_from(RESULT_KEYS), anything | st.fixed_dictionaries({"num_env_steps_sampled": anything})),
)
def test_arbitrary_results_neither_raise_nor_give_infinity(result):
    iteration = read_iteration(result)
    assert not math.isinf(iteration.env_steps)
    assert not math.isinf(iteration.seconds)
    assert not iteration.seconds <= 0
    assert not iteration.env_steps < 0


def test_scale_from_a_config():
    assert read_scale({"num_env_runners": 8, "num_envs_per_env_runner": 2}) == Scale(8, 2)
    with pytest.raises(ValueError, match="num_env_runners is None"):
        read_scale({})


def test_circumstances():
    result = {
        "training_iteration": 3,
        "iterations_since_restore": 1,
        "done": True,
        "hostname": "vm",
        "timestamp": 1795888191,
        "env_runners": {"episode_return_mean": 5.5},
        "num_env_steps_sampled_lifetime": 6144.0,
        "time_total_s": 9.0,
        "time_this_iter_s": 2.0,
        "perf": {"cpu_util_percent": 85.2, "ram_util_percent": 8.5, "vram_util_percent0": 0.25, "vram_util_percent1": 0.75},
    }
    assert read_circumstances(result) == Circumstances(3.0, 1.0, True, "vm", 1795888191.0, 5.5, 6144.0, 7.0, 85.2, 8.5, 75.0)


@given(st.dictionaries(st.sampled_from(["training_iteration", "done", "hostname", "env_runners", "perf"]), anything))
def test_circumstances_of_arbitrary_results_do_not_raise(result):
    circumstances = read_circumstances(result)
    assert isinstance(circumstances.host, str)
    assert not math.isinf(circumstances.iteration)


@pytest.mark.parametrize(
    ("config", "pauses"),
    [
        ({}, False),
        ({"evaluation_interval": None}, False),
        ({"evaluation_interval": 1}, True),
        ({"evaluation_interval": 1, "evaluation_parallel_to_training": True}, False),
    ],
)
def test_whether_training_pauses_for_evaluation(config, pauses):
    assert evaluates(config) is pauses


def test_logged_config_has_todays_names():
    logged = {
        "framework": "torch",
        "input": "sampler",
        "env": "<class 'envs.Custom'>",
        "_learner_connector": "<function f at 0x7fe1484a44a0>",
        "model": {"custom_model": "<class 'models.Net'>"},
        "num_workers": 4,
        "num_envs_per_worker": -1,  # RLlib's value for removed settings
        "num_envs_per_env_runner": 2,
        "optimizer": {"num_envs_per_worker": 2, "momentum": 0.9},
        "sgd_minibatch_size": None,
        "minibatch_size": 64,
    }
    assert read_logged_config(logged) == {
        "framework_str": "torch",
        "input_": "sampler",
        "env": "envs.Custom",
        "_learner_connector": "<function f>",
        "model": {"custom_model": "models.Net"},
        "num_env_runners": 4,
        "num_envs_per_env_runner": 2,
        "optimizer": {"momentum": 0.9},
        "minibatch_size": 64,
    }


DREAMER = {"training_ratio": 1024, "batch_size_B": 16, "batch_length_T": 64, "rollout_fragment_length": 1}


@pytest.mark.parametrize(
    ("fact", "config", "expected"),
    [
        (uses_gpus, {"num_gpus": 0, "num_gpus_per_learner": 0}, False),
        (uses_gpus, {"num_gpus": 0, "num_gpus_per_learner": 0.5}, True),
        (uses_gpus, {"num_gpus_per_env_runner": 0.1}, True),
        (iterations_are_timed, {"min_time_s_per_iteration": 0}, False),
        (iterations_are_timed, {"min_time_s_per_iteration": None}, False),
        (iterations_are_timed, {"min_time_s_per_iteration": 0.5}, True),
        (steps_follow_scale, DREAMER, True),
        (steps_follow_scale, {**DREAMER, "training_ratio": 512}, False),
        (steps_follow_scale, {**DREAMER, "rollout_fragment_length": "auto"}, False),
        (steps_before_learning, {"num_steps_sampled_before_learning_starts": -1}, 0.0),
        (steps_before_learning, {"num_steps_sampled_before_learning_starts": 1}, 1.0),
        (steps_in_turn, {"gym_env_vectorize_mode": "VectorizeMode.SYNC"}, True),
        (steps_in_turn, {"gym_env_vectorize_mode": "async"}, False),
        (steps_in_turn, {"gym_env_vectorize_mode": "VECTOR_ENTRY_POINT"}, False),
        (steps_in_turn, {"remote_worker_envs": True}, False),
        (samples_env, {"_is_online": False}, False),
        (samples_env, {"input_": "sampler"}, True),
        (samples_env, {"input_": "/data"}, False),
    ],
)
def test_properties_of_a_config(fact, config, expected):
    assert fact(config) == expected
    assert fact({}) == fact({"unknown": 1})


def test_dreamer_has_its_own_learn_timer():
    assert TIMER_PHASES["learn"] == "learn"


def logged(seconds=2.0, **scaling):
    return {"env_runners": {"num_env_steps_sampled": 1000}, "time_this_iter_s": seconds, "scaling": scaling}


def measured(result):
    return read_measured(result, read_injected(result, MEASURED_KEYS))


def test_logged_iteration_excludes_evaluation():
    phases = {"sample": 1.0, "learn": 0.5, "sync": 0.0, "evaluate": 0.25, "other": 0.25}
    read = measured(logged(sps=500.0, env_steps=1000.0, time=phases, runners={"busy": 0.9, "longest": 1.0}))
    assert (read.env_steps, read.seconds, read.problem) == (1000.0, 1.75, "")
    assert read.parts is not None
    assert read.parts[:-1] == (1.0, 0.5, 0.0, 0.25, 0.9, 1.0)
    assert math.isnan(read.parts[-1])  # no learner works beside the env runners
    assert measured({"env_runners": {"num_env_steps_sampled": 1000}, "time_this_iter_s": 2.0}).seconds == 2.0


def test_duration_is_unknown_if_the_clock_jumped():
    read = measured(logged(3602.0, sps=math.nan, env_steps=1000.0, time={"evaluate": 0.0}))
    assert math.isnan(read.seconds)
    assert "clock" in read.problem
    # Unknown env steps don't invalidate the duration.
    assert measured(logged(2.0, sps=math.nan, env_steps=math.nan)).seconds == 2.0


def test_env_runner_reports_are_removed_from_their_metrics():
    logged = [
        {"num_env_steps_sampled": 10, REPORTS: {"1": {"busy": np.float64(0.5), "cpu": 0.4}}},
        {"num_env_steps_sampled": 10},
        {REPORTS: {"2": {"busy": 0.25, "env_step": 0.1, "inference": 0.05, "reset": 0.03, "cpu": 0.2}, "3": "junk"}},
        "junk",
    ]
    (first, one), (second, two) = take_reports(logged)
    assert (first, one.busy, one.cpu, second, two) == ("1", 0.5, 0.4, "2", RunnerReport(0.25, 0.1, 0.05, 0.03, 0.2))
    assert logged == [{"num_env_steps_sampled": 10}, {"num_env_steps_sampled": 10}, {}, "junk"]
    both = one + two
    assert (both.busy, both.env_step) == (0.75, 0.1), "the next estimate covers steps that were not timed"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, np.float64("inf"), True, None, "1", b"1", 10**400, [1.0], {}])
def test_anything_but_a_finite_number_is_nan(value):
    assert math.isnan(number(value))


@pytest.mark.parametrize("value", [2, 2.0, np.int64(2), np.float32(2), np.array(2.0)])
def test_numbers_become_plain_floats(value):
    assert number(value) == 2.0
    assert type(number(value)) is float


class Custom:
    pass


class Mode(enum.Enum):
    SYNC = "sync"


@dataclass
class Spec:
    module: type
    width: int


def test_plain_values_are_the_same_in_every_process():
    value = {
        "class": Custom,
        "function": test_new_stack_counts_in_env_runners,
        "mode": Mode.SYNC,
        "spec": Spec(Custom, 64),
        "array": np.arange(3),
        "scalar": np.float32(0.5),
        "set": {3, 1, 2},
        "object": Custom(),
        "nan": math.nan,
        "tuple": (1, None),
    }
    custom = plain(Custom)
    assert custom.startswith(f"{__name__}.Custom #")
    assert plain(value) == {
        "class": custom,
        "function": plain(test_new_stack_counts_in_env_runners),
        "mode": plain("sync"),
        "spec": {"of": plain(Spec), "module": custom, "width": 64},
        "array": [0, 1, 2],
        "scalar": 0.5,
        "set": [1, 2, 3],
        "object": custom,
        "nan": "nan",
        "tuple": [1, None],
    }


def test_self_referential_value_terminates():
    loop: dict = {}
    loop["self"] = loop
    assert plain(loop)


BASE = {
    "env": "HalfCheetah-v5",
    "env_config": {"forward_reward_weight": 1.0},
    "_train_batch_size_per_learner": 4096,
    "num_epochs": 4,
    "num_learners": 0,
    "enable_rl_module_and_learner": True,
    "lr": 3e-4,
    "seed": 1,
    "num_env_runners": 1,
    "num_envs_per_env_runner": 1,
    "rollout_fragment_length": "auto",
    "gym_env_vectorize_mode": "sync",
}


class OfThisPackage:
    """A stand-in: this package's callbacks can't be imported without Ray."""


OfThisPackage.__module__ = "rl_scaling_callback.callback"


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 1e-3},
        {"seed": 2},
        {"gamma": 0.9},
        {"num_env_runners": 8},
        {"num_envs_per_env_runner": 4},
        {"rollout_fragment_length": 256},
        {"evaluation_interval": 1},
        {"num_cpus_per_env_runner": 0.5},
        {"gym_env_vectorize_mode": "SYNC"},
        {"gym_env_vectorize_mode": Mode.SYNC},
        {"gym_env_vectorize_mode": "VectorizeMode.SYNC"},
        {"callbacks_class": OfThisPackage},
        {"callbacks_class": [OfThisPackage, functools.partial(OfThisPackage, 3)]},
        {"callbacks": "rl_scaling_callback.callback.ScalingCallback"},
        {"callbacks": ["functools.partial(rl_scaling_callback.callback.ScalingCallback, min_iterations=3)"]},
        {"train_batch_size": 99},
        {"learning_starts": -1},
        {"a_setting_of_another_release": None},
        {"__stdout_file__": "x"},
    ],
)
def test_settings_that_do_not_change_the_work_are_ignored(change):
    assert read_facts({**BASE, **change}) == read_facts(BASE)


@pytest.mark.parametrize(
    "change",
    [
        {"env": "Ant-v5"},
        {"env_config": {"forward_reward_weight": 2.0}},
        {"_train_batch_size_per_learner": 2048},
        {"num_epochs": 8},
        {"minibatch_size": 64},
        {"num_learners": 2},
        {"num_gpus_per_learner": 1},
        {"gym_env_vectorize_mode": "async"},
        {"_model_config": {"fcnet_hiddens": [8]}},
        {"policies": {"a", "b"}},
        {"circular_buffer_iterations_per_batch": 4},
        {"num_atoms": 51},
        {"twin_q": False},
        {"training_ratio": 512},
        {"batch_size_B": 8},
        {"model_size": "S"},
        {"replay_buffer_config": {"type": "EpisodeReplayBuffer"}},
        {"policies_to_train": ["a"]},
        {"learner_config_dict": {"a": 1}},
        {"output": "/somewhere"},
        {"use_critic": False},
        {"add_default_connectors_to_env_to_module_pipeline": False},
        {"callbacks_class": Custom},
        {"callbacks_on_episode_step": lambda **kwargs: None},
        {"a_setting_of_the_users": 1},
        {"evaluation_interval": 1, "evaluation_parallel_to_training": True},
    ],
)
def test_settings_that_change_the_work_count(change):
    assert read_facts({**BASE, **change}) != read_facts(BASE)


def test_effective_batch_size_counts():
    per_learner = {**BASE, "_train_batch_size_per_learner": 2048, "num_learners": 2}
    assert read_facts(per_learner)["train_batch_size"] == 4096
    assert read_facts({**BASE, "_train_batch_size_per_learner": None, "train_batch_size": 4000})["train_batch_size"] == 4000


def test_model_config_contains_only_non_default_settings():
    @dataclass
    class ModelConfig:
        hiddens: tuple = (256, 256)
        shared: bool = True

    defaults = {"hiddens": (256, 256), "shared": False}

    def model_config(given):
        return read_facts({**BASE, "_model_config": given}, defaults)["model_config"]

    assert model_config(ModelConfig(hiddens=(8,))) == {"hiddens": [8], "shared": True}
    assert model_config({"hiddens": (8,), "shared": True}) == {"hiddens": [8], "shared": True}
    assert model_config({}) == model_config({"hiddens": (256, 256)}) == {}


def test_numpy_integers_are_accepted_as_runner_and_env_counts():
    scale = read_scale({"num_env_runners": np.int64(2), "num_envs_per_env_runner": np.int32(4)})
    assert (scale, scale.slug, type(scale.num_env_runners), type(scale.parallelism)) == (Scale(2, 4), "2r4e", int, int)
    assert type(Scale(np.int64(3), np.int64(1)).num_env_runners) is int
    for junk in (2.0, "2", None):
        with pytest.raises(ValueError, match="whole numbers"):
            read_scale({"num_env_runners": junk, "num_envs_per_env_runner": 1})


@pytest.mark.parametrize("junk", [{"num_learners": "all"}, {"_train_batch_size_per_learner": "auto"}, {"policies": 3}])
def test_unusual_configs_have_a_workload(junk):
    assert read_facts({**BASE, **junk}) != read_facts(BASE)
