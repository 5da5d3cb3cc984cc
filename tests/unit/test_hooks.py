"""Hooks into an Algorithm: what they wrap behaves as before."""

import functools
import gc
import inspect
import types
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rl_scaling_callback.rllib import hooks
from rl_scaling_callback.rllib.results import ENV_RUNNER_RESULTS, LEARNER_RESULTS, REPORTS

MERGE = hooks.merging(MetricsLogger)


def first_of(name):
    """Return the name of the first argument of a `MetricsLogger`'s method, which differs between releases."""
    return list(inspect.signature(getattr(MetricsLogger, name)).parameters)[1]


def test_reports_are_taken_before_metrics_are_merged():
    metrics, of_runners, of_learners = MetricsLogger(), [], []
    hooks.watch_reports(SimpleNamespace(metrics=metrics), of_runners.extend, of_learners.append)

    def stats():
        runner = MetricsLogger()
        runner.log_value((REPORTS, "1", "busy"), 2.0, **hooks.SUM_OF_THE_ITERATION)
        return runner.reduce()

    merge = getattr(metrics, MERGE)
    merge(iter([stats()]), key=ENV_RUNNER_RESULTS)
    merge(**{first_of(MERGE): [stats()]}, key=ENV_RUNNER_RESULTS)
    metrics.log_dict(stats(), key="of an evaluation")
    metrics.log_dict(**{first_of("log_dict"): stats()}, key="of an evaluation")
    merge([{REPORTS: {"busy": 1.0}}], key=LEARNER_RESULTS)
    assert [(name, report.busy) for name, report in of_runners] == [("1", 2.0)] * 2
    assert of_learners == [{"busy": 1.0}]
    assert REPORTS not in str(metrics.reduce())


class Algorithm:
    """Does what an Algorithm's methods are for: lists the calls."""

    def __init__(self):
        self.calls = []

    def step(self):
        self.calls.append("step")
        return self.training_step("a", b="b")

    def training_step(self, *args, **kwargs):
        self.calls.append("training_step")
        return args, kwargs

    def cleanup(self):
        self.calls.append("cleanup")


@contextmanager
def noted(calls, name):
    calls.append(f"<{name}>")
    yield
    calls.append(f"</{name}>")


def watch(algorithm):
    """Watch an Algorithm as `ScalingCallback` does."""
    calls = algorithm.calls
    hooks.watch_methods(algorithm, **{name: functools.partial(noted, calls, name) for name in ("step", "training_step", "cleanup")})


ALL = [
    *("<step>", "step", "<training_step>", "training_step", "</training_step>", "</step>"),
    *("<cleanup>", "cleanup", "</cleanup>"),
]


@pytest.mark.parametrize("bound", [True, False], ids=["bound method", "function"])
@pytest.mark.parametrize("name", ["step", "training_step", "cleanup"])
def test_methods_that_another_callback_set_are_wrapped(name, bound):
    algorithm = Algorithm()
    of_class = getattr(Algorithm, name)

    def own(self, *args, **kwargs):
        self.calls.append(f"own {name}")
        return of_class(self, *args, **kwargs)

    setattr(algorithm, name, types.MethodType(own, algorithm) if bound else functools.partial(own, weakref.proxy(algorithm)))
    watch(algorithm)
    gc.collect()
    assert algorithm.step() == (("a",), {"b": "b"})
    algorithm.cleanup()
    expected = list(ALL)
    expected.insert(expected.index(name), f"own {name}")
    assert algorithm.calls == expected


def test_watching_does_not_keep_an_algorithm_alive():
    algorithm = Algorithm()
    watch(algorithm)
    reference = weakref.ref(algorithm)
    gc.disable()
    try:
        del algorithm
        assert reference() is None
    finally:
        gc.enable()
