"""Makes a trial faster by itself: chooses the env runners that sample, their envs and the learner's threads, and proves the gain.

Neither the batch, nor anything else that learning depends on, nor the CPUs of the trial change.

Where the learner can use more threads, the first iterations use different numbers of them in turn, in random order within blocks,
and the learner's own time per env step decides. Rounds of probes, as in a sweep, then choose the scale. At the new scale, as many
iterations as before prove the gain in throughput. If its interval includes no gain, the trial goes back. The learner's time at two
scales may change the choice once more, because an update takes longer with more envs. The machine may be faster or slower by then
than before, so the error of the gain is at least its difference from the gain that probes predicted.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, NamedTuple, Protocol

from rl_scaling_callback.analysis.choice import INDIFFERENCE
from rl_scaling_callback.analysis.goals import Goal, may_meet
from rl_scaling_callback.analysis.probe_rounds import REST, ProbeRounds, TrainedIteration
from rl_scaling_callback.analysis.race import Grid, Outcome, Race
from rl_scaling_callback.analysis.thread_choice import MIN_LEARN_SHARE, Block, choose_threads, thread_counts
from rl_scaling_callback.baseline.source import Warn
from rl_scaling_callback.core.estimates import student_t
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.probing import Probe, ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import counted

MIN_FRAGMENT: Final = 16
"""Fewest env steps of each env in an iteration: with fewer, advantages (GAE) rest on the value function alone."""

_ITERATIONS: Final = 4
"""Iterations of each kind that are compared. Four have a 95 % interval of ± 1.7 standard deviations of one, for the difference."""
_MAX_ITERATIONS: Final = 8
_MAX_MOVES: Final = 2
_PROBING_S: Final = 12.0
"""Time limit for the rounds of probes after the first one, as in a sweep."""
_MAX_UNUSABLE: Final = 10
"""Unusable iterations in a row after which it gives up."""
_PRECISE: Final = 0.1
"""Half-width of the interval of ln of an update's gain from which on more iterations aren't worth their time."""


class Rescaler(Protocol):
    """Changes the scale of an Algorithm (see `rllib.rescale`)."""

    def apply(self, scale: Scale) -> None:
        """Train at a scale from the next iteration on."""

    def reapply(self, env_runners: Iterable[int]) -> None:
        """Rescale env runners that were restarted."""

    def settle(self) -> None:
        """Stop the env runners that don't sample."""


class Prober(Protocol):
    """Measures scales inside the trial (see `rllib.prober`)."""

    def measure(self, scales: Sequence[Scale], rounds: int = 1) -> list[dict[Scale, Probe]]:
        """Return the probes of each of `rounds` rounds."""

    def close(self) -> None:
        """Close all envs created for probes."""


@dataclass(frozen=True, slots=True)
class Threads:
    """The learner's threads.

    Attributes:
        own: their number as configured; NaN if unknown.
        most: largest number worth trying; at most `own` if they can't be tuned.
        apply: sets it.
    """

    own: float = NAN
    most: int = 1
    apply: Callable[[int], None] = lambda threads: None


class Gain(NamedTuple):
    """A ratio of two throughputs [×], and the half-width of its 95 % interval [%]."""

    ratio: float
    error: float

    @property
    def is_proven(self) -> bool:
        """Whether the interval excludes no gain."""
        return math.log(self.ratio) > math.log1p(self.error / 100)

    def at_least(self, half_width: float) -> Gain:
        """Return the gain with an error of at least `half_width`, as ln."""
        return Gain(self.ratio, max(self.error, 100 * math.expm1(half_width)))

    @classmethod
    def of(cls, before: Sequence[TrainedIteration], after: Sequence[TrainedIteration]) -> Gain:
        """Return the gain between two kinds of iterations, at least two of each (Student's t with pooled variance)."""
        speeds = [[math.log(each.env_steps / each.seconds) for each in kind] for kind in (before, after)]
        means, counts = [_speed(kind) for kind in (before, after)], [len(before), len(after)]
        dof = sum(counts) - 2
        squares = sum((speed - mean) ** 2 for kind, mean in zip(speeds, means, strict=True) for speed in kind)
        half_width = student_t(dof) * math.sqrt(squares / dof * sum(1 / count for count in counts))
        return cls(math.exp(means[1] - means[0]), 100 * math.expm1(min(half_width, 10.0)))


class Tuner:
    """Tunes one trial.

    Args:
        scale: the trial's own scale.
        reference: the smallest scale that can be probed.
        grid: the scales to try.
        fits: whether a scale leaves the batch as it is.
        goal: what to tune for.
        prober: measures scales; None if they can't be tuned.
        rescaler: changes the scale.
        threads: the learner's threads.
        warn: logs a warning once.
        say: logs a line.
        clock: returns monotonic seconds.

    Attributes:
        scale: the scale of the next iteration.
        threads: the learner's threads in it; NaN if unknown.
        gain: the proven gain in throughput [×]; 1 if nothing was worth changing, NaN until it is known.
        gain_error: half-width of its 95 % interval [%].
        rescaler: changes the scale.
        is_over: whether tuning is over.
    """

    def __init__(
        self,
        scale: Scale,
        reference: Scale,
        grid: Grid,
        fits: Callable[[Scale], bool],
        *,
        goal: Goal,
        prober: Prober | None,
        rescaler: Rescaler,
        threads: Threads,
        warn: Warn,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.own, self._reference, self._grid, self._fits = scale, reference, grid, fits
        self._race = Race(goal, cpus=lambda _: 1.0)  # the trial holds all of its CPUs at any scale
        self._prober, self.rescaler, self._threads = prober, rescaler, threads
        self._warn, self._say, self._clock = warn, say, clock
        self.scale, self.threads = scale, threads.own
        self.gain = self.gain_error = NAN
        self._spent_s = self._unreported_s = self._since = 0.0
        self._unusable = 0  # iterations in a row
        self._apart = 0.0  # ln of the ratio between the gain of another scale as measured and as predicted
        self._reason = "nothing else is faster beyond noise"
        self._random = random.Random()
        self._steps = self._tune()
        next(self._steps)
        self.is_over = False

    @property
    def setting(self) -> dict[str, float]:
        """The setting of the next iteration, as injected."""
        return {
            "num_env_runners": float(self.scale.num_env_runners),
            "num_envs_per_env_runner": float(self.scale.num_envs_per_env_runner),
            "learner_threads": self.threads,
        }

    def observe(self, scaling: Mapping[str, Any]) -> None:
        """Take note of an iteration, given its injected dict, and do what is next. It may probe, which takes seconds."""
        if self.is_over:
            return
        self._since = self._clock()
        iteration = _iteration_of(scaling, self.scale)
        self._unusable = 0 if iteration is not None else self._unusable + 1
        try:
            if iteration is not None:
                self._steps.send(iteration)
            elif self._unusable >= _MAX_UNUSABLE:
                self._give_up("env runners delivered no samples, or times are unknown, in too many iterations")
        except StopIteration:
            if not self.gain > 0:  # Ctrl-C during a probe ended it
                self._give_up("it was interrupted")
            self.is_over = True
        except Exception as error:
            self._give_up(str(error))
        self._unreported_s += self._clock() - self._since
        self._spent_s += self._clock() - self._since
        if self.is_over:
            self.end()

    def take_seconds(self) -> float:
        """Return the seconds spent outside of iterations since the last call."""
        taken, self._unreported_s = self._unreported_s, 0.0
        return taken

    def _give_up(self, reason: str) -> None:
        self.is_over, self.gain, self.gain_error = True, 1.0, 0.0
        outcome = "The trial goes on as configured."
        try:
            self._go_back()
        except Exception as error:
            self.gain = self.gain_error = NAN
            outcome = f"It couldn't go back to {self.own} ({error}): do its env runners still sample?"
        self._warn("autotune gave up", f"autotune gave up: {reason}. {outcome}")

    def _go_back(self) -> None:
        if self.scale != self.own:
            self.scale = self.own
            self.rescaler.apply(self.own)
        if self._has_other_threads:
            self._use(int(self._threads.own))

    def end(self) -> None:
        """Close the envs created for probes, and stop the env runners that don't sample."""
        self.is_over = True
        if self._prober is not None:
            self._prober.close()
        self.rescaler.settle()

    def _use(self, threads: int) -> None:
        self._threads.apply(threads)
        self.threads = float(threads)

    def _tune(self) -> Generator[None, TrainedIteration, None]:
        first = yield  # it is slow
        while not first.parts["learn"] > 0:  # off-policy algorithms sample first
            first = yield
        before = [(yield)]
        with_own, after = yield from self._tune_threads(before)
        are_tuned = with_own is not before
        before = with_own
        while len(before) < _ITERATIONS:
            before.append((yield))
        if self._prober is not None:
            try:
                after = yield from self._tune_scale(after)
            except ProbeError as error:
                self._reason = "the number of envs can't be changed"
                self._warn("autotune", f"autotune can't change the envs: {error}")
        if self.scale != self.own and not are_tuned:  # the learner's share is larger now
            _, after = yield from self._tune_threads(after)
        if self.scale == self.own and not self._has_other_threads:
            self.gain, self.gain_error = 1.0, 0.0
            self._say(f"autotune: {self._setting} stays: {self._reason} ({self._seconds:.0f} s)")
            return
        self.gain, self.gain_error = Gain.of(before, after).at_least(self._apart if self.scale != self.own else 0.0)
        scale = self.scale
        pin = f"num_env_runners={scale.num_env_runners}, num_envs_per_env_runner={scale.num_envs_per_env_runner}"
        if self._has_other_threads:
            pin += f", and learner_threads={self.threads:.0f} in ScalingCallback"
        self._say(
            f"autotune: {self._setting} instead of {self._named(self.own, self._threads.own)}, {self.gain:.2f}× ± "
            f"{self.gain_error:.0f} % as fast, found in {self._seconds:.0f} s beside training. To pin it: {pin}"
        )

    @property
    def _seconds(self) -> float:
        """Time spent outside of iterations so far [s]."""
        return self._spent_s + self._clock() - self._since

    @property
    def _has_other_threads(self) -> bool:
        return abs(self.threads - self._threads.own) > 0  # both may be unknown

    @property
    def _setting(self) -> str:
        return self._named(self.scale, self.threads)

    def _named(self, scale: Scale, threads: float) -> str:
        return f"{scale} with {counted(int(threads), 'learner thread')}" if self._threads.most > 1 else f"{scale}"

    def _tune_scale(self, before: Sequence[TrainedIteration]) -> Generator[None, TrainedIteration, list[TrainedIteration]]:
        """Choose the scale, train there, and go back if the gain isn't proven; return iterations at the scale it stays at."""
        assert self._prober is not None
        rounds = ProbeRounds([], iterations=list(before))
        self._add(rounds, {self._reference, self.own, *self._grid_of(self._grid.envs[:2])})
        outcome = self._probe(rounds)
        trained = {self.own: list(before)}
        while len(trained) <= _MAX_MOVES and self.scale not in outcome.equals and outcome.choice not in trained:
            self._prober.close()
            yield from self._move(outcome.choice)
            trained[self.scale] = []
            while len(trained[self.scale]) < _ITERATIONS:
                trained[self.scale].append((yield))
            rounds.iterations += trained[self.scale]
            outcome = rounds.judge(self._race)
        meets = {each.scale: may_meet(each, self._race.goal) for each in outcome.candidates}
        speeds = {scale: _speed(each) for scale, each in trained.items() if meets[scale] or not any(map(meets.get, trained))}
        equals = [scale for scale, speed in speeds.items() if speed > max(speeds.values()) - INDIFFERENCE]
        best = min(equals, key=lambda scale: (scale != self.own, scale.parallelism, scale.num_env_runners))
        yield from self._move(best)
        predicted = {each.scale: math.log(each.sps) for each in outcome.candidates}

        def gain_of(scale: Scale) -> Gain:
            gain = Gain.of(before, trained[scale])
            self._apart = abs(math.log(gain.ratio) - predicted[scale] + predicted[self.own])
            return gain.at_least(self._apart)

        while best != self.own and not gain_of(best).is_proven and len(trained[best]) < _MAX_ITERATIONS:
            trained[best].append((yield))
        if not gain_of(best).is_proven and meets[self.own]:
            yield from self._move(self.own)
            if others := [scale for scale in trained if scale != self.own]:
                gain = gain_of(others[-1])
                self._reason = f"{others[-1]} brought {gain.ratio:.2f}× ± {gain.error:.0f} %"
        return trained[self.scale]

    def _move(self, scale: Scale) -> Generator[None, TrainedIteration, None]:
        """Train at a scale from now on."""
        if scale != self.scale:
            self.scale = scale
            self.rescaler.apply(scale)
            yield  # an iteration in which all envs are reset

    def _tune_threads(
        self, iterations: list[TrainedIteration]
    ) -> Generator[None, TrainedIteration, tuple[list[TrainedIteration], list[TrainedIteration]]]:
        """Choose the learner's threads; return iterations with the trial's own number, and with the chosen one.

        Args:
            iterations: iterations at this scale, with the trial's own number; returned if there is nothing to choose.
        """
        learner_share = sum(each.parts["learn"] for each in iterations) / sum(each.seconds for each in iterations)
        if self._threads.most < 2 or not self._threads.own >= 1 or learner_share < MIN_LEARN_SHARE:
            return iterations, iterations
        own = int(self._threads.own)
        counts, blocks = thread_counts(self._threads.most, own), list[Block]()
        while True:
            block: dict[int, TrainedIteration] = {}
            for count in self._random.sample(counts, len(counts)):
                self._use(count)
                block[count] = yield
            blocks.append(block)
            choice = choose_threads(blocks, own)
            is_clear = choice.is_gain or choice.half_width < _PRECISE
            if len(blocks) >= (_ITERATIONS if is_clear else _MAX_ITERATIONS):
                break
        self._use(choice.threads)
        return [block[own] for block in blocks], [block[choice.threads] for block in blocks]

    def _probe(self, rounds: ProbeRounds) -> Outcome:
        """Run rounds of probes until the choice is clear or the time is up."""
        until = math.inf
        while True:
            self._run_round(rounds)
            outcome = rounds.judge(self._race)
            number = len(rounds.probes)
            until = self._clock() + _PROBING_S if number == 1 else until
            larger = [each for each in self._race.worth_adding(outcome, self._grid) if self._fits(each)] if number > 1 else []
            more = {*larger} - {*rounds.scales}
            if (outcome.over and not more) or self._clock() > until:
                return outcome
            rounds.out = outcome.out
            self._add(rounds, more)

    def _run_round(self, rounds: ProbeRounds) -> None:
        assert self._prober is not None
        found: dict[Scale, Probe] = {}
        for scale in self._random.sample(rounds.running, len(rounds.running)):
            try:
                found |= self._prober.measure([scale])[0]
            except ProbeError as error:  # noqa: PERF203
                if scale in (self.own, self._reference):
                    raise
                rounds.failed[scale] = str(error)
        rounds.probes.append(found)
        rounds.check()

    def _add(self, rounds: ProbeRounds, scales: set[Scale]) -> None:
        rounds.scales += [self._reference] * (not rounds.scales) + sorted(scales - {self._reference, *rounds.scales})
        rounds.steps |= dict.fromkeys(scales, math.inf)

    def _grid_of(self, envs: Sequence[int]) -> list[Scale]:
        scales = [Scale(r, e) for r in self._grid.runners for e in envs]
        return [scale for scale in scales if self._fits(scale)]


def _iteration_of(scaling: Mapping[str, Any], scale: Scale) -> TrainedIteration | None:
    """Return an iteration as read from its injected dict; None if something is unknown, or some env runners delivered nothing."""
    times, runners = scaling["time"], scaling["runners"]
    parts = {phase: times[phase] for phase in (*REST, "sample")}
    resets = runners["reset"] * max(1.0, runners["reported"])
    parts["all_resets"] = resets if resets == resets else 0.0
    seconds = sum(parts[phase] for phase in (*REST, "sample"))
    if scaling["parallelism"] != scale.parallelism or not (seconds > 0 and scaling["env_steps"] > 0):
        return None
    return TrainedIteration(scale, scaling["env_steps"], seconds, parts)


def _speed(iterations: Sequence[TrainedIteration]) -> float:
    """Return the mean of ln of the throughput."""
    return fmean([math.log(each.env_steps / each.seconds) for each in iterations])
