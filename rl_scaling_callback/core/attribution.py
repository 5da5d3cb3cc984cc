"""Loss attribution: splits the lost efficiency by cause. Pure arithmetic.

With exclusive components C_i of the trial's iteration (ΣC_i = T) and C0_i of the baseline's for equal work (ΣC0_i = T0),

    1 − E = Σ (N·C_i − C0_i) / (N·T)

holds exactly. The sampling term is split further by how long the env runners were busy. Shares may be negative and are kept.

N·T is the time budget of the env runners: each of the r env runners has T seconds, and its e envs count as e processors. If phases
run one after another, an env runner spends its time as the Algorithm's process does. If they overlap, C_i is the time spent in i,
averaged over the env runners (see `live.reports`); the C_i still sum to T.

Sources: the additive efficiencies of POP and TALP; Tallent and Mellor-Crummey, PPoPP 2009, for excess work on an N·T budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import rounded

PHASES: Final = ("sample", "learn", "sync", "evaluate", "other")
"""The phases of an iteration. They are exclusive and add up to its duration."""


class TimeBreakdown(NamedTuple):
    """Seconds per phase of an iteration, of several iterations, or of one env step; NaN if unknown.

    The phases are exclusive and add up to the whole time. `busy` and `longest` are part of `sample`.

    Attributes:
        sample: requesting samples from the env runners, waiting for them, and storing the results.
        learn: learner update.
        sync: sending weights and connector states to the env runners.
        evaluate: evaluation, if it does not run in parallel to training.
        other: the rest.
        busy: sampling time of the typical env runner of each round, summed over the rounds of the iteration. It is the lower median
            rather than the mean: a single slow env runner is a straggler and must not look like contention, which slows down all.
        longest: sampling time of the slowest env runner of each round, summed over the rounds. This is a sum of maxima, because the
            slowest env runner may change from round to round.
        reset: longest time of an env runner in env resets in each round, summed; taken to be part of `longest`.
        all_resets: time of all env runners together in env resets. One env that took all their steps would need all of it.
    """

    sample: float
    learn: float
    sync: float
    evaluate: float
    other: float
    busy: float = NAN
    longest: float = NAN
    reset: float = 0.0
    all_resets: float = 0.0

    @classmethod
    def of(cls, phases: Mapping[str, float], seconds: float, *runners: float) -> TimeBreakdown:
        """Return the breakdown of an iteration.

        Args:
            phases: seconds of each phase that ran; the rest of the iteration is `other`.
            seconds: its duration.
            *runners: `busy`, `longest`, `reset` and `all_resets`, as far as they are known.
        """
        sample, learn, sync, evaluate = [phases.get(phase, 0.0) for phase in PHASES[:-1]]
        return cls(sample, learn, sync, evaluate, seconds - (sample + learn + sync + evaluate), *runners)

    @classmethod
    def of_window(cls, parts: Mapping[str, float], env_steps: float = 1.0) -> TimeBreakdown:
        """Return the breakdown with these `parts`, divided by `env_steps`. Missing ones are NaN, or 0 for evaluation and resets."""
        known = {**_UNLESS_GIVEN, **parts}
        return cls(*[known[name] / env_steps for name in cls._fields])

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by name, without evaluation, which steady figures exclude."""
        seconds = self._asdict()
        del seconds["evaluate"]
        return seconds

    @property
    def total(self) -> float:
        """Sum of the phases [s]."""
        return self.sample + self.learn + self.sync + self.evaluate + self.other

    def scaled(self, factor: float) -> TimeBreakdown:
        """Return this breakdown multiplied by `factor`."""
        return TimeBreakdown(*[seconds * factor for seconds in self])


_UNLESS_GIVEN: Final = {**dict.fromkeys(TimeBreakdown._fields, NAN), "evaluate": 0.0, "reset": 0.0, "all_resets": 0.0}

LEARNER: Final = "learner_busy"
"""Busy time of asynchronous learners. Stored with the parts although it overlaps them."""

CONNECTORS: Final = "connectors"
"""The part of `learn` in the learner's connectors, such as for advantages and batches. Stored with the parts."""

RECORDED: Final = (*(phase for phase in PHASES if phase != "evaluate"), "busy", "longest", LEARNER, CONNECTORS)
"""The parts that the result of an iteration tells. A running trial also has `reset` and `all_resets`."""

CAUSES: Final[Mapping[str, str]] = {
    "serial_stepping": "stepping the sub-envs of an env runner one after another",
    "contention": "env runners slowing each other down (cores, caches, memory)",
    "straggler": "waiting for the slowest env runner",
    "transfer": "sending requests to the env runners, and transferring and storing their results",
    "learn": "the learner update, which does not get faster with N",
    "sync": "sending weights and connector states to the env runners",
    "evaluate": "evaluation that delays training",
    "other": "everything else",
}
"""The causes of lost efficiency and their meanings, the four in sampling first."""


def losses(
    scale: Scale, env_steps: float, breakdown: TimeBreakdown, baseline: TimeBreakdown, one_runner: float = NAN
) -> tuple[dict[str, float], bool]:
    """Return the lost percentage points by cause, which sum to 100 − efficiency, and whether they are estimated.

    With several envs in each of several env runners, separating serial stepping from contention takes a measurement of one env
    runner with as many envs. Without it, the split is estimated: both count as `serial_stepping`.

    Args:
        scale: the trial's scale.
        env_steps: env steps of the iteration or window.
        breakdown: its time by phase.
        baseline: the baseline's time per env step. If a part is NaN, so are the causes that need it.
        one_runner: busy time of one env runner with as many envs (1r×e), per env step [s]; NaN if unknown.
    """
    runners, n, total = scale.samplers, scale.parallelism, breakdown.total
    if runners == 1:
        unhindered = breakdown.busy
    elif scale.num_envs_per_env_runner == 1:
        unhindered = baseline.busy * env_steps / runners
    else:
        unhindered = one_runner * env_steps / runners
    estimated = math.isnan(unhindered) and not math.isnan(breakdown.busy + baseline.busy)
    if estimated:
        unhindered = breakdown.busy
    # sample = baseline.busy · share + [unhindered − baseline.busy · share] + [busy − unhindered] + [longest − busy]
    #          + [sample − longest], where the last is compared with the baseline's own.
    share, points = env_steps / n, formulas.ratio(100, total)
    lost = {
        "serial_stepping": points * (unhindered - baseline.busy * share),
        "contention": points * (breakdown.busy - unhindered),
        "straggler": points * (breakdown.longest - breakdown.busy),
        "transfer": points * ((breakdown.sample - breakdown.longest) - (baseline.sample - baseline.busy) * share),
        "learn": points * (breakdown.learn - baseline.learn * share),
        "sync": points * (breakdown.sync - baseline.sync * share),
        "evaluate": points * (breakdown.evaluate - baseline.evaluate * share),
        "other": points * (breakdown.other - baseline.other * share),
    }
    return lost, estimated


_ADVICE: Final[Mapping[str, str]] = {
    "serial_stepping": (
        "stepping all sub-envs takes longer than stepping one; use more env runners rather than more envs, or vectorise"
    ),
    "contention": "env runners slow each other down; use fewer env runners or more cores",
    "straggler": "env runners wait for the slowest one; balance their work or use equal hosts",
    "transfer": "results take time to transfer; use longer fragments or smaller observations",
    "learn": "the learner does not get faster with more env runners; speed up the learner",
    "sync": "weights are sent to all env runners; sync less often or use a smaller model",
    "evaluate": "evaluation delays training; evaluate less often or in parallel to training",
    "other": "time outside RLlib's phases; check callbacks, checkpoints and logging",
}

NOT_MEASURED: Final = "more threads for it: not measured"
"""What more threads for the learner's torch would bring, unless they were compared."""

MIN_LOSS: Final = 0.5
"""Fewer lost points than this are negligible."""

_MIN_SHARE: Final = 0.1
"""The connectors' share of the learner's time is told from this on."""

_MIN_GAIN: Final = 1.05
"""What training would gain without a cause is told from this factor on."""


def most_from_runners(parts: Mapping[str, float], seconds: float) -> float:
    """Return the highest gain in throughput [×] from more env runners, over a steady window; infinite if unknown.

    An asynchronous learner that is busy for a share b of the time is saturated at 1 / b times the throughput.

    Args:
        parts: parts of the window [s], with the busy time of an asynchronous learner.
        seconds: its duration.
    """
    busy_s = parts.get(LEARNER, NAN)
    return max(1.0, seconds / busy_s) if busy_s > 0 and seconds > 0 else math.inf


def gains(lost: Mapping[str, float], most: float = math.inf) -> dict[str, float]:
    """Return how many times as fast training would be without each cause, where that is at least 1.05×.

    A cause loses points = 100·(N·C_i − C0_i) / (N·T), and so C_i − C0_i/N = T·points/100 seconds of an iteration. Without them it
    takes T·(1 − points/100), and the factor is 1 / (1 − points/100). But an asynchronous learner gets more to do without another
    cause, up to `most`, as `most_from_runners`.
    """
    factors = {cause: formulas.ratio(1, 1 - points / 100) for cause, points in lost.items() if points < 100}
    limited = {cause: factor if cause == "learn" else min(factor, most) for cause, factor in factors.items()}
    return {cause: factor for cause, factor in limited.items() if factor >= _MIN_GAIN}


def diagnosis(
    lost: Mapping[str, float],
    most: float = math.inf,
    *,
    parts: Mapping[str, float] = MappingProxyType({}),
    threads: str = NOT_MEASURED,
) -> str:
    """Return the largest cause of lost efficiency, what it costs, a remedy, and the learner's limit; "" if nothing is lost.

    Args:
        lost: percentage points by cause.
        most: highest gain [×] that an asynchronous learner allows, as `most_from_runners`; infinite if there is none.
        parts: parts of the window [s], for the connectors' share of the learner's time.
        threads: what more threads for the learner's torch bring; "" if something else tells it.
    """
    total = sum(lost.values())
    if total <= MIN_LOSS and lost:
        return ""
    sentences, is_limited = [], most < math.inf
    # A NaN cause makes the sum NaN: the largest cause is unknown. The learner's limit needs no baseline.
    if total > MIN_LOSS:
        cause = max(lost, key=lost.__getitem__)
        advice = _ADVICE[cause]
        if cause == "learn" and not is_limited:
            advice += f" ({threads})" if threads else ""
        gain = gains(lost, most).get(cause)
        details = [f"{rounded(gain, 2, '×')} as fast without it"] if gain else []
        share = formulas.ratio(parts.get(CONNECTORS, NAN), parts.get("learn", NAN))
        if cause == "learn" and share >= _MIN_SHARE:
            details.append(f"{100 * share:.0f} % of it in the learner's connectors")
        told = f" ({', '.join(details)})" if details else ""
        sentences.append(f"{cause.replace('_', ' ')}: {round(lost[cause])} of {round(total)} lost points{told}; {advice}")
    if is_limited:
        sentences.append(f"The learner is busy {100 / most:.0f} %: at most {most:.2f}× from more env runners")
    return ". ".join(sentences)
