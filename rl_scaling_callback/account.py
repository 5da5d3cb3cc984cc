"""The exact account of an iteration: which cause each lost percent of efficiency goes to. Numbers in, numbers out.

With exclusive components C_i of the trial's iteration (ΣC_i = T) and C0_i of the baseline's for equal work (ΣC0_i = T0),

    1 − E = Σ (N·C_i − C0_i) / (N·T)

holds exactly. Sampling splits further by what the env runners were busy with. Negative shares are real and stay.

Source: method, "Where efficiency goes"; POP's additive efficiencies and HPCToolkit's excess work on an N·T budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Final

from rl_scaling_callback import formulas
from rl_scaling_callback.formulas import NAN


@dataclass(frozen=True, slots=True)
class PhaseTimes:
    """Exclusive seconds of one iteration, or of a window of them; together all of its time.

    Attributes:
        sample: the Algorithm's process had env runners sample, and waited for them.
        learn: learner update.
        sync: weights and connector states to the env runners.
        evaluate: evaluation that ran by itself.
        other: the rest.
    """

    sample: float
    learn: float
    sync: float
    evaluate: float
    other: float

    @classmethod
    def of(cls, named: Mapping[str, float], seconds: float) -> PhaseTimes:
        """Return the phases of an iteration that took `seconds`, with the rest as `other`."""
        sample, learn, sync, evaluate = (named.get(phase, 0.0) for phase in ("sample", "learn", "sync", "evaluate"))
        return cls(sample, learn, sync, evaluate, seconds - sample - learn - sync - evaluate)

    @property
    def total(self) -> float:
        """All seconds."""
        return self.sample + self.learn + self.sync + self.evaluate + self.other


@dataclass(frozen=True, slots=True)
class Busy:
    """How long the env runners were busy sampling in one iteration [s].

    Attributes:
        typical: of the lower median env runner. Not the mean: one slow env runner is a straggler and must not look like contention,
            which slows all of them.
        longest: of the one that took longest.
    """

    typical: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Busy:
        """Return the lower median and the longest of the runners' busy times; NaN for none."""
        return cls(median_low(seconds), max(seconds)) if seconds else cls(NAN, NAN)


CAUSES: Final[Mapping[str, str]] = {
    "serial_stepping": "sub-envs of one env runner that step one after another",
    "contention": "env runners that slow each other down (cores, caches, memory)",
    "straggler": "waiting for the slowest env runner",
    "transfer": "requests to the env runners and their results on the way",
    "learn": "the learner update, which does not get faster with N",
    "sync": "weights and connector states on the way to the env runners",
    "evaluate": "evaluation that holds up training",
    "other": "everything outside these",
}
"""The causes of lost efficiency and what they mean, the four of sampling first."""


@dataclass(frozen=True, slots=True)
class Work:
    """Where the time went, per env step [s]: of the baseline, or of a trial with the same envs per runner and one runner.

    Attributes:
        phases: exclusive times.
        busy: busy time of its one env runner; NaN where not known.
    """

    phases: PhaseTimes
    busy: float

    @classmethod
    def of(cls, parts: Mapping[str, float], env_steps: float) -> Work:
        """Return the work per env step of a window, from its `parts`; NaN where a part is not there."""
        each = {name: parts.get(name, NAN) / env_steps for name in ("sample", "learn", "sync", "other", "busy")}
        return cls(PhaseTimes(each["sample"], each["learn"], each["sync"], 0.0, each["other"]), each["busy"])

    def times(self, factor: float) -> Work:
        """Return `factor` times this work."""
        phases = self.phases
        scaled = PhaseTimes(phases.sample * factor, phases.learn * factor, phases.sync * factor, 0.0, phases.other * factor)
        return Work(scaled, self.busy * factor)


def losses(
    n: int, num_env_runners: int, env_steps: float, phases: PhaseTimes, busy: Busy, baseline: Work, single: float
) -> dict[str, float]:
    """Return the lost percent points of efficiency by cause; they sum to 100 − efficiency.

    Args:
        n: the trial's parallelism N.
        num_env_runners: its env runners, at least 1.
        env_steps: env steps of the iteration.
        phases: exclusive times of the iteration [s].
        busy: busy times of its env runners in the iteration [s].
        baseline: the baseline's work.
        single: busy time of one runner with as many envs (1r×e) for all env steps of the iteration [s]. Where there is no such
            measurement, `busy.typical · num_env_runners`: then stepping sub-envs one after another and contention can't be told
            apart, and both are booked as `serial_stepping`.
    """
    total = phases.total
    at_baseline = baseline.phases
    # Per runner: W = t0/N + [t1e/r − t0/N] + [median − t1e/r] + [max − median] + [W − max], each against the baseline's own part.
    spent = {
        "serial_stepping": single / num_env_runners - baseline.busy * env_steps / n,
        "contention": busy.typical - single / num_env_runners,
        "straggler": busy.longest - busy.typical,
        "transfer": (phases.sample - busy.longest) - (at_baseline.sample - baseline.busy) * env_steps / n,
    }
    for phase in ("learn", "sync", "evaluate", "other"):
        spent[phase] = getattr(phases, phase) - getattr(at_baseline, phase) * env_steps / n
    return {cause: 100 * formulas.ratio(seconds, total) for cause, seconds in spent.items()}


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


def diagnosis(lost: Mapping[str, float]) -> str:
    """Return one line that names the largest cause and what to do about it; "" where nothing is known or lost.

    Args:
        lost: percent points by cause, as `losses` gives them.
    """
    if not lost or any(math.isnan(points) for points in lost.values()):
        return ""
    cause = max(lost, key=lambda name: lost[name])
    total = sum(lost.values())
    if not (total > 0 and lost[cause] > 0):
        return ""
    return f"{cause.replace('_', ' ')}: {lost[cause]:.0f} of {total:.0f} lost points; {_ADVICE[cause]}"
