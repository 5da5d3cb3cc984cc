"""Envs and learners of known cost."""

import time

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner


class SleepingEnv(gym.Env):
    """An env whose step only sleeps: its cost is the same on any machine, and it needs no core."""

    def __init__(self, config):
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self._step_s = config["step_s"]

    def reset(self, *, seed=None, options=None):
        return self.observation_space.low, {}

    def step(self, action):
        time.sleep(self._step_s)
        return self.observation_space.low, 0.0, False, False, {}


class SleepingLearner(PPOTorchLearner):
    """A PPO learner that sleeps for `learner_config_dict["update_s"]` in each update."""

    def update(self, *args, **kwargs):
        time.sleep(self.config.learner_config_dict["update_s"])
        return super().update(*args, **kwargs)
