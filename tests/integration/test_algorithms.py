"""`result["scaling"]` in real training: algorithms, both API stacks, multi-agent, learners, offline data, baselines."""

import math
from functools import partial
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.env.multi_agent_env import make_multi_agent
from tuning import checked, flat, off_policy, on_the_old_stack, tiny, tiny_ppo, train, warnings_of

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.schema import KEYS
from rl_scaling_callback.rllib.threads import learner_threads, set_learner_threads

pytestmark = pytest.mark.usefixtures("cluster")

BATCH = 96
UNKNOWN = {key.name: key.unknown for key in KEYS}


def ppo(**scale):
    return tiny_ppo(**scale).callbacks(ScalingCallback)


def old(**scale):
    return on_the_old_stack(ppo(**scale))


def asynchronous(config):
    """APPO or IMPALA with iterations of a second, which can't be tuned."""
    config = tiny(config).training(train_batch_size_per_learner=BATCH).reporting(min_time_s_per_iteration=1)
    # On few cores, the algorithm's busy loop starves the processes it waits for.
    config.timeout_s_sampler_manager = 0.1
    config.use_env_runner_state_server = False
    return config.callbacks(partial(ScalingCallback, autotune=True))


def replaying(config, env="CartPole-v1", runners=1):
    """SAC or DQN with iterations of 16 env steps, the first of which doesn't learn."""
    return off_policy(config, env, runners=runners).reporting(min_sample_timesteps_per_iteration=16).callbacks(ScalingCallback)


IN_THIS_PROCESS = {"runners": np.int64(0), "envs": np.int64(3)}
ALGORITHMS = {
    "PPO in this process": lambda: ppo(**IN_THIS_PROCESS),
    "PPO on the old stack": lambda: old(**IN_THIS_PROCESS),
    "IMPALA": lambda: asynchronous(IMPALAConfig()),
    "SAC": lambda: replaying(SACConfig(), "Pendulum-v1", runners=0),
    "DQN": lambda: replaying(DQNConfig()),
}
SLOW = {"APPO": lambda: asynchronous(APPOConfig())}


def by_rllib(results):
    """RLlib's own counts of env steps, from its lifetime counter: the only one that the old stack always has."""
    lifetimes = [
        result.get("num_env_steps_sampled", result.get("env_runners", {}).get("num_env_steps_sampled_lifetime", 0))
        for result in results
    ]
    return [after - before for before, after in pairwise([0.0, *lifetimes])]


def check(results):
    for result, env_steps in zip(results, by_rllib(results), strict=True):
        checked(result, env_steps)


@pytest.mark.parametrize("name", [*ALGORITHMS, *(pytest.param(name, marks=pytest.mark.release) for name in SLOW)])
def test_first_iterations(name, caplog):
    config = (ALGORITHMS | SLOW)[name]()
    results = train(config, 6)  # the first of an asynchronous algorithm may sample nothing
    check(results)
    assert sum(flat(result)["sps"] > 0 for result in results) >= 3
    for result in results:
        assert (flat(result)["parallelism"], flat(result)["exclusive"]) == (config.num_envs_per_env_runner, 1.0)
    not_tuned = [text for text in warnings_of(caplog) if "autotune leaves this trial as configured" in text]
    assert ["overlaps learning" in text for text in not_tuned] == [True] * (name in ("IMPALA", "APPO"))


def agent_steps(results):
    """Return all agents' steps in all results, as counted by RLlib."""
    if "num_agent_steps_sampled" in results[-1]:  # the old stack's lifetime counter
        return results[-1]["num_agent_steps_sampled"]
    return sum(sum(result["env_runners"]["num_agent_steps_sampled"].values()) for result in results)


@pytest.mark.parametrize("config", [ppo, old])
def test_multi_agent_counts_env_steps(config):
    everyone = {"policies": {"shared"}, "policy_mapping_fn": lambda *args, **kwargs: "shared"}
    team = config(env=make_multi_agent("CartPole-v1"), runners=0).environment(env_config={"num_agents": 3})
    results = train(team.multi_agent(count_steps_by="agent_steps", **everyone), 2)
    check(results)
    assert 0 < sum(by_rllib(results)) < agent_steps(results) / 1.5


def test_two_learners_update_with_the_threads_that_are_set(built):
    algorithm = built(ppo(runners=0).learners(num_learners=2))
    before = int(learner_threads(algorithm))
    set_learner_threads(algorithm, before + 1)
    check([algorithm.train() for _ in range(3)])
    found = algorithm.learner_group.foreach_learner(lambda learner: torch.get_num_threads())
    assert [each.get() for each in found] == [before + 1] * 2
    set_learner_threads(algorithm, before)
    assert learner_threads(algorithm) == before


def test_without_any_baseline_sps_only_and_one_hint(caplog):
    for result in train(ppo(runners=0).callbacks(partial(ScalingCallback, probe=False)), 3):
        scaling = flat(result)
        assert scaling["sps"] > 0
        assert all(math.isnan(scaling[name]) for name in ("baseline_sps", "speedup", "efficiency", "gap", "loss/total"))
        assert (scaling["band"], scaling["is_baseline"]) == ("", 0.0)
    (line,) = warnings_of(caplog)
    assert "baseline_dir" in line
    assert "baseline_sps" in line


STEP = {"obs": [0.1] * 4, "new_obs": [0.2] * 4, "actions": 1, "rewards": 1.0, "agent_id": None, "module_id": None, "infos": "{}"}


@pytest.mark.slow
def test_offline_algorithm_trains_with_one_warning(tmp_path, caplog):
    """Four episodes of 25 steps in a Parquet file, as the new stack reads it with Ray Data."""
    steps = [
        STEP | {"eps_id": str(episode), "t": t, "terminateds": t == 24, "truncateds": False}
        for episode in range(4)
        for t in range(25)
    ]
    parquet.write_table(pa.Table.from_pylist(steps), tmp_path / "episodes.parquet")
    env = gym.make("CartPole-v1")
    config = tiny(BCConfig(), env=None, runners=0).training(train_batch_size_per_learner=32).callbacks(ScalingCallback)
    config.environment(observation_space=env.observation_space, action_space=env.action_space)
    config.offline_data(
        input_=[str(tmp_path)],
        input_read_method_kwargs={"override_num_blocks": 1},
        map_batches_kwargs={"concurrency": 1, "num_cpus": 0.1},
        dataset_num_iters_per_learner=1,
    )
    for result in train(config, 3):
        assert result["learners"]
        scaling = flat(result)
        assert scaling.keys() == UNKNOWN.keys()
        about_steps = ("sps", "env_steps", "baseline_sps", "speedup", "efficiency", "comparable", "loss/total", "steady/sps")
        assert {name: scaling[name] for name in (*about_steps, "band")} == pytest.approx(
            {name: UNKNOWN[name] for name in (*about_steps, "band")}, nan_ok=True
        )
    (warning,) = warnings_of(caplog)
    assert "offline" in warning
