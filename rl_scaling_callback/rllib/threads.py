"""The threads that torch uses, in particular for a learner's updates.

Ray starts its processes with one thread per CPU of the process, usually one. During an update, the env runners of a synchronous
algorithm wait, and their cores are free.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from rl_scaling_callback.core.checks import at_least
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.rllib.configs import is_asynchronous, is_new_stack
from rl_scaling_callback.rllib.names import amount

ANSWER_WITHIN_S: Final = 30.0


def learner_threads(algorithm: Any) -> float:
    """Return the number of threads that torch uses for updates, in the first learner if there are several.

    NaN if unknown: the learner doesn't answer or doesn't use torch, updates run in a thread of their own with a count of its own
    (APPO, IMPALA), or the Algorithm uses the old API stack.
    """
    if _refusal(vars(algorithm.config)):
        return NAN
    return next(iter(ask_learners(algorithm, torch_threads)), NAN) or NAN


def set_learner_threads(algorithm: Any, threads: int) -> None:
    """Set the number of threads that torch uses for updates, in all learners.

    A local learner shares the Algorithm's process, and a number of threads belongs to the calling thread: call it where `train()`
    is called.

    Raises:
        ValueError: `threads` is not a positive integer, or can't be set for this algorithm.
    """
    check_learner_threads(vars(algorithm.config), threads)
    counts = ask_learners(algorithm, partial(torch_threads, threads=threads))
    if not counts or any(count != threads for count in counts):
        raise ValueError(f"learner_threads is {threads!r}, but the learners' torch can't be set to it: they use {counts} threads")


def check_learner_threads(config: Mapping[str, Any], threads: int) -> None:
    """Check that a number of threads can be set for a config, as `vars(AlgorithmConfig)`.

    Raises:
        ValueError: it can't; the message gives the reason.
    """
    at_least("learner_threads", threads, 1)
    if why := _refusal(config):
        raise ValueError(f"learner_threads is {threads!r}; allowed is only None, because {why}")


def max_learner_threads(config: Mapping[str, Any], cores: float) -> int:
    """Return how many threads each learner can use without taking cores from others: 1 where they can't be set.

    These are the trial's CPUs, because its other processes wait during an update, except those of evaluation. All are assumed to be
    on the learners' machine, which has `cores`.
    """
    if _refusal(config):
        return 1
    learners, per_learner = amount(config, "num_learners"), amount(config, "num_cpus_per_learner")
    if config.get("num_cpus_per_learner") == "auto":
        per_learner = 0.0 if amount(config, "num_gpus_per_learner") else 1.0
    main = amount(config, "num_cpus_for_main_process")
    # A local learner is part of the main process.
    main = main + learners * per_learner if learners else max(main, per_learner)
    env_runners = amount(config, "num_env_runners") * amount(config, "num_cpus_per_env_runner")
    return max(1, int(min(main + env_runners, cores) / max(1.0, learners)))


def _refusal(config: Mapping[str, Any]) -> str:
    """Return why the threads of a config's learners can't be set; "" if they can."""
    if not is_new_stack(config):
        return "the config uses the old API stack"
    if is_asynchronous(config):
        return "this algorithm (APPO, IMPALA) updates in a thread of its own, and torch counts threads per thread"
    return ""


def ask_learners(algorithm: Any, ask: Any) -> list[float]:
    """Return what each learner that answers returns."""
    answers = algorithm.learner_group.foreach_learner(ask, timeout_seconds=ANSWER_WITHIN_S)
    # In older releases, a local learner's answer is no `CallResult`.
    return [answer.get() if hasattr(answer, "ok") else answer for answer in answers if getattr(answer, "ok", True)]


def torch_threads(_process: object = None, threads: int | None = None) -> float:
    """Return how many threads torch uses in this process, set before if given; 0 without torch.

    An exception would make RLlib restart the learner.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return 0.0  # not NaN, which files of baselines can't hold
    if threads is not None:
        torch.set_num_threads(int(threads))
    return float(torch.get_num_threads())
