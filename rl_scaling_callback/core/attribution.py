"""Loss attribution: which cause each lost percent of efficiency goes to. Numbers in, numbers out.

With exclusive components C_i of the trial's iteration (ΣC_i = T) and C0_i of the baseline's for equal work (ΣC0_i = T0),

    1 − E = Σ (N·C_i − C0_i) / (N·T)

holds exactly. Sampling splits further by what the env runners were busy with. Negative shares are real and stay.

N·T is a budget of the env runners' own time: each of r of them has T seconds, and its e envs count as e processors. Where phases
follow one another, an env runner spends its time as the Algorithm's process does. Where they overlap, C_i is the mean over the env
runners of the time that they spent in i (see `live.overlap`); the C_i still sum to T, and nothing else changes.

Sources: the additive efficiencies of POP and TALP; Tallent and Mellor-Crummey, PPoPP 2009, for excess work on an N·T budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Final, NamedTuple

from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale

PHASES: Final = ("sample", "learn", "sync", "evaluate", "other")
"""Where the time of an iteration goes: exclusive, and together the whole iteration."""


def typical_and_longest(busy: Sequence[float]) -> tuple[float, float]:
    """Return how long the typical and the slowest env runner sampled in one round [s]; NaN where none reported.

    The typical one is the lower median, not the mean: one slow env runner is a straggler and must not look like contention, which
    slows all of them.
    """
    return (median_low(busy), max(busy)) if busy else (NAN, NAN)


class TimeBreakdown(NamedTuple):
    """Where the seconds of an iteration went, or those of many iterations, or of one env step; NaN where not known.

    The phases are exclusive, and together all of its time. What the env runners were busy with lies within `sample`.

    Attributes:
        sample: the Algorithm's process had env runners sample, waited for them, and stored what they returned.
        learn: learner update.
        sync: weights and connector states to the env runners.
        evaluate: evaluation that ran by itself.
        other: the rest.
        busy: sampling of the typical env runner (see `typical_and_longest`), summed over the rounds of the iteration.
        longest: sampling of the slowest env runner of each round, summed: a sum of maxima, not the maximum of sums, for who is
            slowest may change from round to round.
    """

    sample: float
    learn: float
    sync: float
    evaluate: float
    other: float
    busy: float = NAN
    longest: float = NAN

    @classmethod
    def of(cls, phases: Mapping[str, float], seconds: float, busy: float = NAN, longest: float = NAN) -> TimeBreakdown:
        """Return the breakdown of an iteration that took `seconds`.

        Args:
            phases: exclusive seconds of the named phases; one that is not there did not run. The rest is `other`.
            seconds: duration of the iteration.
            busy: sampling of the typical env runner [s].
            longest: sampling of the slowest [s].
        """
        sample, learn, sync, evaluate = (phases.get(phase, 0.0) for phase in PHASES[:-1])
        return cls(sample, learn, sync, evaluate, seconds - (sample + learn + sync + evaluate), busy, longest)

    @classmethod
    def of_window(cls, parts: Mapping[str, float], env_steps: float = 1.0) -> TimeBreakdown:
        """Return what `parts` gave, per env step where their number is given; NaN for a part that is not there."""
        return cls(*[0.0 if name == "evaluate" else parts.get(name, NAN) / env_steps for name in cls._fields])

    @property
    def parts(self) -> dict[str, float]:
        """All but evaluation, which steady figures leave out, by name."""
        parts = self._asdict()
        del parts["evaluate"]
        return parts

    @property
    def total(self) -> float:
        """All seconds."""
        return self.sample + self.learn + self.sync + self.evaluate + self.other

    def times(self, factor: float) -> TimeBreakdown:
        """Return `factor` times this."""
        return TimeBreakdown(*(seconds * factor for seconds in self))


PARTS: Final = (*(phase for phase in PHASES if phase != "evaluate"), "busy", "longest")
"""The parts of an iteration that steady windows and baselines keep."""

LEARNER: Final = "learner_busy"
"""What learners beside the env runners were busy for: kept with the parts, though it runs beside them."""

RECORDED: Final = (*PARTS, LEARNER)
"""What is read of a recorded iteration."""

CAUSES: Final[Mapping[str, str]] = {
    "serial_stepping": "sub-envs of one env runner that step one after another",
    "contention": "env runners that slow each other down (cores, caches, memory)",
    "straggler": "waiting for the slowest env runner",
    "transfer": "requests to the env runners, and their results on the way and stored",
    "learn": "the learner update, which does not get faster with N",
    "sync": "weights and connector states on the way to the env runners",
    "evaluate": "evaluation that holds up training",
    "other": "everything outside these",
}
"""The causes of lost efficiency and what they mean, the four of sampling first."""


def losses(
    scale: Scale, env_steps: float, breakdown: TimeBreakdown, baseline: TimeBreakdown, single: float = NAN
) -> tuple[dict[str, float], bool]:
    """Return the lost percent points of efficiency by cause, which sum to 100 − efficiency, and whether they are estimated.

    Estimated means: with several envs in several env runners, stepping sub-envs one after another can be told from contention only
    by a measurement of one env runner with as many envs. Without it both are booked as `serial_stepping`.

    Args:
        scale: the trial's scale.
        env_steps: env steps of the iteration, or of the window.
        breakdown: where its time went.
        baseline: where the baseline's time went, per env step; NaN where not known, and the causes that need it are NaN then.
        single: busy time of one env runner with as many envs (1r×e), per env step [s]; NaN where not known.
    """
    runners, n, total = max(1, scale.num_env_runners), scale.parallelism, breakdown.total
    if runners == 1:
        alone = breakdown.busy
    elif scale.num_envs_per_env_runner == 1:
        alone = baseline.busy * env_steps / runners
    else:
        alone = single * env_steps / runners
    estimated = math.isnan(alone) and not math.isnan(breakdown.busy + baseline.busy)
    if estimated:
        alone = breakdown.busy
    # Per runner: W = t0/N + [t1e/r − t0/N] + [median − t1e/r] + [max − median] + [W − max], each against the baseline's own part.
    share = env_steps / n
    extra = {
        "serial_stepping": alone - baseline.busy * share,
        "contention": breakdown.busy - alone,
        "straggler": breakdown.longest - breakdown.busy,
        "transfer": (breakdown.sample - breakdown.longest) - (baseline.sample - baseline.busy) * share,
        "learn": breakdown.learn - baseline.learn * share,
        "sync": breakdown.sync - baseline.sync * share,
        "evaluate": breakdown.evaluate - baseline.evaluate * share,
        "other": breakdown.other - baseline.other * share,
    }
    points = formulas.ratio(100, total)
    return {cause: points * seconds for cause, seconds in extra.items()}, estimated


_ADVICE: Final[Mapping[str, str]] = {
    "serial_stepping": "sub-envs step one after another; use more env runners rather than more envs per runner, or vectorise",
    "contention": "env runners slow each other down; fewer of them, or more cores",
    "straggler": "env runners wait for the slowest; even out their work or their hosts",
    "transfer": "results and weights travel; larger fragments or smaller observations",
    "learn": "the learner does not get faster; more env runners will not help, a faster learner will",
    "sync": "weights go to all env runners; sync less often or use a smaller model",
    "evaluate": "evaluation holds up training; evaluate less often or in parallel to training",
    "other": "time outside RLlib's phases; look at callbacks, checkpoints and logging",
}


_NOTHING: Final = 0.5
"""Fewer lost percent points than this are nothing to speak of."""


@dataclass(frozen=True, slots=True)
class LearnerLimits:
    """What a learner that works beside the env runners allows.

    Attributes:
        busy: share of the time in which the learner updates, 0 to 1.
        from_runners: how much more throughput [×] env runners can bring at most. The learner is saturated at 1 / busy.
        from_twice_as_fast: the same of a learner that is twice as fast, with as many env runners. It is saturated at 2 / busy, and
            env runners that wait for it for a share w of their time can't sample more than 1 / (1 − w) as much.
    """

    busy: float
    from_runners: float
    from_twice_as_fast: float

    @classmethod
    def of_window(cls, parts: Mapping[str, float], seconds: float) -> LearnerLimits | None:
        """Return the limits, or None where they are not known.

        Args:
            parts: of a steady window [s], among them how long the learners updated (`LEARNER`), mean over learners, and how long
                the env runners waited for them (`learn`), mean over env runners.
            seconds: duration of its iterations.
        """
        busy_s, waited_s = parts.get(LEARNER, NAN), parts.get("learn", NAN)
        if not (busy_s > 0 and seconds > 0 and waited_s == waited_s):
            return None
        busy = min(1.0, busy_s / seconds)
        waiting = min(max(0.0, waited_s / seconds), 0.99)
        return cls(busy, 1 / busy, min(2 / busy, 1 / (1 - waiting)))


def diagnosis(lost: Mapping[str, float], learner: LearnerLimits | None = None) -> str:
    """Return one line that names the largest cause and what to do about it, and which side limits; "" for nothing lost.

    Args:
        lost: percent points by cause, as `losses` gives them.
        learner: what a learner beside the env runners allows; None where there is none or nothing is known of it.
    """
    total = sum(lost.values())
    if total <= _NOTHING and lost:
        return ""
    sentences = []
    # One that is NaN makes the sum NaN: the largest is not known. What the learner allows needs no baseline.
    if total > _NOTHING:
        cause = max(lost, key=lost.__getitem__)
        sentences.append(f"{cause.replace('_', ' ')}: {lost[cause]:.0f} of {total:.0f} lost points; {_ADVICE[cause]}")
    if learner is not None:
        sentences.append(
            f"The learner is busy {100 * learner.busy:.0f} %: at most {learner.from_runners:.2f}× from more env runners; "
            f"a learner twice as fast: up to {learner.from_twice_as_fast:.1f}×"
        )
    return ". ".join(sentences)
