"""Hooks into an Algorithm where RLlib's callbacks have none: iterations, timers, merged metrics, learners.

The functions `watch_…` raise an `AttributeError` if the Algorithm lacks what they hook into.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final

from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rl_scaling_callback.rllib.clocks import method_of
from rl_scaling_callback.rllib.configs import is_asynchronous
from rl_scaling_callback.rllib.results import ENV_RUNNER_RESULTS, LEARNER_RESULTS, REPORTS, runner_reports, take_reports

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

    from rl_scaling_callback.rllib.clocks import PhaseClock
    from rl_scaling_callback.rllib.results import RunnerReport


def watch_methods(algorithm: Algorithm, **blocks: Callable[[], AbstractContextManager[None]]) -> None:
    """Run each call of the named methods of an Algorithm inside a `with` block.

    Those are `step` (an iteration), `training_step`, and `cleanup` (the end of the trial, for which RLlib has no hook).
    """
    for name, block in blocks.items():
        method = method_of(algorithm, name)

        def call(*args: Any, _method: Any = method, _block: Any = block, **kwargs: Any) -> Any:
            with _block():
                return _method(*args, **kwargs)

        setattr(algorithm, name, call)


def watch_phases(algorithm: Algorithm, clock: PhaseClock) -> bool:
    """Let `clock` wrap the timers of the Algorithm's code; return True."""
    metrics: Any = algorithm.metrics
    clock.watch(metrics)
    if not is_asynchronous(vars(algorithm.config)):
        merge = getattr(metrics, merging(metrics))

        # RLlib doesn't time the merging of metrics. It is the last part of sampling and takes longer with more env runners.
        def merge_in_sample(*args: Any, **kwargs: Any) -> Any:
            with clock.block("sample") if kwargs.get("key") == ENV_RUNNER_RESULTS else nullcontext():
                return merge(*args, **kwargs)

        setattr(metrics, merging(metrics), merge_in_sample)
    return True


def watch_local_learner(algorithm: Algorithm, clock: PhaseClock) -> bool:
    """Let `clock` wrap the timers of the learner in this process; return whether there is one."""
    group: Any = getattr(algorithm, "learner_group", None)
    if group is None or not group.is_local:
        return False
    clock.watch(group._learner.metrics)
    return True


def watch_reports(
    algorithm: Algorithm,
    take: Callable[[list[tuple[str, RunnerReport]]], None],
    take_learner: Callable[[Mapping[str, float]], None] = lambda report: None,
) -> None:
    """Pass the env runners' reports on training samples to `take`, and remove them before RLlib merges the metrics.

    Reports of learners in other processes are passed to `take_learner`, one by one.

    RLlib looks up each key of the metrics in each env runner's metrics: reports left in would cost O(runners²), and would show up
    in results, `algorithm.evaluate()` and checkpoints.
    """
    metrics: Any = algorithm.metrics

    def remove_reports(logged: Sequence[Any], key: Any) -> None:
        reports = take_reports(logged)
        name = key[0] if isinstance(key, tuple) and len(key) == 1 else key
        if name == ENV_RUNNER_RESULTS:
            take(runner_reports(reports))
        elif name == LEARNER_RESULTS:
            for report in reports:
                take_learner(report)

    def watch(name: str, several: bool) -> None:
        method = getattr(metrics, name)
        signature = inspect.signature(method)
        # Its name differs between releases.
        logged, *_ = signature.parameters

        def without_reports(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs)
            if several:
                given.arguments[logged] = list(given.arguments[logged])  # it may be an iterator
            stats = given.arguments[logged]
            remove_reports(stats if several else [stats], given.arguments.get("key"))
            return method(*given.args, **given.kwargs)

        setattr(metrics, name, without_reports)

    watch(merging(metrics), several=True)
    # Older releases log the metrics of a local env runner's evaluation this way.
    watch("log_dict", several=False)


def merging(metrics: Any) -> str:
    """Return the name of the method that merges the env runners' metrics: Ray 2.45 uses another one."""
    return "aggregate" if hasattr(metrics, "aggregate") else "merge_and_log_n_dicts"


def watch_learners(algorithm: Algorithm, make_clock: Callable[[], PhaseClock]) -> Callable[[], dict[str, float]] | None:
    """Time asynchronous learners, with a clock that `make_clock` creates in the learner's process.

    Returns a function that returns the seconds of each phase of the learner in this process since its last call; None if the
    learners run in other processes, which report with their results.
    """
    clock = make_clock()
    if watch_local_learner(algorithm, clock):
        return clock.take
    algorithm.learner_group.foreach_learner(functools.partial(_report_with_results, make_clock))  # type: ignore[union-attr]
    return None


def _report_with_results(make_clock: Callable[[], PhaseClock], learner: Any, *_: Any) -> None:
    """Make a learner add a report to its results. Runs in the learner's process."""
    clock = make_clock()
    clock.watch(learner.metrics)
    reduce = learner.metrics.reduce

    def reduce_and_report(*args: Any, **kwargs: Any) -> Any:
        stats = reduce(*args, **kwargs)
        stats[REPORTS] = clock.take()
        return stats

    learner.metrics.reduce = reduce_and_report


def wait_for_gpu() -> None:
    """Wait for the CUDA work launched by this process, so that its time counts for the phase that launched it."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    # Training will meet a GPU error in its next step; don't raise it here.
    with suppress(Exception):
        if cuda is not None and cuda.is_initialized():
            cuda.synchronize()


_CLEARS: Final = inspect.signature(MetricsLogger.log_value).parameters.get("clear_on_reduce")

SUM_OF_THE_ITERATION: Final[dict[str, Any]] = {
    "reduce": "sum",
    # Newer releases always reset and warn about the argument; older ones never reset without it.
    **({"clear_on_reduce": True} if _CLEARS is not None and _CLEARS.default is False else {}),
}
"""The arguments that make `MetricsLogger.log_value` sum within an iteration and then reset."""
