"""Twins of env runners, with fakes in place of RLlib's env runners."""

import copy
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from ray.rllib.connectors.common import AddObservationsFromEpisodesToBatch
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import MeanStdFilter

from rl_scaling_callback.rllib import twins


class Env(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    closed = False

    def close(self):
        self.closed = True


class Stateless(ConnectorV2):
    def __call__(self, **kwargs):
        return kwargs["batch"]


class Counter(Stateless):
    """Has state, but doesn't tell by `get_state`."""

    def __init__(self):
        super().__init__()
        self.calls = 0


class Runner:
    """An env runner made of given parts."""

    def __init__(self, env=None, module=None, connector=None):
        self.env = gym.vector.SyncVectorEnv([lambda: gym.wrappers.TimeLimit(env or Env(), 9)] * 2)
        self.module = module
        pieces = [AddObservationsFromEpisodesToBatch()] if connector is None else [connector]
        nested = ConnectorPipelineV2(Env.observation_space, Env.action_space, connectors=pieces)
        self._env_to_module = ConnectorPipelineV2(Env.observation_space, Env.action_space, connectors=[nested])

    def stop(self):
        if self.env is not None:
            self.env.close()


SHARED = {
    "env": {"env": Env()},
    "module": {"module": SimpleNamespace()},
    "connector": {"connector": MeanStdFilter()},
    "connector counter": {"connector": Counter()},
}


@pytest.mark.parametrize(("part", "shared"), SHARED.items(), ids=SHARED)
def test_shared_object_with_state_is_found(part, shared):
    original, twin = Runner(**shared), Runner(**shared)
    assert part in twins._shared_state(original, twin).lower()
    twin.stop()
    del twin  # gymnasium closes vector envs then
    if part == "env":
        assert not shared["env"].closed


def test_module_of_a_multi_agent_env_runner_is_found():
    policy = SimpleNamespace()
    original, twin = (Runner(module=SimpleNamespace(_rl_modules={"policy": policy})) for _ in range(2))
    assert twins._shared_state(original, twin) == "the RLModule SimpleNamespace"


@pytest.mark.parametrize("shared", [{}, {"connector": AddObservationsFromEpisodesToBatch()}, {"connector": Stateless()}])
def test_twin_that_shares_no_state(shared):
    assert twins._shared_state(Runner(**shared), Runner(**shared)) == ""


def test_twin_gets_copies_of_all_states():
    state = {"rl_module": {"counts": [1]}, "env_to_module_connector": {"sums": [2]}, "weights_seq_no": 3}
    given = {}
    twins._copy_state(SimpleNamespace(get_state=lambda: state), SimpleNamespace(set_state=given.update))
    given["rl_module"]["counts"].append(0)
    given["env_to_module_connector"]["sums"].append(0)
    assert state == {"rl_module": {"counts": [1]}, "env_to_module_connector": {"sums": [2]}, "weights_seq_no": 3}
    assert "weights_seq_no" not in given


def test_copies_of_an_env_config_share_large_arrays_only():
    large, small = np.zeros(2**20, np.uint8), np.zeros(8)
    objects = np.full(2**20, None)
    config = {"large": large, "small": small, "objects": objects, "nested": [{"also": (large, [])}], "text": "a"}
    config["itself"] = config
    copied = copy.deepcopy(copy.deepcopy(twins._SharedData(config)))
    assert copied["text"] == "a"
    for array in (copied["large"], copied["nested"][0]["also"][0]):
        assert np.shares_memory(array, large)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    large[0] = 1  # the original stays writeable
    copied["small"][0] = 1
    copied["nested"][0]["also"][1].append(1)
    assert small[0] == 0
    assert config["nested"][0]["also"][1] == []
    assert not np.shares_memory(copied["objects"], objects)
