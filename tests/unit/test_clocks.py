"""Clocks inside RLlib's timer blocks: of the phases of an iteration, and of an env runner's sampling."""

import random
import threading
import weakref
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
    """Samples like RLlib's env runner: inference, connectors, env step, connectors."""

    def __init__(self, step_s=1e-4, inference_s=2e-4, connectors_s=1e-4):
        super().__init__()
        self.wrapped = 0
        self.metrics, self.config, self.env = self, SimpleNamespace(), self.make_env()
        self.step_s, self.inference_s, self.connectors_s = step_s, inference_s, connectors_s
        self.clock = SamplingClock(self, clock=lambda: self.now, cpu_clock=lambda: self.now / 4)
        self.clock.watch(self.env)

    def make_env(self):
        return SimpleNamespace(step=self.advance, reset=self.advance)

    def advance(self, seconds):
        self.now += seconds
        return seconds

    def spend(self, key, seconds):
        self.wrapped += self.log_time.__func__ is not Runner.log_time
        super().spend(key, seconds)

    def step(self, env_step_s):
        self.spend("rlmodule_inference_timer", self.inference_s)
        self.spend(("module_to_env", "timers", "connector"), self.connectors_s / 2)
        assert self.env.step(env_step_s) == env_step_s
        self.spend(("env_to_module", "timers", "connector"), self.connectors_s / 2)

    def sample(self, steps, step_s=None):
        with self.log_time("sample"):
            for _ in range(steps):
                self.step(self.step_s if step_s is None else step_s())
            return self.clock.take()


def test_steps_are_timed_and_no_timer_is_wrapped_during_a_sample():
    runner = Runner()
    seconds = runner.sample(10_000)
    assert seconds == pytest.approx({"busy": 4.0, "reset": 0.0, "cpu": 1.0, "env_step": 1.0})
    assert runner.wrapped == 0
    assert len(runner.logged) == 1 + 3 * 10_000, "RLlib's metrics are unchanged"
    assert runner.clock.take() == {}, "a sample without its start is unknown"


def test_steps_of_any_length_and_of_an_env_that_is_made_anew_count():
    runner, count = Runner(), iter(range(10**6))
    runner.env = runner.make_env()
    runner.clock.watch(runner.env)
    assert runner.sample(2000, lambda: 4e-3 if next(count) % 4 == 0 else 1e-3)["env_step"] == pytest.approx(2000 * 1.75e-3)


def test_a_sample_that_failed_does_not_count():
    runner = Runner(connectors_s=0.0)
    with suppress(ZeroDivisionError), runner.log_time("sample"):
        for _ in range(20):
            runner.step(1.0)
        raise ZeroDivisionError
    runner.env.step(5.0)  # by a callback, between samples
    with runner.log_time("sample"):
        runner.now += 0.1
        for _ in range(1000):
            runner.step(1e-4)
        seconds = runner.clock.take()
    assert (seconds["busy"], seconds["env_step"]) == pytest.approx((0.1 + 0.3, 0.1))


@pytest.mark.parametrize(("num_envs", "reset_s"), [(1, 2.0), (4, 2.0), (4, 1e-4), (64, 0.01)])  # 64: each step resets some
def test_resets_within_steps_are_measured(num_envs, reset_s):
    # As in Gymnasium's vectorised envs, the step after an episode's last one resets the env. Each episode has another length.
    runner = Runner()
    lengths, left = random.Random(3), [50] * num_envs
    resets, found, stepped = 0, 0.0, 0.0
    for _ in range(20):
        with runner.log_time("sample"):
            for _ in range(500):
                ended = [env for env in range(num_envs) if left[env] == 0]
                resets += len(ended)
                runner.step(1e-4 + reset_s * len(ended))
                for env in range(num_envs):
                    left[env] = lengths.randrange(20, 100) if env in ended else left[env] - 1
                    if left[env] == 0:
                        runner.clock.count_episode_end()
            seconds = runner.clock.take()
            found, stepped = found + seconds["reset"], stepped + seconds["env_step"]
    assert resets > 100
    assert (found, stepped) == pytest.approx((resets * reset_s, 20 * 500 * 1e-4))


def test_a_reset_of_all_envs_is_measured_and_is_no_step():
    # With batch_mode="complete_episodes", each sample begins with one.
    runner = Runner()
    for _ in range(3):
        with runner.log_time("sample"):
            runner.env.reset(0.5)
            for _ in range(100):
                runner.step(0.001)
            runner.clock.count_episode_end()  # these episodes end with the sample
            seconds = runner.clock.take()
    assert seconds["reset"] == pytest.approx(0.5)
    assert seconds["busy"] == pytest.approx(0.5 + 100 * 0.0013)


def test_an_env_that_is_timed_is_freed_at_once_and_what_others_set_on_it_is_called():
    class Env:
        def step(self, actions):
            raise AssertionError

        def reset(self):
            return "reset"

    env, runner = Env(), Runner()
    env.step = Other().step  # which nothing else keeps alive
    runner.clock.watch(env)
    assert (env.step("actions"), env.reset()) == ("actions", "reset")
    freed = weakref.ref(env)
    del env
    assert freed() is None


class Other:
    def step(self, actions):
        return actions
