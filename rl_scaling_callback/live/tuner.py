"""Makes a trial faster by itself: chooses the env runners that sample, their envs and the learner's threads, and proves the gain.

Neither the batch, nor anything else that learning depends on, nor the CPUs of the trial change.

Where the learner can use more threads, the first iterations use different numbers of them in turn, in random order within blocks.
The learner's own time per env step decides, if whole iterations are faster as well. Rounds of probes, as in a sweep, then choose
the scale. At the new scale, four to eight iterations measure the gain in throughput. If its interval includes no gain, the trial
goes back, unless its own scale misses a goal that the new one meets. The learner's time at two scales may change the choice once
more, because an update takes longer with more envs. The machine may be faster or slower by then, so the error of the gain is at
least its difference from the gain that probes predicted.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from rl_scaling_callback.analysis.choice import INDIFFERENCE, Goal, may_meet, noise
from rl_scaling_callback.analysis.probe_rounds import REST, ROUNDS_S, ProbeRounds, TrainedIteration
from rl_scaling_callback.analysis.race import Grid, Outcome, Race, powers_of_two
from rl_scaling_callback.analysis.thread_choice import compare_threads, thread_counts
from rl_scaling_callback.core.attribution import NOT_MEASURED
from rl_scaling_callback.core.estimates import as_percent, student_t
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.probing import Probe, ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import Warn, counted
from rl_scaling_callback.core.trial import Trial
from rl_scaling_callback.rllib import configs, hardware
from rl_scaling_callback.rllib.threads import learner_threads, max_learner_threads, set_learner_threads

if TYPE_CHECKING:
    from rl_scaling_callback.rllib.prober import Prober
    from rl_scaling_callback.rllib.rescale import Rescaler

logger = logging.getLogger("rl_scaling_callback")

_ITERATIONS: Final = 4
"""Iterations of each kind that are compared. Four have a 95 % interval of ± 1.7 standard deviations of one, for the difference."""
_MAX_ITERATIONS: Final = 8
_MAX_MOVES: Final = 3
_MAX_UNUSABLE: Final = 10
"""Unusable iterations in a row after which it gives up."""

_T = TypeVar("_T")
Steps = Generator[int | None, TrainedIteration, _T]
"""Each `yield` returns the next training iteration, and may give the number of the learner's threads for it; None leaves them."""


@dataclass(frozen=True, slots=True)
class Threads:
    """The learner's threads: their number as configured, the largest worth trying, and what sets it."""

    own: float = NAN
    most: int = 1
    apply: Callable[[int], None] = lambda threads: None


class Gain(NamedTuple):
    """A ratio of two throughputs [×], and the half-width of its 95 % interval [%]."""

    ratio: float = 1.0
    error: float = 0.0

    @property
    def is_proven(self) -> bool:
        """Whether the interval excludes no gain."""
        return math.log(self.ratio) > math.log1p(self.error / 100)

    def with_min_error(self, half_width: float) -> Gain:
        """Return the gain with an error of at least `half_width`, as ln."""
        return Gain(self.ratio, max(self.error, as_percent(half_width)))

    @classmethod
    def of(cls, before: Sequence[TrainedIteration], after: Sequence[TrainedIteration]) -> Gain:
        """Return the gain between two kinds of iterations, at least two of each (Student's t with pooled variance)."""
        speeds = [[math.log(each.env_steps / each.seconds) for each in kind] for kind in (before, after)]
        dof = len(before) + len(after) - 2
        squares = sum((speed - fmean(kind)) ** 2 for kind in speeds for speed in kind)
        half_width = student_t(dof) * math.sqrt(squares / dof * sum(1 / len(kind) for kind in speeds))
        return cls(math.exp(fmean(speeds[1]) - fmean(speeds[0])), as_percent(min(half_width, 10.0)))


class Tuner:
    """Tunes one trial of scale `scale` for a goal, among the scales of `grid`; without a prober, only the learner's threads.

    Iterations must have as many env steps at each scale, unless `steps_vary`.

    Attributes:
        scale: the scale of the next iteration.
        threads: the number of the learner's threads in the next iteration; NaN if unknown.
        gain: the measured gain in throughput [×]; 1 if nothing was worth changing, NaN until it is known.
        gain_error: half-width of its 95 % interval [%].
        thread_comparison: what other numbers of threads bring, for readers.
        is_over: whether tuning is over.
    """

    def __init__(
        self,
        scale: Scale,
        grid: Grid,
        *,
        goal: Goal,
        prober: Prober | None,
        rescaler: Rescaler,
        threads: Threads,
        warn: Warn,
        steps_vary: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.own, self._grid, self._goal = scale, grid, goal
        self._prober, self.rescaler, self._threads = prober, rescaler, threads
        self._warn, self._clock, self._steps_vary = warn, clock, steps_vary
        self.scale, self.threads = scale, threads.own
        self.gain = self.gain_error = NAN
        self.thread_comparison = NOT_MEASURED
        self.is_over = False
        self._spent_s, self._unusable = 0.0, 0  # seconds, and iterations in a row
        self._prediction_error = 0.0  # ln of the ratio between the gain of another scale as measured and as predicted
        self._reason = "nothing else is faster beyond noise"
        self._steps = self._tune()
        next(self._steps)

    def observe(self, scaling: dict[str, Any]) -> float:
        """Take note of an iteration, given its injected dict, add `tuned` to it, do what is next; return how long that took [s].

        It may probe, which takes seconds.
        """
        scaling["tuned"] = tuned = {name: float(number) for name, number in self.scale.settings.items()}
        tuned["learner_threads"] = self.threads
        taken = 0.0 if self.is_over else self._go_on(_iteration_of(scaling, self.scale))
        tuned |= {"gain": self.gain, "gain_error": self.gain_error}
        return taken

    def _go_on(self, iteration: TrainedIteration | None) -> float:
        started, outcome = self._clock(), None
        self._unusable = 0 if iteration is not None else self._unusable + 1
        try:
            if iteration is not None:
                if (threads := self._steps.send(iteration)) is not None:
                    self._use(threads)
            elif self._unusable >= _MAX_UNUSABLE:
                self._give_up("env runners delivered no samples, or times are unknown, in too many iterations")
        except StopIteration as end:
            outcome, self.is_over = end.value, True
            if outcome is None:  # Ctrl-C during a probe ended it
                self._give_up("it was interrupted")
        except Exception as error:
            self._give_up(str(error))
        taken = self._clock() - started
        self._spent_s += taken
        if outcome is not None:
            logger.warning("ScalingCallback: autotune: %s. It took %.0f s beside training", outcome, self._spent_s)
        if self.is_over:
            self.end()
        return taken

    def _give_up(self, reason: str) -> None:
        self.is_over = True
        self.gain, self.gain_error = Gain()
        outcome = "The trial goes on as configured."
        try:
            if self.scale != self.own:
                self.scale = self.own
                self.rescaler.apply(self.own)
            if self._has_other_threads:
                self._use(int(self._threads.own))
        except Exception as error:
            self.gain = self.gain_error = NAN
            outcome = f"It couldn't go back to {self.own} ({error}): do its env runners still sample?"
        self._warn("autotune gave up", f"autotune gave up: {reason}. {outcome}")

    def end(self) -> None:
        """Close the envs created for probes, and stop the env runners that don't sample."""
        self.is_over = True
        if self._prober is not None:
            self._prober.close()
        self.rescaler.settle()

    def _use(self, threads: int) -> None:
        self._threads.apply(threads)
        self.threads = float(threads)

    def _tune(self) -> Steps[str]:
        """Tune the threads and the scale, and return what came of it."""
        while not (yield None).parts["learn"] > 0:  # the first update is slow, and off-policy algorithms sample first
            pass
        before, after = yield from self._tune_threads([(yield None)])
        yield from _collect(before, _ITERATIONS)
        if self._prober is not None:
            try:
                after = yield from self._tune_scale(self._prober, after)
            except ProbeError as error:
                self._reason = "the number of envs can't be changed"
                self._warn("envs not tuned", f"autotune can't change the envs: {error}")
        if self.scale != self.own and not self._has_other_threads:  # the learner's share is larger now
            _, after = yield from self._tune_threads(after)
        own, scale = self._named(self.own, self._threads.own), self.scale
        if scale == self.own and not self._has_other_threads:
            self.gain, self.gain_error = Gain()
            return f"{own} stays: {self._reason}"
        self.gain, self.gain_error = Gain.of(before, after).with_min_error(self._prediction_error if scale != self.own else 0.0)
        pin = scale.code
        if self._has_other_threads:
            pin += f", and learner_threads={self.threads:.0f} in ScalingCallback"
        gain = f"{self.gain:.2f}× ± {self.gain_error:.0f} % as fast"
        return f"{self._named(scale, self.threads)} instead of {own}, {gain}. To pin it: {pin}"

    @property
    def _has_other_threads(self) -> bool:
        return self.threads != self._threads.own and not math.isnan(self.threads)  # unknown ones were not changed

    def _named(self, scale: Scale, threads: float) -> str:
        return f"{scale} with {counted(int(threads), 'learner thread')}" if self._threads.most > 1 else f"{scale}"

    def _tune_scale(self, prober: Prober, before: list[TrainedIteration]) -> Steps[list[TrainedIteration]]:
        """Choose the scale, train there, and return iterations.

        Without a proven gain, it goes back, unless only the new scale meets the goal.
        """
        # The trial holds all of its CPUs at any scale.
        rounds = ProbeRounds(Race(self._goal, cpus=lambda _: 1.0), self._grid, self._clock, iterations=list(before))
        reference = Scale(min(1, self.own.num_env_runners), 1)
        scales = [reference, *sorted({self.own, *self._grid.smallest(2)})]

        def probe(scale: Scale) -> Probe | str:
            try:
                return prober.measure([scale])[0][scale]
            except ProbeError as error:
                if scale == self.own:
                    raise
                return str(error)

        outcome = rounds.run(scales, probe, lambda _: rounds.first_round_ended + ROUNDS_S)
        trained = {self.own: before}
        while len(trained) <= _MAX_MOVES and (scale := _next_to_train(outcome, [*trained], self._grid.fits)) is not None:
            prober.close()
            yield from self._move(scale)
            trained[self.scale] = yield from _collect([], _ITERATIONS)
            self._check_batch(before, trained[self.scale])
            rounds.iterations += trained[self.scale]
            outcome = rounds.outcome()
        candidates = {each.scale: each for each in outcome.candidates}
        meets = {scale: may_meet(candidates[scale], self._goal) for scale in trained}
        speeds = {scale: _speed(each) for scale, each in trained.items() if meets[scale] or not any(meets.values())}
        equals = [scale for scale, speed in speeds.items() if speed > max(speeds.values()) - INDIFFERENCE]
        best = min(equals, key=lambda scale: (scale != self.own, scale.parallelism, scale.num_env_runners))
        yield from self._move(best)

        def gain_of(scale: Scale) -> Gain:
            gain = Gain.of(before, trained[scale])
            self._prediction_error = abs(math.log(gain.ratio * candidates[self.own].sps / candidates[scale].sps))
            return gain.with_min_error(self._prediction_error)

        while best != self.own and not gain_of(best).is_proven and len(trained[best]) < _MAX_ITERATIONS:
            trained[best].append((yield None))
        if not gain_of(best).is_proven and (meets[self.own] or not meets[best]):
            yield from self._move(self.own)
            if others := [scale for scale in trained if scale != self.own]:
                gain = gain_of(others[-1])
                self._reason = f"{others[-1]} brought {gain.ratio:.2f}× ± {gain.error:.0f} %"
        return trained[self.scale]

    def _check_batch(self, before: Sequence[TrainedIteration], after: Sequence[TrainedIteration]) -> None:
        """Check that iterations, as those of a `training_step` of the user's own, have as many env steps as before."""
        one, other = (fmean(each.env_steps for each in kind) for kind in (before, after))
        if not (self._steps_vary or configs.same_batch(one, other)):
            raise ValueError(f"an iteration at {self.scale} has {other:,.0f} env steps instead of {one:,.0f}")

    def _move(self, scale: Scale) -> Steps[None]:
        """Train at a scale from now on."""
        if scale != self.scale:
            self.scale = scale
            self.rescaler.apply(scale)
            yield None  # an iteration in which all envs are reset

    def _tune_threads(self, iterations: list[TrainedIteration]) -> Steps[tuple[list[TrainedIteration], list[TrainedIteration]]]:
        """Choose the learner's threads; return iterations with the trial's own number, and with the chosen one.

        Those given, at this scale and with the trial's own number, are returned if there is nothing to choose.
        """
        learner_share = sum(each.parts["learn"] for each in iterations) / sum(each.seconds for each in iterations)
        counts = thread_counts(self._threads.most, self._threads.own, learner_share)
        if not counts:
            return iterations, iterations
        # Without more iterations on a noisy machine, where tuning would outlast short trials.
        choice = yield from compare_threads(counts, int(self._threads.own), _ITERATIONS, has_time=lambda: False)
        self.thread_comparison = f"{choice}"
        if choice.is_gain and not choice.is_proven:
            self._reason = f"{choice.threads} learner threads make iterations no faster beyond noise"
        threads = choice.threads if choice.is_proven else choice.default
        self._use(threads)
        return [block[choice.default] for block in choice.blocks], [block[threads] for block in choice.blocks]


def _collect(iterations: list[TrainedIteration], count: int) -> Steps[list[TrainedIteration]]:
    """Add the next iterations to those of the same kind until there are so many, and return them."""
    while len(iterations) < count:
        iterations.append((yield None))
    return iterations


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


def _next_to_train(outcome: Outcome, trained: Sequence[Scale], fits: Callable[[Scale], bool]) -> Scale | None:
    """Return the scale to train at next, after some, the last of which is the current one; None if there is nothing to find out.

    It is the cheapest of the best configurations that is within the indifference of the fastest, unless the current one is among
    the best, or it is the reference and doesn't fit the batch. Then it is one with another number of env runners that noise may
    hide: where they outnumber the cores, probes in one Algorithm tell least.
    """
    own, *others = trained
    figures = {each.scale: each for each in outcome.candidates}
    fastest = max((figures[scale] for scale in outcome.equals), key=lambda each: each.sps)
    # A tie within noise would take too few envs, which cost memory only.
    best = next(scale for scale in outcome.equals if figures[scale].sps >= (1 - INDIFFERENCE) * fastest.sps)
    if trained[-1] not in outcome.equals and best not in trained and fits(best):
        return best
    known = {scale.num_env_runners for scale in others}
    rivals = [
        each
        for each in outcome.candidates
        if each.scale.num_env_runners not in known and each.scale not in {own, *outcome.out} and fits(each.scale)
    ]
    rival = max(rivals, key=lambda each: each.sps, default=fastest)
    is_equal = abs(math.log(rival.sps / fastest.sps)) <= noise(rival, fastest)
    return rival.scale if others and rivals and is_equal else None


def _speed(iterations: Sequence[TrainedIteration]) -> float:
    """Return the mean of ln of the throughput."""
    return fmean([math.log(each.env_steps / each.seconds) for each in iterations])


def tuner_for(
    algorithm: Any, trial: Trial, goal: Goal, max_envs: int, max_probe_seconds: float, tunes_threads: bool, warn: Warn
) -> Tuner | None:
    """Return the tuner of a trial, with the options of `ScalingCallback`; None, with a warning, if nothing of it can be tuned."""
    from rl_scaling_callback.rllib.prober import Prober, obstacle  # imported here, because all else needs no Ray
    from rl_scaling_callback.rllib.rescale import Rescaler

    config, scale, prober = vars(algorithm.config), trial.scale, None
    if why := obstacle(config):
        warn("not tuned", f"autotune leaves this trial as configured, because {why}")
        return None
    rescaler = Rescaler(algorithm, warn)
    try:
        prober = Prober(algorithm, max_seconds=max_probe_seconds)
        if math.isfinite(prober.env_steps_per_update(scale)):
            raise ProbeError("the number of updates per env step depends on it in this algorithm")
        if algorithm.config.batch_mode != "truncate_episodes":
            raise ProbeError("with complete episodes, the batch depends on it")
        if algorithm.config.count_steps_by != "env_steps":
            raise ProbeError("the batch counts the steps of agents, of which a round may have more")
        if why := rescaler.obstacle():
            raise ProbeError(why)
    except ProbeError as error:
        prober = None
        warn("envs not tuned", f"autotune leaves the number of envs as it is: {error}")
    runners = powers_of_two(scale.num_env_runners) if scale.num_env_runners else [0]
    envs = {*powers_of_two(max_envs), scale.num_envs_per_env_runner}
    grid = Grid(tuple(runners), tuple(sorted(envs)), configs.keeps_batch(algorithm.config, scale))
    threads = Threads(learner_threads(algorithm))
    if tunes_threads and not configs.uses_gpus(config):
        most = max_learner_threads(config, hardware.usable_cores())
        threads = Threads(threads.own, most, functools.partial(set_learner_threads, algorithm))
    return Tuner(
        scale,
        grid,
        goal=goal,
        prober=prober,
        rescaler=rescaler,
        threads=threads,
        warn=warn,
        steps_vary=configs.iterations_are_timed(config),
    )
