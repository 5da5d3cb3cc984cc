"""Clocks inside RLlib's timer blocks: of the phases of an iteration, and of an env runner's sampling."""

import random
import threading
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest

from rl_scaling_callback.rllib.clocks import PhaseClock, SamplingClock


class Metrics:
    """A fake MetricsLogger that records what is logged, and the time."""

    def __init__(self):
        self.now, self.logged = 0.0, []

    @contextmanager
    def log_time(self, key, **options):
        self.logged.append((key, options))
        yield "stats"

    def spend(self, key, seconds):
        with self.log_time(key, window=3) as stats:
            assert (stats, self.logged[-1]) == ("stats", (key, {"window": 3})), "RLlib's metrics are unchanged"
            self.now += seconds


# ---------------------------------------------------------------- phases


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def clock(metrics):
    phases = {"sampling": "sample", "update": "learn", "inner": "sync", "evaluation": "evaluate"}
    clock = PhaseClock(phases, background=["evaluate"], clock=lambda: metrics.now)
    clock.watch(metrics)
    return clock


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


def test_blocks_of_a_phase_add_up_until_taken_and_nested_ones_count_for_the_innermost(clock, metrics):
    for seconds in (1.0, 2.0):
        metrics.spend(("timers", "sampling"), seconds)
        metrics.spend(("timers", "update"), 0.5)
        metrics.now += 10.0
    assert clock.take() == {"sample": 3.0, "learn": 1.0}
    with metrics.log_time("sampling"):
        metrics.now += 1.0
        assert clock.take() == {"sample": 1.0}, "up to now"
        with metrics.log_time(("timers", "unknown")):
            metrics.now += 1.0
            metrics.spend("inner", 4.0)
        metrics.now += 1.0
    assert clock.take() == {"sample": 2.0, "sync": 4.0}
    assert clock.take() == {}


def test_failed_iteration_does_not_count_for_the_next(clock, metrics):
    with suppress(RuntimeError), metrics.log_time("sampling"):
        metrics.now += 4.0
        raise RuntimeError
    clock.enter("sample")  # left open by an error
    metrics.now += 1.0
    clock.start()
    metrics.now += 1.0
    clock.leave("sample")
    metrics.spend("sampling", 0.5)
    assert clock.take() == {"sample": 0.5}


def test_background_phase_counts_only_while_no_other_runs(clock, metrics):
    def train():
        with clock.block("other"):
            metrics.now += 1.0
            metrics.spend("sampling", 2.0)

    with metrics.log_time("evaluation"):
        in_thread(train)
        metrics.now += 4.0
    assert clock.take() == {"other": 1.0, "sample": 2.0, "evaluate": 4.0}


def test_threads_count_one_after_another_but_not_in_parallel(clock, metrics):
    with metrics.log_time("sampling"):
        in_thread(metrics.spend, "update", 2.0)
    in_thread(metrics.spend, "update", 1.0)
    assert clock.take() == {"sample": 2.0, "learn": 1.0}


def test_asynchronous_work_counts_for_the_phase_that_started_it(metrics):
    clock = PhaseClock({"update": "learn"}, {"learn": lambda: metrics.spend("GPU", 3.0)}, clock=lambda: metrics.now)
    clock.watch(metrics)
    metrics.spend("update", 1.0)
    assert clock.take() == {"learn": 4.0}


@pytest.mark.parametrize(
    ("config", "seconds"), [({}, {"sample": 1.0, "other": 1.0}), ({"broadcast_interval": 1}, {"other": 2.0})], ids=["PPO", "APPO"]
)
def test_merging_metrics_counts_as_sampling(metrics, config, seconds):
    hooks = pytest.importorskip("rl_scaling_callback.rllib.hooks", reason="needs Ray")
    metrics.aggregate = lambda stats, *, key: metrics.spend(key, 1.0)
    clock = PhaseClock({}, clock=lambda: metrics.now)
    hooks.watch_phases(SimpleNamespace(metrics=metrics, config=SimpleNamespace(**config)), clock)
    with clock.block("other"):
        metrics.aggregate([], key="env_runners")
        metrics.aggregate([], key="learners")
    assert clock.take() == seconds


# ---------------------------------------------------------------- sampling


class Runner(Metrics):
    """Samples like RLlib's env runner: inference, connectors, env step, connectors, then a callback per env."""

    def __init__(self, num_envs=1, step_s=0.001, inference_s=0.002, connectors_s=0.001):
        super().__init__()
        self.timed_steps = self.wrapped = 0
        self._random = random.Random(1)
        self.num_envs, self.metrics, self.config = num_envs, self, SimpleNamespace()
        self.step_s, self.inference_s, self.connectors_s = step_s, inference_s, connectors_s
        self.clock = SamplingClock(self, clock=lambda: self.now, cpu_clock=lambda: self.now / 4, draw=self.draw)

    def draw(self, low, high):
        # Drawn at the end of each timed step: the number of steps until the next one.
        self.timed_steps += 1
        return self._random.randrange(low, high)

    def spend(self, key, seconds):
        self.wrapped += self.log_time.__func__ is not Runner.log_time
        super().spend(key, seconds)

    def step(self, env_step_s):
        self.spend("rlmodule_inference_timer", self.inference_s)
        self.spend(("module_to_env", "timers", "connector"), self.connectors_s / 2)
        self.spend(("timers", "env_step_timer"), env_step_s)
        self.spend(("env_to_module", "timers", "connector"), self.connectors_s / 2)

    def count_env_steps(self):
        for _ in range(self.num_envs):
            self.clock.count_env_step()

    def sample(self, steps, step_s=None):
        with self.log_time("sample"):
            for _ in range(steps):
                self.step(self.step_s if step_s is None else step_s())
                self.count_env_steps()
            return self.clock.take()


@pytest.mark.parametrize("num_envs", [1, 4])  # which take one step together
def test_fast_steps_are_extrapolated_from_a_few_and_the_others_are_not_wrapped(num_envs):
    runner = Runner(num_envs, step_s=1e-4, inference_s=2e-4, connectors_s=1e-4)
    runner.sample(1000)
    runner.timed_steps = runner.wrapped = 0
    seconds = runner.sample(10_000)
    assert seconds == pytest.approx({"busy": 4.0, "reset": 0.0, "cpu": 1.0, "env_step": 1.0, "inference": 2.0})
    assert 150 < runner.timed_steps < 250, "once in 20 ms of 4 s"
    assert runner.wrapped < 4 * 260
    assert len(runner.logged) == 2 + 4 * 11_000, "RLlib's metrics are unchanged"
    assert runner.clock.take() == {}, "a sample without its start is unknown"


def test_estimate_is_unbiased():
    # Every fourth step is slow: timing steps at fixed intervals would be biased.
    runner = Runner(inference_s=0.0, connectors_s=0.0)
    count = iter(range(10**6))
    seconds = [runner.sample(2000, lambda: 4e-3 if next(count) % 4 == 0 else 1e-3)["env_step"] for _ in range(20)]
    assert sum(seconds) == pytest.approx(20 * 2000 * 1.75e-3, rel=0.05)


@pytest.mark.parametrize(("num_envs", "reset_s"), [(1, 2.0), (4, 2.0), (4, 1e-4)])
def test_resets_are_measured_even_if_steps_are_too_fast_to_time_all(num_envs, reset_s):
    # As in Gymnasium's vectorised envs, the step after an episode's last one resets the env. Each episode has another length.
    runner = Runner(num_envs, step_s=1e-4, inference_s=1e-4, connectors_s=1e-4)
    lengths, left = random.Random(3), [50] * num_envs
    resets, found = 0, 0.0
    for _ in range(20):
        with runner.log_time("sample"):
            for _ in range(500):
                ended = [env for env in range(num_envs) if left[env] == 0]
                resets += len(ended)
                runner.step(1e-4 + reset_s * len(ended))
                for env in range(num_envs):
                    runner.clock.count_env_step()
                    left[env] = lengths.randrange(20, 100) if env in ended else left[env] - 1
                    if left[env] == 0:
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
            runner.count_env_steps()
            for _ in range(100):
                runner.step(0.001)
                runner.count_env_steps()
            runner.clock.count_episode_end()  # these episodes end with the sample
            seconds = runner.clock.take()
    assert seconds["reset"] == pytest.approx(0.5)
    assert seconds["busy"] == pytest.approx(0.5 + 100 * 0.004)
