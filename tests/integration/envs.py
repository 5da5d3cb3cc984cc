"""Envs and learners with known costs."""

import os
import time
import uuid
from pathlib import Path

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner


class CostlyEnv(gym.Env):
    """An env with the costs in its config and no others, on any machine.

    Config:
        step_s: sleep in each step.
        slow_worker, slow_step_s: additional sleep in each step, in the env runner of this index.
        burn_s: CPU time used by each step.
        core: the only core that the env runner may use.
        pickle_s: sleep when a sample is pickled in the env runner.
        quiet_s: minimum time between two samples.
    """

    def __init__(self, config):
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self._step_s = config.get("step_s", 0.0)
        if config.get("slow_worker") == config.worker_index:
            self._step_s += config["slow_step_s"]
        self._burn_s = config.get("burn_s", 0.0)
        self._pickle_s = config.get("pickle_s", 0.0)
        SlowToPickle.quiet_s = config.get("quiet_s", 0.2)
        if "core" in config and config.worker_index > 0:
            os.sched_setaffinity(0, {config["core"]})

    def reset(self, *, seed=None, options=None):
        return self.observation_space.low, {}

    def step(self, action):
        if self._step_s:
            time.sleep(self._step_s)
        if self._burn_s:
            until = time.thread_time() + self._burn_s
            while time.thread_time() < until:
                pass
        return self.observation_space.low, 0.0, False, False, {"slow": SlowToPickle(self._pickle_s)} if self._pickle_s else {}


class SlowToReset(CostlyEnv):
    """An env with episodes of `episode_steps` steps, each of whose resets but the first takes `reset_s`."""

    is_first = True

    def __init__(self, config):
        super().__init__(config)
        self._reset_s, self._episode_steps = config["reset_s"], config["episode_steps"]

    def reset(self, **options):
        time.sleep(0.0 if self.is_first else self._reset_s)
        self.is_first, self._steps = False, 0
        return super().reset(**options)

    def step(self, action):
        self._steps += 1
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self._steps % self._episode_steps == 0, info


class SlowToPickle:
    """Sleeps when pickled, at most once per `quiet_s` seconds: a sample contains one instance per step but is pickled once."""

    last = 0.0
    quiet_s = 0.2

    def __init__(self, seconds):
        self.seconds = seconds

    def __reduce__(self):
        if time.monotonic() - SlowToPickle.last > self.quiet_s:
            time.sleep(self.seconds)
        SlowToPickle.last = time.monotonic()
        return SlowToPickle, (self.seconds,)


class SleepingLearner(PPOTorchLearner):
    """A PPO learner that sleeps for `learner_config_dict["update_s"]` in each update."""

    def update(self, *args, **kwargs):
        time.sleep(self.config.learner_config_dict["update_s"])
        return super().update(*args, **kwargs)


class Simulator(CostlyEnv):
    """An env with an external resource until it is closed: a file in `folder`, named after the process."""

    def __init__(self, config):
        super().__init__(config)
        self._file = Path(config["folder"]) / f"{os.getpid()}-{uuid.uuid4().hex}"
        self._file.touch()

    def close(self):
        self._file.unlink(missing_ok=True)
