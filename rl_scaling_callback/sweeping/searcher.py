"""A Tune searcher that proposes the configurations worth measuring."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from ray.tune.search import Searcher
from ray.tune.utils.util import unflatten_dict  # type: ignore[attr-defined]

from rl_scaling_callback import rllib
from rl_scaling_callback.analysis.goals import Goal
from rl_scaling_callback.analysis.interference import undisturbed, worth_repeating
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE, Steady, SteadyRule
from rl_scaling_callback.sweeping.search import Search, TrialOutcome
from rl_scaling_callback.sweeping.windows import Windows

_OTHERS: Final = "cores/others"


@dataclass(slots=True)
class _Running:
    scale: Scale
    place: int
    started: float
    last: object = None
    steady: Steady | None = None
    healthy: float = NAN
    others: list[float] = field(default_factory=list)


class ScalingSearcher(Searcher):
    """Searches for the best number of env runners and envs per runner, starting with the baseline.

    `tune.TuneConfig(search_alg=ScalingSearcher([1, 2, 4], [1, 2, 4]), num_samples=-1)` ends by itself. Combine it with a
    `SteadyStopper`, or stop trials after enough iterations. With `ScalingCallback`, trials also report where efficiency is lost and
    how busy other programs were; disturbed trials are repeated once.

    Args:
        runners: numbers of env runners.
        envs: numbers of envs per env runner.
        goal: the goal of the choice.
        cores: logical cores that the env runners share; NaN if unknown.
        trials: earlier measurements.
        budget_s: time after which no more trials are started [s]; None for no limit.
        max_trials: maximum number of trials, including earlier ones; None for no limit.
        slots: settings added to a trial's config, such as the node to run on: one mapping per concurrent trial. By default a
            single empty mapping, since concurrent trials on one machine would disturb each other.
        cpus: CPUs allocated to a trial other than for its env runners, and per env runner.
        rule: when a trial counts as steady.
        clock: returns monotonic time [s].

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        runners: Sequence[int],
        envs: Sequence[int],
        goal: str | Goal = "balanced",
        *,
        cores: float = NAN,
        trials: Sequence[TrialOutcome] = (),
        budget_s: float | None = None,
        max_trials: int | None = None,
        slots: Sequence[Mapping[str, Any]] = ({},),
        cpus: tuple[float, float] = (1.0, 1.0),
        rule: SteadyRule = DEFAULT_RULE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        goal = goal if isinstance(goal, Goal) else Goal.of(goal)
        self.search = Search(tuple(runners), tuple(envs), goal, cores, cpus=cpus)
        self.trials = list(trials)
        self._budget_s = budget_s
        self._max_trials = max_trials
        self._slots = tuple(slots)
        self._clock = clock
        self._started = clock()
        self._windows = Windows(rule)
        self._running: dict[str, _Running] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Return True: Tune's metric and mode are accepted but not used."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration to measure next, None to wait for a running trial, or `FINISHED`."""
        running = self.measuring
        taken = {trial.place for trial in self._running.values()}
        place = next((place for place in range(len(self._slots)) if place not in taken), None)
        if place is None:
            return None
        scale = self._next(running)
        if scale is None:
            return None if running else Searcher.FINISHED
        self._running[trial_id] = _Running(scale, place, self._clock())
        return {
            "num_env_runners": scale.num_env_runners,
            "num_envs_per_env_runner": scale.num_envs_per_env_runner,
            **self._slots[place],
        }

    def _next(self, running: Sequence[Scale]) -> Scale | None:
        if self._budget_s is not None and self._spent_s >= self._budget_s:
            return None
        if self._max_trials is not None and self.started >= self._max_trials:
            return None
        again = worth_repeating(self.trials)
        if again is not None and again not in running:
            return again
        return self.search.propose(undisturbed(self.trials), running)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record an iteration of a trial. Tune passes its result flattened."""
        trial = self._running.get(trial_id)
        # A trial stopped from outside reports its last result twice.
        if trial is not None and trial.last != result.get("training_iteration"):
            trial.last = result.get("training_iteration")
            nested = unflatten_dict(result)
            before, trial.steady = trial.steady, self._windows.add(trial_id, nested)
            if trial.steady.iterations > (before.iterations if before else 0):
                trial.others.append(rllib.read_injected(nested, [_OTHERS]).get(_OTHERS, NAN))
            trial.healthy = rllib.read_fleet(nested)[0]
            if config := nested.get("config"):
                timed = rllib.iterations_are_timed(config) or rllib.steps_follow_scale(config)
                self.search = replace(self.search, overlaps=rllib.is_asynchronous(config), timed=timed)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record the measurement of a trial; a trial with an error counts as failed."""
        if result is not None:
            self.on_trial_result(trial_id, result)
        self._windows.forget(trial_id)
        trial = self._running.pop(trial_id, None)
        if trial is None:
            return
        seconds = self._clock() - trial.started
        # With an env runner missing, the throughput isn't that of this configuration.
        if error or trial.steady is None or trial.healthy < trial.scale.num_env_runners:
            self.trials.append(TrialOutcome(trial.scale, seconds, None))
        else:
            others = [cores for cores in trial.others if not math.isnan(cores)]
            self.trials.append(TrialOutcome(trial.scale, seconds, trial.steady, fmean(others) if others else NAN))

    def choose(self, goal: Goal | None = None) -> Scale | None:
        """Return the best configuration measured so far; None without a baseline.

        Args:
            goal: the goal of the choice; the searcher's by default.
        """
        return replace(self.search, goal=goal or self.search.goal).choose(undisturbed(self.trials))

    @property
    def measuring(self) -> tuple[Scale, ...]:
        """The configurations of running trials."""
        return tuple(trial.scale for trial in self._running.values())

    @property
    def started(self) -> int:
        """Number of trials started, including earlier measurements and running trials."""
        return len(self.trials) + len(self._running)

    @property
    def _spent_s(self) -> float:
        return self._clock() - self._started

    def time_left(self) -> str:
        """Return the remaining budget as text for display; "" without a budget."""
        if self._budget_s is None:
            return ""
        return f", {max(0.0, self._budget_s - self._spent_s) / 60:.1f} of {self._budget_s / 60:g} min left"

    def save(self, checkpoint_path: str) -> None:
        """Save all measurements and the time spent."""
        state = {"spent_s": self._spent_s, "trials": [_to_json(trial) for trial in self.trials]}
        Path(checkpoint_path).write_text(json.dumps(state), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Restore all measurements and the time spent; trials that were running are proposed again."""
        state = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))
        self.trials = [_from_json(trial) for trial in state["trials"]]
        self._started = self._clock() - state["spent_s"]
        self._running.clear()
        self._windows.clear()


def _to_json(trial: TrialOutcome) -> dict[str, Any]:
    return {**asdict(trial), "scale": trial.scale.slug}


def _from_json(document: Mapping[str, Any]) -> TrialOutcome:
    steady = document["steady"]
    return TrialOutcome(
        **{**document, "scale": Scale.parse(document["scale"]), "steady": None if steady is None else Steady(**steady)}
    )
