"""The queue of batches in front of a learner thread (IMPALA, APPO)."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class _Batch:
    """A batch in a circular buffer, and whether the learner has taken it at least once."""

    item: Any
    taken: bool


class LearnerQueue:
    """Wraps `put` and `get` of a learner's queue, to measure its length over time and the env steps overwritten in it.

    RLlib reports neither. It uses two kinds of queue. `queue.Queue` blocks the writer when it is full. APPO's `CircularBuffer`
    never blocks: it keeps the last few batches, the learner takes each up to K times, and a new batch overwrites the oldest.

    Args:
        learner: the learner. If its thread already runs, its first `get` is missed.
        clock: returns the time in seconds.

    Raises:
        AttributeError: the queue is of another kind, as in Ray 2.45.
    """

    def __init__(self, learner: Any, clock: Callable[[], float] = time.perf_counter) -> None:
        watched = learner._learner_thread_in_queue
        self._put, self._get, self._size = watched.put, watched.get, watched.qsize
        self._capacity = None if isinstance(watched, queue.Queue) else int(watched.num_batches)
        self._steps = _steps_per_batch(learner.config)
        self._held: deque[_Batch] = deque()
        self._is_first = True
        self._clock = clock
        self._lock = threading.Lock()  # one thread puts, another gets
        self._length = self._size()
        self._started = self._since = clock()
        self._queued = self._overwritten = 0.0
        watched.put, watched.get = self.put, self.get

    def put(self, item: Any, *args: Any, **kwargs: Any) -> Any:
        """Put a batch into the queue."""
        if self._capacity is not None:
            with self._lock:
                self._held.append(_Batch(item, taken=self._is_first))
                self._is_first = False
        result = self._put(item, *args, **kwargs)
        with self._lock:
            if self._capacity is not None and len(self._held) > self._capacity:
                oldest = self._held.popleft()
                if not oldest.taken:
                    self._overwritten += self._steps
            self._book()
        return result

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Take a batch out of the queue."""
        item = self._get(*args, **kwargs)
        with self._lock:
            for batch in self._held:
                if batch.item is item:
                    batch.taken = True
            self._book()
        return item

    def take(self) -> dict[str, float]:
        """Return the measurements since the last call.

        Returns:
            `queued`: the integral of the queue's length over time [updates × s]; `watched`: that time [s]; `overwritten`: env steps
            of batches that were overwritten before the learner took them.
        """
        with self._lock:
            self._book()
            values = {"queued": self._queued, "watched": self._since - self._started, "overwritten": self._overwritten}
            self._started, self._queued, self._overwritten = self._since, 0.0, 0.0
        return values

    def _book(self) -> None:
        now = self._clock()
        self._queued += self._length * (now - self._since)
        self._since, self._length = now, self._size()


def _steps_per_batch(config: Any) -> float:
    """Return the env steps of a learner's batch: the smallest number of whole samples that reaches the batch size.

    The batch's own count includes steps that RLlib adds to each episode.
    """
    sample = config.num_envs_per_env_runner * config.get_rollout_fragment_length()
    if config.num_aggregator_actors_per_learner:
        return float(math.ceil(config.train_batch_size_per_learner / sample) * sample)
    return float(math.ceil(config.total_train_batch_size / sample) * sample / max(1, config.num_learners))
