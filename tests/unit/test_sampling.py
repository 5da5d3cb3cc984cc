import random
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from rl_scaling_callback.rllib.clocks import SamplingClock


class Runner:
    """Samples like RLlib's env runner: inference, connectors, env step, connectors, then a callback per env."""

    def __init__(self, num_envs=1, step_s=0.001, inference_s=0.002, connectors_s=0.001):
        self.now = 0.0
        self.blocks = self.timed_steps = 0
        self._random = random.Random(1)
        self.num_envs, self.metrics, self.config = num_envs, self, SimpleNamespace()
        self.step_s, self.inference_s, self.connectors_s = step_s, inference_s, connectors_s
        self.clock = SamplingClock(
            self,
            clock=lambda: self.now,
            cpu_clock=lambda: self.now / 4,
            draw=self.draw,
        )

    def draw(self, low, high):
        # Drawn at the end of each timed step: the number of steps until the next one.
        self.timed_steps += 1
        return self._random.randrange(low, high)

    @contextmanager
    def log_time(self, key, **options):
        self.blocks += 1
        yield "stats"

    def spend(self, timer, seconds):
        with self.log_time(timer, window=1) as stats:
            assert stats == "stats"
            self.now += seconds

    def sample(self, steps, step_s=None):
        with self.log_time("sample"):
            for _ in range(steps):
                self.spend("rlmodule_inference_timer", self.inference_s)
                self.spend(("module_to_env", "timers", "connector"), self.connectors_s / 2)
                self.spend(("timers", "env_step_timer"), self.step_s if step_s is None else step_s())
                self.spend(("env_to_module", "timers", "connector"), self.connectors_s / 2)
                for _ in range(self.num_envs):
                    self.clock.count_env_step()
            return self.clock.take()


def test_fast_steps_are_extrapolated_from_a_few():
    runner = Runner(step_s=1e-4, inference_s=2e-4, connectors_s=1e-4)
    runner.sample(1000)
    before = runner.timed_steps
    seconds = runner.sample(10_000)
    assert seconds == pytest.approx({"busy": 4.0, "reset": 0.0, "cpu": 1.0, "env_step": 1.0, "inference": 2.0})
    assert 150 < runner.timed_steps - before < 250, "once in 20 ms of 4 s"


def test_other_steps_are_not_wrapped():
    runner = Runner(step_s=1e-5, inference_s=0.0, connectors_s=0.0)
    own = type(runner).log_time
    runner.sample(100)
    touched = 0
    with runner.log_time("sample"):
        for _ in range(10_000):
            touched += getattr(runner.log_time, "__func__", None) is not own
            runner.spend("env_step_timer", 1e-5)
            runner.clock.count_env_step()
    assert 0 < touched < 30


def test_estimate_is_unbiased():
    # Every fourth step is slow: timing steps at fixed intervals would be biased.
    runner = Runner(inference_s=0.0, connectors_s=0.0)
    count = iter(range(10**6))
    seconds = [runner.sample(2000, lambda: 4e-3 if next(count) % 4 == 0 else 1e-3)["env_step"] for _ in range(20)]
    assert sum(seconds) == pytest.approx(20 * 2000 * 1.75e-3, rel=0.05)


def test_envs_of_a_runner_count_as_one_step_and_rllib_metrics_are_unchanged():
    runner = Runner(num_envs=4)
    for _ in range(3):
        seconds = runner.sample(200)
    parts = {"env_step": 200 * 0.001, "inference": 200 * 0.002, "reset": 0.0}
    assert seconds == pytest.approx({"busy": 200 * 0.004, "cpu": 200 * 0.001, **parts})
    assert runner.blocks == 3 * (1 + 200 * 4)


def test_sample_without_its_start_is_unknown():
    runner = Runner()
    assert runner.clock.take() == {}
    assert runner.sample(3)["busy"] > 0
    assert runner.clock.take() == {}


@pytest.mark.parametrize(("num_envs", "reset_s"), [(1, 2.0), (4, 2.0), (4, 1e-4)])
def test_resets_are_measured_even_if_steps_are_too_fast_to_time_all(num_envs, reset_s):
    # As in Gymnasium's vectorised envs, the step after an episode's last one resets the env. Each episode has another length.
    runner = Runner(num_envs, step_s=1e-4, inference_s=1e-4, connectors_s=1e-4)
    lengths, left, has_ended = random.Random(3), [50] * num_envs, [False] * num_envs
    resets, found = 0, 0.0
    for _ in range(20):
        with runner.log_time("sample"):
            for _ in range(500):
                now = sum(has_ended)
                resets += now
                runner.spend("rlmodule_inference_timer", 1e-4)
                runner.spend("env_step_timer", 1e-4 + reset_s * now)
                runner.spend("connector", 1e-4)
                for env in range(num_envs):
                    if has_ended[env]:
                        runner.clock.count_env_step()
                        has_ended[env], left[env] = False, lengths.randrange(20, 100)
                        continue
                    runner.clock.count_env_step()
                    left[env] -= 1
                    if left[env] == 0:
                        has_ended[env] = True
                        runner.clock.count_episode_end()
            found += runner.clock.take()["reset"]
    assert resets > 100
    assert found == pytest.approx(resets * reset_s, rel=0.05)


def test_a_reset_of_all_envs_is_measured_and_is_no_step():
    # With batch_mode="complete_episodes", each sample begins with one.
    runner = Runner(num_envs=2)
    for _ in range(3):
        with runner.log_time("sample"):
            runner.spend("env_reset_timer", 0.5)
            for _ in range(2):
                runner.clock.count_env_step()
            for _ in range(100):
                runner.spend("rlmodule_inference_timer", 0.002)
                runner.spend("env_step_timer", 0.001)
                for _ in range(2):
                    runner.clock.count_env_step()
            runner.clock.count_episode_end()  # these episodes end with the sample
            seconds = runner.clock.take()
    assert seconds["reset"] == pytest.approx(0.5)
    assert seconds["busy"] == pytest.approx(0.5 + 100 * 0.003)
