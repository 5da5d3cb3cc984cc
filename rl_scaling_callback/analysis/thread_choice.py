"""Chooses the number of threads for the learner's updates from training iterations with different numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from random import Random
from typing import Final

from rl_scaling_callback.analysis.choice import INDIFFERENCE
from rl_scaling_callback.analysis.probe_rounds import TrainedIteration
from rl_scaling_callback.analysis.race import powers_of_two
from rl_scaling_callback.core.estimates import Estimate, as_percent, trimmed_mean
from rl_scaling_callback.core.text import counted, percent

_MIN_LEARN_SHARE: Final = 0.03
"""With a smaller share of updates in an iteration, their threads hardly matter."""

PRECISE: Final = 0.1
"""Half-width of the interval of ln of a ratio from which on more iterations aren't worth their time."""
MIN_BLOCKS: Final = 3
MAX_BLOCKS: Final = 8
_MAX_OTHERS: Final = 3
"""How many numbers are compared with the default after the first block, of which machines with many cores have more."""

Block = Mapping[int, TrainedIteration]
"""One training iteration with each number of threads, at about the same time, in random order."""


def thread_counts(most: int, default: float, learn_share: float) -> list[int]:
    """Return the numbers of threads to compare: the default, powers of two, and `most`; none if they hardly matter.

    Args:
        most: largest number worth trying.
        default: the number used otherwise; NaN if unknown.
        learn_share: share of the updates in the time of an iteration.
    """
    if most < 2 or not default >= 1 or learn_share < _MIN_LEARN_SHARE:
        return []
    return sorted({int(default), *powers_of_two(most)})


def compare_threads(
    counts: Sequence[int],
    default: int,
    least: int = MIN_BLOCKS,
    has_time: Callable[[], bool] = lambda: True,
) -> Generator[int, TrainedIteration, ThreadChoice]:
    """Yield the number of threads for the next training iteration, which is to be sent, until the choice is clear; return it.

    It takes at least `least` blocks, and more only as long as there is time. After the first one, only the default and the fastest
    others are left.
    """
    random, blocks = Random(), list[Block]()
    while True:
        block: dict[int, TrainedIteration] = {}
        for count in random.sample(counts, len(counts)):
            block[count] = yield count
        if not blocks:
            # Within about 10 %, which may be noise, fewer threads come first.
            ranks = {count: round(10 * math.log(each.parts["learn"] / each.env_steps)) for count, each in block.items()}
            others = sorted({*counts} - {default}, key=lambda count: (ranks[count], count))
            counts = [default, *others[:_MAX_OTHERS]]
        blocks.append({count: block[count] for count in counts})
        choice = ThreadChoice(blocks, default)
        enough = least if choice.is_gain or choice.half_width < PRECISE else MAX_BLOCKS
        if len(blocks) >= enough or (len(blocks) >= least and not has_time()):
            return choice


class ThreadChoice:
    """The number of threads chosen, and what it gains: trimmed means of ln of the ratio within each block.

    So changes in the machine's speed between blocks cancel.

    Args:
        blocks: the iterations, with at least one number of threads other than the default.
        default: the number used otherwise.

    Attributes:
        threads: the smallest number whose updates are at most 2 % slower than the fastest; the default unless another number is
            clearly faster.
        compared: the number that the gains are about: the chosen one, or the fastest other than the default.
        update: ln of the default's update time per env step over that of `compared`.
        iteration: the same for whole iterations.
        half_width: largest half-width of the 95 % intervals of the logs of all numbers' update gains.
    """

    def __init__(self, blocks: Sequence[Block], default: int) -> None:
        self.blocks, self.default = blocks, default
        others = sorted({*blocks[0]} - {default})
        gains = {count: self._gain(count, lambda each: each.parts["learn"]) for count in others}
        means = {default: 0.0} | {count: gain.mean for count, gain in gains.items()}
        fewest = min(count for count, mean in means.items() if mean >= max(means.values()) - INDIFFERENCE)
        is_faster = fewest != default and gains[fewest].mean > gains[fewest].half_width
        self.threads = fewest if is_faster else default
        self.compared = fewest if is_faster else max(others, key=lambda count: means[count])
        self.update = gains[self.compared]
        self.iteration = self._gain(self.compared, lambda each: each.seconds)
        self.half_width = max(gain.half_width for gain in gains.values())

    def _gain(self, count: int, seconds: Callable[[TrainedIteration], float]) -> Estimate:
        """Return ln of the time per env step with the default over that with another number of threads."""
        pairs = [(block[self.default], block[count]) for block in self.blocks]
        return trimmed_mean([math.log(seconds(one) / one.env_steps / (seconds(two) / two.env_steps)) for one, two in pairs])

    @property
    def is_gain(self) -> bool:
        """Whether updates are clearly faster with another number than the default."""
        return self.threads != self.default

    @property
    def is_proven(self) -> bool:
        """Whether whole iterations are clearly faster as well."""
        return self.is_gain and self.iteration.mean > self.iteration.half_width

    def __str__(self) -> str:
        counts = f"{counted(self.compared, 'thread')} for the learner's torch instead of {self.default}"
        gains = f"iterations {_times(self.iteration)} as fast, updates {_times(self.update)}"
        return f"{counts}: {gains}{'' if self.is_gain else ', which is no clear gain'}"


def _times(gain: Estimate) -> str:
    return f"{math.exp(gain.mean):.2f}× {percent(as_percent(gain.half_width))}"
