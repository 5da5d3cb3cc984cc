"""What an iteration spent its time on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rl_scaling_callback.live.learners import LearnersWork
from rl_scaling_callback.live.runners import RunnersWork


class Spent(NamedTuple):
    """What an iteration spent its time on.

    Attributes:
        phases: exclusive seconds by phase; if phases overlap, means over the env runners. None if unknown.
        evaluation_s: time of the iteration spent on evaluation [s].
        runners: work of the env runners.
        learners: work of asynchronous learners.
    """

    phases: Mapping[str, float] | None = None
    evaluation_s: float = 0.0
    runners: RunnersWork = RunnersWork()
    learners: LearnersWork = LearnersWork()
