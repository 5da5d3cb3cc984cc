"""What an iteration spent its time on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.live.learners import LearnersWork
from rl_scaling_callback.live.runners import RunnersWork


class Spent(NamedTuple):
    """What an iteration spent its time on.

    Attributes:
        phases: exclusive seconds by phase; if phases overlap, means over the env runners. None if unknown.
        evaluation_s: time of the iteration spent on evaluation [s].
        runners: work of the env runners.
        learners: work of asynchronous learners.
        connectors: the part of the learn phase in the learner's connectors, such as for advantages and batches [s]; NaN if unknown.
    """

    phases: Mapping[str, float] | None = None
    evaluation_s: float = 0.0
    runners: RunnersWork = RunnersWork()
    learners: LearnersWork = LearnersWork()
    connectors: float = NAN
