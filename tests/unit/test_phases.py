import threading
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest

from rl_scaling_callback.rllib.clocks import PhaseClock


class Metrics:
    """A fake MetricsLogger that records what is logged."""

    def __init__(self):
        self.logged = []

    @contextmanager
    def log_time(self, key, **options):
        self.logged.append((key, options))
        yield "stats"


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def clock(now, metrics):
    clock = PhaseClock({"sampling": "sample", "update": "learn", "inner": "sync"}, clock=lambda: now[0])
    clock.watch(metrics)
    return clock


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


def spend(metrics, now, key, seconds):
    with metrics.log_time(key, window=3) as stats:
        assert (stats, metrics.logged[-1]) == ("stats", (key, {"window": 3})), "RLlib's metrics are unchanged"
        now[0] += seconds


def test_blocks_of_a_phase_add_up_until_taken(clock, metrics, now):
    for seconds in (1.0, 2.0):
        spend(metrics, now, ("timers", "sampling"), seconds)
        spend(metrics, now, ("timers", "update"), 0.5)
        now[0] += 10.0
    assert clock.take() == {"sample": 3.0, "learn": 1.0}
    assert clock.take() == {}


def test_nested_phases_count_for_the_innermost_only(clock, metrics, now):
    with metrics.log_time("sampling"):
        now[0] += 1.0
        assert clock.take() == {"sample": 1.0}, "up to now"
        with metrics.log_time(("timers", "unknown")):
            now[0] += 1.0
            spend(metrics, now, "inner", 4.0)
        now[0] += 1.0
    assert clock.take() == {"sample": 2.0, "sync": 4.0}


def test_failed_iteration_does_not_count_for_the_next(clock, metrics, now):
    with suppress(RuntimeError), metrics.log_time("sampling"):
        now[0] += 4.0
        raise RuntimeError
    clock.enter("sample")  # left open by an error
    now[0] += 1.0
    clock.start()
    now[0] += 1.0
    clock.leave("sample")
    spend(metrics, now, "sampling", 0.5)
    assert clock.take() == {"sample": 0.5}


def test_background_phase_counts_only_while_no_other_runs(now, metrics):
    clock = PhaseClock({"sampling": "sample", "evaluation": "evaluate"}, background=["evaluate"], clock=lambda: now[0])
    clock.watch(metrics)

    def train():
        with clock.block("other"):
            now[0] += 1.0
            spend(metrics, now, "sampling", 2.0)

    with metrics.log_time("evaluation"):
        in_thread(train)
        now[0] += 4.0
    assert clock.take() == {"other": 1.0, "sample": 2.0, "evaluate": 4.0}


@pytest.mark.parametrize(("beside", "known"), [(True, {"sample": 2.0}), (False, {"sample": 0.0, "learn": 2.0})])
def test_threads_count_one_after_another_but_not_in_parallel(clock, metrics, now, beside, known):
    with metrics.log_time("sampling"):
        if beside:
            in_thread(spend, metrics, now, "update", 2.0)
    if not beside:
        in_thread(spend, metrics, now, "update", 2.0)
    assert clock.take() == known


def test_asynchronous_work_counts_for_the_phase_that_started_it(metrics, now):
    clock = PhaseClock({"update": "learn"}, {"learn": lambda: now.__setitem__(0, now[0] + 3.0)}, clock=lambda: now[0])
    clock.watch(metrics)
    spend(metrics, now, "update", 1.0)
    assert clock.take() == {"learn": 4.0}


@pytest.mark.parametrize(
    ("config", "seconds"), [({}, {"sample": 1.0, "other": 1.0}), ({"broadcast_interval": 1}, {"other": 2.0})], ids=["PPO", "APPO"]
)
def test_merging_metrics_counts_as_sampling(metrics, now, config, seconds):
    hooks = pytest.importorskip("rl_scaling_callback.rllib.hooks", reason="needs Ray")
    metrics.aggregate = lambda stats, *, key: now.__setitem__(0, now[0] + 1.0)
    clock = PhaseClock({}, clock=lambda: now[0])
    hooks.watch_phases(SimpleNamespace(metrics=metrics, config=SimpleNamespace(**config)), clock)
    with clock.block("other"):
        metrics.aggregate([], key="env_runners")
        metrics.aggregate([], key="learners")
    assert clock.take() == seconds
