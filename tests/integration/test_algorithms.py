"""`result["scaling"]` in real training: algorithms, both API stacks, multi-agent, learners, callbacks, offline data, baselines."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")
pytest.importorskip("torch", reason="needs PyTorch")

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.multi_agent_env import make_multi_agent
from tuning import run, warnings_of

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.schema import KEYS

pytestmark = pytest.mark.usefixtures("cluster")

NAMES = {key.name for key in KEYS}
TEXTS = {key.name for key in KEYS if key.unit == "text"}
BATCH = 96

Result = dict[str, Any]
Flat = Callable[[Result], dict[str, Any]]


# ---------------------------------------------------------------- tiny configs


def tiny(config: AlgorithmConfig, *, env: Any = "CartPole-v1", runners: int = 1, envs: int = 1) -> AlgorithmConfig:
    """The new API stack, with a tiny model and fractional CPUs."""
    return (
        config.environment(env)
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=envs, num_cpus_per_env_runner=0.1)
        .learners(num_cpus_per_learner=0.1)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .callbacks(ScalingCallback)
    )


def ppo(**scale: Any) -> AlgorithmConfig:
    return tiny(PPOConfig(), **scale).training(train_batch_size_per_learner=BATCH, minibatch_size=BATCH // 2, num_epochs=1)


def ppo_on_the_old_stack(*, env: Any = "CartPole-v1", runners: int = 1, envs: int = 1) -> AlgorithmConfig:
    return (
        PPOConfig()
        .api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
        .environment(env)
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=envs, num_cpus_per_env_runner=0.1)
        .training(train_batch_size=BATCH, minibatch_size=BATCH // 2, num_epochs=1, model={"fcnet_hiddens": [8]})
        .callbacks(ScalingCallback)
    )


def asynchronous(config: AlgorithmConfig) -> AlgorithmConfig:
    """APPO or IMPALA with iterations of a given duration."""
    config = tiny(config).training(train_batch_size_per_learner=BATCH).reporting(min_time_s_per_iteration=1)
    # On few cores, the algorithm's busy loop starves the processes it waits for.
    config.timeout_s_sampler_manager = 0.1
    config.use_env_runner_state_server = False
    return config


def off_policy(config: AlgorithmConfig, env: str) -> AlgorithmConfig:
    """SAC or DQN, with one iteration before learning starts."""
    return (
        tiny(config, env=env)
        .env_runners(rollout_fragment_length=16)
        .training(train_batch_size_per_learner=16, num_steps_sampled_before_learning_starts=48)
        .reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=32)
    )


IN_THIS_PROCESS = {"runners": np.int64(0), "envs": np.int64(3)}
ALGORITHMS: dict[str, Callable[[], AlgorithmConfig]] = {
    "PPO": ppo,
    "PPO in this process": lambda: ppo(**IN_THIS_PROCESS),
    "PPO with two learners": lambda: ppo(runners=0).learners(num_learners=2),
    "APPO": lambda: asynchronous(APPOConfig()),
    "IMPALA": lambda: asynchronous(IMPALAConfig()),
    "SAC": lambda: off_policy(SACConfig(), "Pendulum-v1").env_runners(num_env_runners=0),
    "DQN": lambda: off_policy(DQNConfig(), "CartPole-v1"),
    "PPO on the old stack": lambda: ppo_on_the_old_stack(**IN_THIS_PROCESS),
}


# ---------------------------------------------------------------- RLlib's own counts


class Steps(NamedTuple):
    """RLlib's own counts of env steps; the old stack has per-iteration counts only if it counts by env steps."""

    iteration: float | None
    lifetime: float


def steps(result: Result) -> Steps:
    if "num_env_steps_sampled" in result:  # the old stack
        return Steps(result.get("num_env_steps_sampled_this_iter"), result["num_env_steps_sampled"])
    runners = result.get("env_runners", {})
    return Steps(runners.get("num_env_steps_sampled", 0), runners.get("num_env_steps_sampled_lifetime", 0))


def per_iteration(results: list[Result]) -> list[float]:
    """Each iteration's env steps by RLlib's lifetime counter, the only one that the old stack always has."""
    return [after - before for before, after in pairwise([0.0, *(steps(result).lifetime for result in results)])]


def sampled(results: list[Result], flat: Flat) -> list[float]:
    return [flat(result)["env_steps"] for result in results]


def train(config: AlgorithmConfig, iterations: int = 2) -> list[Result]:
    """Train in a plain loop until `iterations` iterations have sampled; the first of an asynchronous algorithm may not."""
    algorithm = config.build_algo()
    results: list[Result] = []
    try:
        while sum(steps(result).iteration != 0 for result in results) < iterations:
            assert len(results) < 20 + iterations, "no env steps arrive"
            results.append(algorithm.train())
    finally:
        algorithm.stop()
    return results


def check_schema(scaling: dict[str, Any]) -> None:
    """Exactly the schema's keys, plain types, nothing infinite."""
    assert set(scaling) == NAMES
    types = {name: type(value) for name, value in scaling.items()}
    assert types == {name: str if name in TEXTS else float for name in NAMES}
    assert [name for name, value in scaling.items() if name not in TEXTS and math.isinf(value)] == []


def check_sps(results: list[Result], flat: Flat) -> None:
    """`sps` and `env_steps` of every result agree with RLlib's own counts and times."""
    for result in results:
        check_schema(flat(result))
        expected = steps(result).iteration
        assert flat(result)["env_steps"] == expected
        sps = expected / result["time_this_iter_s"] if expected else math.nan
        assert flat(result)["sps"] == pytest.approx(sps, rel=1e-9, nan_ok=True)


# ---------------------------------------------------------------- algorithms and API stacks


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "learners" in name else []) for name in ALGORITHMS]
)
def test_first_iterations(name: str, flat: Flat) -> None:
    config = ALGORITHMS[name]()
    results = train(config, iterations=3)
    assert results[0]["training_iteration"] == 1
    check_sps(results, flat)
    assert sum(flat(result)["sps"] > 0 for result in results) >= 3
    assert sampled(results, flat) == per_iteration(results)
    for result in results:
        assert (flat(result)["parallelism"], flat(result)["exclusive"]) == (config.num_envs_per_env_runner, 1.0)


@pytest.mark.parametrize("config", [ppo, ppo_on_the_old_stack])
def test_multi_agent_counts_env_steps(config: Callable[..., AlgorithmConfig], flat: Flat) -> None:
    everyone = {"policies": {"shared"}, "policy_mapping_fn": lambda *args, **kwargs: "shared"}
    team = config(env=make_multi_agent("CartPole-v1"), runners=0).environment(env_config={"num_agents": 3})
    results = train(team.multi_agent(count_steps_by="agent_steps", **everyone))
    assert sampled(results, flat) == per_iteration(results)
    assert 0 < sum(sampled(results, flat)) < 2 * BATCH / 1.5, "a batch has as many agent steps, of three agents"


# ---------------------------------------------------------------- ways to pass the callback


class Before(RLlibCallback):
    """Another callback in the list: records what it sees, in the Algorithm and in the env runners."""

    def on_algorithm_init(self, *, algorithm: Algorithm, **kwargs: Any) -> None:
        self.initialised = True

    def on_sample_end(self, *, metrics_logger: Any = None, **kwargs: Any) -> None:
        if metrics_logger is not None:
            metrics_logger.log_value(f"samples seen by {type(self).__name__}", 1, reduce="sum")

    def on_train_result(self, *, result: Result, **kwargs: Any) -> None:
        result[type(self).__name__] = {"initialised": self.initialised, "scaling": "scaling" in result}


class After(Before):
    pass


def test_list_of_callbacks(flat: Flat) -> None:
    for result in train(ppo().callbacks([Before, ScalingCallback, After])):
        assert flat(result)["sps"] > 0
        assert result["Before"] == {"initialised": True, "scaling": False}
        assert result["After"] == {"initialised": True, "scaling": True}
        for name in ("Before", "After"):
            assert result["env_runners"][f"samples seen by {name}"] > 0


def test_dict_as_config_in_a_tuner(tmp_path: Path, flat: Flat) -> None:
    space = {
        "env": "CartPole-v1",
        "callbacks": functools.partial(ScalingCallback, baseline_sps=1000.0),
        "num_env_runners": 0,
        "train_batch_size_per_learner": BATCH,
        "minibatch_size": BATCH // 2,
        "num_epochs": 1,
    }
    (result,) = run(tmp_path, space, stop=2, callbacks=None)
    assert result.error is None
    check_sps([result.metrics], flat)
    scaling = flat(result.metrics)
    assert (scaling["baseline_sps"], scaling["is_baseline"]) == (1000.0, 0.0)
    assert scaling["efficiency"] == pytest.approx(scaling["sps"] / 10)


# ---------------------------------------------------------------- offline


def record_episodes(directory: Path) -> None:
    """Write four episodes of CartPole as Parquet, as the new stack reads it with Ray Data."""
    import pyarrow as pa
    from pyarrow import parquet

    env, rows = gym.make("CartPole-v1"), []
    for episode in range(4):
        observation, _ = env.reset(seed=episode)
        ends, t = False, 0
        while not ends:
            action = int(observation[2] > 0)
            following, reward, terminated, truncated, _ = env.step(action)
            step = {"eps_id": str(episode), "t": t, "obs": observation.tolist(), "new_obs": following.tolist(), "actions": action}
            step |= {"rewards": float(reward), "terminateds": terminated, "truncateds": truncated}
            rows.append({**step, "agent_id": None, "module_id": None, "infos": "{}"})
            observation, ends, t = following, terminated or truncated, t + 1
    parquet.write_table(pa.Table.from_pylist(rows), directory / "episodes.parquet")


NOT_ABOUT_STEPS = {
    "parallelism",
    "steady/iterations",
    "steady/converged",
    "is_baseline",
    "exclusive",
    "learner/threads",
    "learner/connectors",
} | {key.name for key in KEYS if key.name.startswith(("time/", "runners/", "account/", "cores/"))}


@pytest.mark.slow
def test_offline_algorithm_trains_with_one_warning(tmp_path: Path, flat: Flat, caplog: pytest.LogCaptureFixture) -> None:
    record_episodes(tmp_path)
    env = gym.make("CartPole-v1")
    config = tiny(BCConfig(), env=None, runners=0).training(train_batch_size_per_learner=32)
    config.environment(observation_space=env.observation_space, action_space=env.action_space)
    config.offline_data(
        input_=[str(tmp_path)],
        input_read_method_kwargs={"override_num_blocks": 1},
        map_batches_kwargs={"concurrency": 1, "num_cpus": 0.1},
        dataset_num_iters_per_learner=1,
    )
    algorithm = config.build_algo()
    results = [algorithm.train() for _ in range(3)]
    algorithm.stop()
    assert results[-1]["training_iteration"] == 3
    assert results[-1]["learners"]
    for result in results:
        check_schema(flat(result))
        known = {name for name, value in flat(result).items() if name not in TEXTS and not math.isnan(value)}
        assert known <= NOT_ABOUT_STEPS
        assert flat(result)["band"] == ""
    (warning,) = warnings_of(caplog)
    assert "offline" in warning


# ---------------------------------------------------------------- baselines outside Tune


def test_without_any_baseline_sps_only_and_one_hint(flat: Flat, caplog: pytest.LogCaptureFixture) -> None:
    for result in train(ppo(runners=0).callbacks(functools.partial(ScalingCallback, probe=False)), iterations=3):
        scaling = flat(result)
        assert scaling["sps"] > 0
        assert all(math.isnan(scaling[name]) for name in ("baseline_sps", "speedup", "efficiency", "gap", "loss/total"))
        assert scaling["band"] == ""
        assert scaling["is_baseline"] == 0.0
    (line,) = warnings_of(caplog)
    assert "baseline_dir" in line
    assert "baseline_sps" in line
