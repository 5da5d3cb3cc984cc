"""Proposes the configurations that are worth measuring, to any `Tuner`."""

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
from rl_scaling_callback.sweeping.search import Search, Trial
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
    """Looks for the best number of env runners and envs per runner: the baseline first, then what is worth its time.

    `tune.TuneConfig(search_alg=ScalingSearcher([1, 2, 4], [1, 2, 4]), num_samples=-1)` ends by itself. Give the `Tuner` a
    `SteadyStopper` too, or stop trials after enough iterations. Trials with `ScalingCallback` also tell it where efficiency goes,
    and when other programs got in the way: that is measured again, once.

    Args:
        runners: numbers of env runners.
        envs: numbers of envs per env runner.
        goal: what the configuration is for.
        cores: logical cores that the env runners share; NaN where not known.
        trials: what was measured before.
        budget_s: time after which no trial is started any more [s]; None for no limit.
        max_trials: most trials, those measured before included; None for no limit.
        places: what a trial's config gets beside its scale, one mapping for each trial that may run at a time: the node that it
            runs on, say. By default there is one, of nothing: side by side on one machine trials would measure one another.
        cpus: CPUs that a trial holds beside its env runners, and for each of them.
        rule: when a trial counts as steady.
        clock: monotonic seconds.

    Raises:
        ValueError: a value that is not allowed.
    """

    def __init__(
        self,
        runners: Sequence[int],
        envs: Sequence[int],
        goal: str | Goal = "balanced",
        *,
        cores: float = NAN,
        trials: Sequence[Trial] = (),
        budget_s: float | None = None,
        max_trials: int | None = None,
        places: Sequence[Mapping[str, Any]] = ({},),
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
        self._places = tuple(places)
        self._clock = clock
        self._started = clock()
        self._windows = Windows(rule)
        self._running: dict[str, _Running] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Return True: a metric may be given to Tune, and changes nothing here."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration to measure next, None to wait for one that is being measured, or `FINISHED`."""
        running = self.measuring
        taken = {trial.place for trial in self._running.values()}
        place = next((place for place in range(len(self._places)) if place not in taken), None)
        if place is None:
            return None
        scale = self._next(running)
        if scale is None:
            return None if running else Searcher.FINISHED
        self._running[trial_id] = _Running(scale, place, self._clock())
        return {
            "num_env_runners": scale.num_env_runners,
            "num_envs_per_env_runner": scale.num_envs_per_env_runner,
            **self._places[place],
        }

    def _next(self, running: Sequence[Scale]) -> Scale | None:
        spent = self._clock() - self._started
        if self._budget_s is not None and spent >= self._budget_s:
            return None
        if self._max_trials is not None and self.started >= self._max_trials:
            return None
        again = worth_repeating(self.trials)
        if again is not None and again not in running:
            return again
        return self.search.propose(undisturbed(self.trials), running)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take in an iteration; Tune gives it flattened."""
        trial = self._running.get(trial_id)
        # A trial that is stopped from outside ends with a result that was here already.
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
        """Take in what the trial measured; one that ended with an error gave no throughput."""
        if result is not None:
            self.on_trial_result(trial_id, result)
        self._windows.forget(trial_id)
        trial = self._running.pop(trial_id, None)
        if trial is None:
            return
        seconds = self._clock() - trial.started
        # With an env runner missing, it is not the throughput of this configuration.
        if error or trial.steady is None or trial.healthy < trial.scale.num_env_runners:
            self.trials.append(Trial(trial.scale, seconds, None))
        else:
            others = [cores for cores in trial.others if not math.isnan(cores)]
            self.trials.append(Trial(trial.scale, seconds, trial.steady, fmean(others) if others else NAN))

    def choose(self, goal: Goal | None = None) -> Scale | None:
        """Return the best configuration of those measured, by all measurements taken together; None without the baseline.

        Args:
            goal: what it is for; the searcher's own by default.
        """
        return replace(self.search, goal=goal or self.search.goal).choose(undisturbed(self.trials))

    @property
    def measuring(self) -> tuple[Scale, ...]:
        """The configurations that are being measured."""
        return tuple(trial.scale for trial in self._running.values())

    @property
    def started(self) -> int:
        """How many trials were started, those measured before and those that still run included."""
        return len(self.trials) + len(self._running)

    def time_left(self) -> str:
        """Return what is left of the budget, for the reader; "" without a budget."""
        if self._budget_s is None:
            return ""
        return f", {max(0.0, self._budget_s - (self._clock() - self._started)) / 60:.1f} of {self._budget_s / 60:g} min left"

    def save(self, checkpoint_path: str) -> None:
        """Write what was measured."""
        Path(checkpoint_path).write_text(json.dumps([_to_json(trial) for trial in self.trials]), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Read what was measured; a trial that was running then is proposed again."""
        self.trials = [_from_json(trial) for trial in json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))]
        self._running.clear()
        self._windows.clear()


def _to_json(trial: Trial) -> dict[str, Any]:
    return {**asdict(trial), "scale": trial.scale.slug}


def _from_json(document: Mapping[str, Any]) -> Trial:
    steady = document["steady"]
    return Trial(**{**document, "scale": Scale.parse(document["scale"]), "steady": None if steady is None else Steady(**steady)})
