"""Hooks into an Algorithm: what they wrap behaves as before."""

import functools
import gc
import inspect
import queue
import types
import weakref
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

pytest.importorskip("ray.rllib", reason="needs Ray")

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rl_scaling_callback.rllib import hooks
from rl_scaling_callback.rllib.learner_queue import LearnerQueue
from rl_scaling_callback.rllib.phases import PhaseClock
from rl_scaling_callback.rllib.results import ENV_RUNNER_RESULTS, REPORTS
from rl_scaling_callback.rllib.sampling import SamplingClock


class Recorder:
    """Has methods with the signatures of another class's that return their arguments."""

    def __init__(self, of, names):
        for name in names:
            self._signature(name, inspect.signature(getattr(of, name)))

    def _signature(self, name, signature):
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])

        def method(*args, **kwargs):
            return signature.bind(*args, **kwargs).arguments

        method.__signature__ = signature
        setattr(self, name, method)


def watch_reports(metrics):
    hooks.watch_reports(SimpleNamespace(metrics=metrics), lambda reports: None, lambda report: None)


def watch_phases(metrics):
    hooks.watch_phases(SimpleNamespace(metrics=metrics, config=PPOConfig()), PhaseClock({}))


def watch_samples(metrics):
    SamplingClock(SimpleNamespace(metrics=metrics, num_envs=1, config=SimpleNamespace()))


def watch_queue(watched):
    watched.num_batches, watched.qsize = 3, lambda: 0
    config = SimpleNamespace(
        num_envs_per_env_runner=1,
        num_learners=0,
        num_aggregator_actors_per_learner=0,
        total_train_batch_size=1,
        get_rollout_fragment_length=lambda: 1,
    )
    LearnerQueue(SimpleNamespace(_learner_thread_in_queue=watched, config=config))


MERGE = hooks.merging(MetricsLogger)
WRAPPED = [
    (watch_reports, MetricsLogger, MERGE),
    (watch_reports, MetricsLogger, "log_dict"),
    (watch_phases, MetricsLogger, MERGE),
    (watch_phases, MetricsLogger, "log_time"),
    (watch_samples, MetricsLogger, "log_time"),
    (watch_queue, queue.Queue, "put"),
    (watch_queue, queue.Queue, "get"),
]


@pytest.mark.parametrize(("watch", "of", "name"), WRAPPED)
def test_wrapped_functions_pass_on_all_arguments_by_position_and_by_name(watch, of, name):
    recorder = Recorder(of, {"put", "get"} if of is queue.Queue else {MERGE, "log_dict", "log_time"})
    parameters = list(inspect.signature(getattr(of, name)).parameters.values())[1:]
    plain = getattr(recorder, name)
    watch(recorder)
    wrapper = getattr(recorder, name)
    assert wrapper is not plain
    names = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    given = {each: [each] if each == "stats_dicts" else (each,) for each in names}
    by_position = [given[each.name] for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    by_name = {each.name: given[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert wrapper(**given) == given
    assert wrapper(**dict(reversed(given.items()))) == given
    assert wrapper(*by_position, **by_name) == given
    with pytest.raises(TypeError):
        wrapper(*by_position, no_such_option=1)


def test_reports_are_removed_whether_given_by_position_or_by_name():
    metrics, taken = MetricsLogger(), []
    hooks.watch_reports(SimpleNamespace(metrics=metrics), taken.extend, lambda report: None)
    parameter = next(iter(list(inspect.signature(MetricsLogger.log_dict).parameters)[1:]))
    merged = next(iter(list(inspect.signature(getattr(MetricsLogger, MERGE)).parameters)[1:]))

    def stats():
        runner = MetricsLogger()
        runner.log_value((REPORTS, "1", "busy"), 2.0, **hooks.SUM_OF_THE_ITERATION)
        return runner.reduce()

    getattr(metrics, MERGE)([stats()], key=ENV_RUNNER_RESULTS)
    getattr(metrics, MERGE)(**{merged: [stats()], "key": ENV_RUNNER_RESULTS})
    metrics.log_dict({"a": 1.0}, key="mine")
    metrics.log_dict(**{parameter: {"b": 2.0}, "key": "mine"})
    assert len(taken) == 2
    result = metrics.reduce()
    assert set(result["mine"]) == {"a", "b"}
    assert REPORTS not in result.get(ENV_RUNNER_RESULTS, {})


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


def watch(algorithm, suffix=""):
    """Watch an Algorithm as `ScalingCallback` does."""
    calls = algorithm.calls
    blocks = {name: functools.partial(noted, calls, name + suffix) for name in ("step", "training_step")}
    hooks.watch_end(algorithm, lambda: calls.append(f"end{suffix}"))
    hooks.watch_iterations(algorithm, **blocks)


ALL = ["<step>", "step", "<training_step>", "training_step", "</training_step>", "</step>", "end", "cleanup"]


@pytest.mark.parametrize("bound", [True, False], ids=["bound method", "function"])
@pytest.mark.parametrize("name", ["step", "training_step", "cleanup"])
def test_methods_that_another_callback_set_are_wrapped(name, bound):
    algorithm = Algorithm()
    of_class = getattr(Algorithm, name)

    def own(self, *args, **kwargs):
        self.calls.append(f"own {name}")
        return of_class(self, *args, **kwargs)

    setattr(algorithm, name, types.MethodType(own, algorithm) if bound else functools.partial(own, weakref.proxy(algorithm)))
    del own
    gc.collect()
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


@pytest.mark.parametrize("theirs", [None, "another callback's"])
def test_hooks_are_removed_at_the_end_for_the_next_trial_in_the_same_algorithm(theirs):
    algorithm = Algorithm()
    algorithm.metrics, algorithm.config = MetricsLogger(), PPOConfig()
    if theirs is not None:
        algorithm.metrics.log_dict = log_dict = functools.partial(algorithm.metrics.log_dict)
    watch(algorithm, "of the first trial")
    hooks.watch_phases(algorithm, PhaseClock({}))
    hooks.watch_reports(algorithm, lambda reports: None, lambda report: None)
    assert {"log_time", "log_dict", MERGE} <= set(vars(algorithm.metrics))
    algorithm.cleanup()
    assert not {"step", "training_step", "cleanup"} & set(vars(algorithm))
    assert not {"log_time", MERGE} & set(vars(algorithm.metrics))
    if theirs is not None:
        assert algorithm.metrics.log_dict is log_dict
    watch(algorithm)
    algorithm.calls.clear()
    algorithm.step()
    algorithm.cleanup()
    assert algorithm.calls == ALL
