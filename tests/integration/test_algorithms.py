"""`result["scaling"]` in real training: algorithms, both API stacks, multi-agent, learners, evaluation, callbacks, baselines."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")
pytest.importorskip("torch", reason="needs PyTorch")

from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rl_scaling_callback import ScalingCallback, SteadyRule
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


ALGORITHMS: dict[str, Callable[[], AlgorithmConfig]] = {
    "PPO": ppo,
    "APPO": lambda: asynchronous(APPOConfig()),
    "IMPALA": lambda: asynchronous(IMPALAConfig()),
    "SAC": lambda: off_policy(SACConfig(), "Pendulum-v1"),
    "DQN": lambda: off_policy(DQNConfig(), "CartPole-v1"),
    "PPO on the old stack": ppo_on_the_old_stack,
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


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("rl_scaling_callback")]


# ---------------------------------------------------------------- algorithms and API stacks


@pytest.fixture(scope="module", params=list(ALGORITHMS))
def results(cluster: None, request: pytest.FixtureRequest) -> list[Result]:
    return train(ALGORITHMS[request.param](), iterations=3)


def test_every_key_is_a_plain_float_from_the_first_iteration_on(results: list[Result], flat: Flat) -> None:
    assert results[0]["training_iteration"] == 1
    for result in results:
        check_schema(flat(result))


def test_sps_is_this_iterations_env_steps_over_its_time(results: list[Result], flat: Flat) -> None:
    check_sps(results, flat)
    assert sum(flat(result)["sps"] > 0 for result in results) >= 3


def test_env_steps_match_the_lifetime_counter(results: list[Result], flat: Flat) -> None:
    lifetimes = [0.0, *(steps(result).lifetime for result in results)]
    assert [flat(result)["env_steps"] for result in results] == [after - before for before, after in pairwise(lifetimes)]


def test_one_runner_with_one_env_is_parallelism_1(results: list[Result], flat: Flat) -> None:
    assert [flat(result)["parallelism"] for result in results] == [1.0] * len(results)


def test_trial_alone_on_its_node_is_exclusive(results: list[Result], flat: Flat) -> None:
    assert [flat(result)["exclusive"] for result in results] == [1.0] * len(results)


def test_lifetime_counter_of_the_old_stack_is_not_used_per_iteration(flat: Flat) -> None:
    results = train(ppo_on_the_old_stack(runners=0), iterations=3)
    assert [result["num_env_steps_sampled"] for result in results] == [BATCH, 2 * BATCH, 3 * BATCH]  # the trap
    assert [flat(result)["env_steps"] for result in results] == [BATCH] * 3


# ---------------------------------------------------------------- scale, learners, multi-agent


@pytest.mark.parametrize("config", [ppo, ppo_on_the_old_stack])
@pytest.mark.parametrize(("runners", "envs", "parallelism"), [(0, 1, 1.0), (0, 3, 3.0), (2, 2, 4.0)])
def test_parallelism(config: Callable[..., AlgorithmConfig], runners: int, envs: int, parallelism: float, flat: Flat) -> None:
    results = train(config(runners=runners, envs=envs))
    check_sps(results, flat)
    assert [flat(result)["parallelism"] for result in results] == [parallelism] * 2


@pytest.mark.slow
def test_several_learners_count_the_env_steps_of_all(flat: Flat) -> None:
    results = train(ppo(runners=0).learners(num_learners=2))
    check_sps(results, flat)
    assert [flat(result)["env_steps"] for result in results] == [2 * BATCH] * 2


AGENTS = 3


class Team(MultiAgentEnv):
    """Three agents that act in every env step, for ten steps."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.agents = self.possible_agents = [f"agent_{number}" for number in range(AGENTS)]
        self.observation_spaces = dict.fromkeys(self.agents, gym.spaces.Box(-1.0, 1.0, (2,), np.float32))
        self.action_spaces = dict.fromkeys(self.agents, gym.spaces.Discrete(2))
        self.steps = 0

    def _each(self, value: Any) -> dict[str, Any]:
        return dict.fromkeys(self.agents, value)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.steps = 0
        return self._each(np.zeros(2, np.float32)), {}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        self.steps += 1
        end = {**self._each(self.steps == 10), "__all__": self.steps == 10}
        return self._each(np.zeros(2, np.float32)), self._each(1.0), end, dict.fromkeys(end, False), {}


def agent_steps(results: list[Result]) -> float:
    """All agents' steps in all results, as counted by RLlib."""
    if "num_agent_steps_sampled" in results[-1]:  # the old stack's lifetime counter
        return results[-1]["num_agent_steps_sampled"]
    return sum(sum(result["env_runners"]["num_agent_steps_sampled"].values()) for result in results)


@pytest.mark.parametrize("count_steps_by", ["env_steps", "agent_steps"])
@pytest.mark.parametrize("config", [ppo, ppo_on_the_old_stack])
def test_multi_agent_counts_env_steps(config: Callable[..., AlgorithmConfig], count_steps_by: str, flat: Flat) -> None:
    everyone = {"policies": {"shared"}, "policy_mapping_fn": lambda *args, **kwargs: "shared"}
    results = train(config(env=Team, runners=0).multi_agent(count_steps_by=count_steps_by, **everyone))
    lifetimes = [0.0, *(steps(result).lifetime for result in results)]
    expected = [after - before for before, after in pairwise(lifetimes)]
    assert [flat(result)["env_steps"] for result in results] == expected
    assert sum(expected) == agent_steps(results) / AGENTS > 0


# ---------------------------------------------------------------- evaluation


class SlowInEvaluation(gym.Env):
    """Episodes of ten steps that sleep for the time in the env's config."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, config: dict[str, Any]) -> None:
        self.sleep = config.get("sleep", 0.0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        time.sleep(self.sleep)
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, self.steps == 10, False, {}


def evaluated(config: AlgorithmConfig, **options: Any) -> AlgorithmConfig:
    """Two episodes of ten steps of 20 ms: evaluation takes at least 0.4 s."""
    slow = {"env_config": {"sleep": 0.02}, "num_cpus_per_env_runner": 0.1}
    return config.evaluation(evaluation_interval=1, evaluation_duration=2, evaluation_config=slow, **options)


@pytest.mark.parametrize("config", [ppo, ppo_on_the_old_stack])
def test_evaluation_time_is_measured_and_excluded_from_steady_figures(config: Callable[..., AlgorithmConfig], flat: Flat) -> None:
    untouched_by_warmup = functools.partial(ScalingCallback, steady=SteadyRule(warmup_iterations=0))
    results = train(evaluated(config(env=SlowInEvaluation, runners=0)).callbacks(untouched_by_warmup))
    check_sps(results, flat)
    for result in results:
        assert 0.4 <= flat(result)["time/evaluate"] < result["time_this_iter_s"]
    seconds = sum(result["time_this_iter_s"] - flat(result)["time/evaluate"] for result in results)
    assert flat(results[-1])["steady/sps"] == pytest.approx(sum(steps(result).iteration for result in results) / seconds)


def test_evaluation_interval_of_2_evaluates_every_other_iteration(flat: Flat) -> None:
    results = train(evaluated(ppo(env=SlowInEvaluation, runners=0)).evaluation(evaluation_interval=2), iterations=3)
    assert [flat(result)["time/evaluate"] > 0 for result in results] == [False, True, False]


# ---------------------------------------------------------------- ways to pass the callback


class Companion(RLlibCallback):
    """Another callback in the list: records what it sees, in the Algorithm and in the env runners."""

    def on_algorithm_init(self, *, algorithm: Algorithm, **kwargs: Any) -> None:
        self.initialised = True

    def on_sample_end(self, *, metrics_logger: Any = None, **kwargs: Any) -> None:
        if metrics_logger is not None:
            metrics_logger.log_value("companion_samples", 1, reduce="sum")

    def on_train_result(self, *, result: Result, **kwargs: Any) -> None:
        result["companion"] = {"initialised": self.initialised, "scaling": "scaling" in result}


@pytest.mark.parametrize("ours_first", [True, False])
def test_list_of_callbacks(ours_first: bool, flat: Flat) -> None:
    both = [ScalingCallback, Companion] if ours_first else [Companion, ScalingCallback]
    for result in train(ppo(runners=1 if ours_first else 0).callbacks(both)):
        check_schema(flat(result))
        assert flat(result)["sps"] > 0
        assert result["companion"] == {"initialised": True, "scaling": ours_first}
        assert result["env_runners"]["companion_samples"] > 0


def test_partial_with_options(flat: Flat) -> None:
    one_of_warmup = functools.partial(ScalingCallback, steady=SteadyRule(warmup_iterations=1))
    results = train(ppo(runners=0).callbacks(one_of_warmup), iterations=3)
    assert [flat(result)["steady/iterations"] for result in results] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("callbacks", "baseline_sps"),
    [
        (ScalingCallback, math.nan),
        (functools.partial(ScalingCallback, baseline_sps=1000.0), 1000.0),
    ],
    ids=["class", "partial"],
)
def test_dict_as_config_in_a_tuner(callbacks: Any, baseline_sps: float, tmp_path: Path, flat: Flat) -> None:
    space = {
        "env": "CartPole-v1",
        "callbacks": callbacks,
        "num_env_runners": 0,
        "train_batch_size_per_learner": BATCH,
        "minibatch_size": BATCH // 2,
        "num_epochs": 1,
    }
    run = tune.RunConfig(storage_path=str(tmp_path), stop={"training_iteration": 2}, verbose=0)
    (result,) = tune.Tuner("PPO", param_space=space, run_config=run).fit()
    assert result.error is None
    check_sps([result.metrics], flat)
    assert flat(result.metrics)["sps"] > 0
    assert flat(result.metrics)["baseline_sps"] == pytest.approx(baseline_sps, nan_ok=True)
    assert flat(result.metrics)["is_baseline"] == 0.0  # 0r×1e


# ---------------------------------------------------------------- offline


@pytest.fixture(scope="module")
def recorded() -> list[dict[str, Any]]:
    """Four episodes of CartPole."""
    env, rows = gym.make("CartPole-v1"), []
    for episode in range(4):
        observation, _ = env.reset(seed=episode)
        ends, t = False, 0
        while not ends:
            action = int(observation[2] > 0)
            following, reward, terminated, truncated, _ = env.step(action)
            rows.append(
                {
                    "eps_id": episode,
                    "t": t,
                    "obs": observation.tolist(),
                    "new_obs": following.tolist(),
                    "actions": action,
                    "rewards": float(reward),
                    "terminateds": terminated,
                    "truncateds": truncated,
                }
            )
            observation, ends, t = following, terminated or truncated, t + 1
    return rows


def bc(rows: list[dict[str, Any]], directory: Path) -> AlgorithmConfig:
    """The new stack reads Parquet with Ray Data."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = [{**row, "eps_id": str(row["eps_id"]), "agent_id": None, "module_id": None, "infos": "{}"} for row in rows]
    parquet.write_table(pa.Table.from_pylist(columns), directory / "episodes.parquet")
    return (
        tiny(BCConfig(), env=None, runners=0)
        .training(train_batch_size_per_learner=32)
        .offline_data(
            input_=[str(directory)],
            input_read_method_kwargs={"override_num_blocks": 1},
            map_batches_kwargs={"concurrency": 1, "num_cpus": 0.1},
            dataset_num_iters_per_learner=1,
        )
    )


def bc_on_the_old_stack(rows: list[dict[str, Any]], directory: Path) -> AlgorithmConfig:
    """The old stack reads JSON in its env runners and counts the steps it reads as sampled."""
    from ray.rllib.offline.json_writer import JsonWriter
    from ray.rllib.policy.sample_batch import SampleBatch

    writer = JsonWriter(str(directory))
    for episode in sorted({row["eps_id"] for row in rows}):
        steps = [row for row in rows if row["eps_id"] == episode]
        writer.write(SampleBatch({column: np.array([step[column] for step in steps]) for column in steps[0]}))
    return (
        BCConfig()
        .api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
        .env_runners(num_env_runners=0)
        .training(train_batch_size=32, model={"fcnet_hiddens": [8]})
        .offline_data(input_=str(directory))
        .callbacks(ScalingCallback)
    )


NOT_ABOUT_STEPS = {"parallelism", "steady/iterations", "steady/converged", "is_baseline", "exclusive"} | {
    key.name for key in KEYS if key.name.startswith(("time/", "runners/", "account/", "cores/"))
}


@pytest.mark.parametrize("config", [pytest.param(bc, marks=pytest.mark.slow), bc_on_the_old_stack])
def test_offline_algorithm_trains_with_one_warning(
    config: Callable[[list[dict[str, Any]], Path], AlgorithmConfig],
    recorded: list[dict[str, Any]],
    tmp_path: Path,
    flat: Flat,
    caplog: pytest.LogCaptureFixture,
) -> None:
    env = gym.make("CartPole-v1")
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    algorithm = config(recorded, tmp_path).environment(**spaces).build_algo()
    results = [algorithm.train() for _ in range(3)]
    algorithm.stop()
    assert results[-1]["training_iteration"] == 3
    assert results[-1].get("learners") or results[-1]["info"]["learner"]
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


def test_baseline_is_probed_by_default(flat: Flat, caplog: pytest.LogCaptureFixture) -> None:
    for result in train(ppo(runners=0, envs=2), iterations=2):
        assert flat(result)["baseline/source"] == "probe"
        assert flat(result)["speedup"] > 0
    assert not warnings_of(caplog)


def test_given_baseline(flat: Flat, caplog: pytest.LogCaptureFixture) -> None:
    for result in train(ppo(runners=0, envs=2).callbacks(functools.partial(ScalingCallback, baseline_sps=1000.0))):
        scaling = flat(result)
        speedup = steps(result).iteration / result["time_this_iter_s"] / 1000
        assert {
            name: scaling[name] for name in ("baseline_sps", "speedup", "efficiency", "gap", "serial_fraction")
        } == pytest.approx(
            {
                "baseline_sps": 1000.0,
                "speedup": speedup,
                "efficiency": speedup / 2 * 100,
                "gap": 2 - speedup,
                "serial_fraction": (1 / speedup - 1 / 2) / (1 - 1 / 2),
            },
            rel=1e-9,
        )
        assert scaling["loss/total"] == pytest.approx(100 - speedup / 2 * 100, rel=1e-9)
        assert scaling["band"] in {"perfect", "excellent", "good", "fair", "inefficient"}
        assert (scaling["is_baseline"], scaling["comparable"]) == (0.0, 1.0)
    (warning,) = warnings_of(caplog)
    assert "no time breakdown" in warning


def test_baseline_dir_is_used_in_the_next_run(tmp_path: Path, flat: Flat) -> None:
    rule = SteadyRule(warmup_iterations=0, min_iterations=2, max_iterations=2)
    at_once = functools.partial(ScalingCallback, baseline_dir=tmp_path, steady=rule)
    reference = [flat(result) for result in train(ppo(runners=1).callbacks(at_once))]
    assert [scaling["is_baseline"] for scaling in reference] == [1.0, 1.0]
    assert math.isnan(reference[0]["speedup"])
    assert reference[1]["baseline_sps"] == pytest.approx(reference[1]["steady/sps"], rel=1e-9)
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["steady"]["sps"] == pytest.approx(reference[1]["steady/sps"], rel=1e-9)

    for scaling in map(flat, train(ppo(runners=2).callbacks(at_once))):
        assert (scaling["is_baseline"], scaling["comparable"]) == (0.0, 1.0)
        assert scaling["baseline_sps"] == reference[1]["steady/sps"]
        assert scaling["speedup"] == pytest.approx(scaling["sps"] / scaling["baseline_sps"], rel=1e-9)
        assert scaling["efficiency"] == pytest.approx(scaling["speedup"] / 2 * 100, rel=1e-9)
    assert list(tmp_path.iterdir()) == [file]
