"""What both ways of sweeping share: the user's config and its file, the task, and the experiment to report on."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.race import Grid, Race
from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Run, Study
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import percent, rounded
from rl_scaling_callback.rllib.configs import is_asynchronous, iterations_are_timed
from rl_scaling_callback.rllib.hardware import Machine

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

_ALLOWED = "allowed is FILE.py:NAME, where NAME is an AlgorithmConfig or a function without arguments that returns one"

# The user's config


def load_config(source: str) -> AlgorithmConfig:
    """Return the config named by a string such as `my_config.py:config`.

    Modules in the file's folder can be imported, also by Ray's workers.

    Raises:
        ValueError: the file or name doesn't exist, or is not a config.
    """
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    file, _, name = source.rpartition(":")
    if not name or not Path(file).is_file():
        raise ValueError(f"config is {source!r}: there is no file {file or source}; {_ALLOWED}")
    folder = str(Path(file).resolve().parent)
    sys.path.insert(0, folder)
    # Ray's workers inherit the environment of the process that starts Ray.
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    found = vars(_imported(Path(file)))
    if name not in found:
        raise ValueError(f"config is {source!r}: {file} has no {name}; {_ALLOWED}")
    config = found[name]() if callable(found[name]) else found[name]
    if not isinstance(config, AlgorithmConfig):
        raise ValueError(f"config is {source!r}: {name} is {type(config).__name__}; {_ALLOWED}")
    return config


def _imported(file: Path) -> ModuleType:
    """Return a file as a module whose classes and functions Ray pickles by value.

    Workers may not be able to import them by name: they may have started earlier, or run on another machine.
    """
    from ray import cloudpickle

    name = file.stem if file.stem not in sys.modules else f"{file.stem}_of_sweep"
    loader = SourceFileLoader(name, str(file))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # Before the module runs, because Ray pickles what it registers right away.
    cloudpickle.register_pickle_by_value(module)
    loader.exec_module(module)
    return module


def write_config(path: Path, source: str, scale: Scale, reason: str, learner_threads: int | None = None) -> None:
    """Write a Python file whose `config` is the one named by `source`, at another scale, and with these threads unless None."""
    file, _, name = source.rpartition(":")
    place, threads = f"{Path(file).resolve()}:{name}", ""
    if learner_threads is not None:
        threads = f"config = with_learner_threads(config, {learner_threads})\n"
    imports = f"from rl_scaling_callback.sweeping.task import load_config{', with_learner_threads' * bool(threads)}\n"
    reason = " ".join(reason.split())
    config = f"config = load_config({place!r})\nconfig.env_runners({scale.code})\n"
    text = f'"""Tuned by rl-scaling sweep."""\n\n{imports}\n# {reason}\n{config}{threads}'
    path.write_text(text, encoding="utf-8")


def at_scale(config: AlgorithmConfig, scale: Scale) -> AlgorithmConfig:
    """Return a copy of a config at another scale."""
    return config.copy(copy_frozen=False).env_runners(**scale.settings)


def callbacks_of(config: AlgorithmConfig) -> list[Any]:
    """Return the callbacks that the user has set."""
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    given, default = config.callbacks_class, AlgorithmConfig().callbacks_class
    return [each for each in (given if isinstance(given, (list, tuple)) else [given]) if each is not default]


def measures(callback: Any) -> bool:
    """Return whether a callback is a `ScalingCallback`, a subclass of it, or a `functools.partial` of one."""
    from rl_scaling_callback.callback import ScalingCallback

    made = getattr(callback, "func", callback)
    return isinstance(made, type) and issubclass(made, ScalingCallback)


def learner_threads_of(config: AlgorithmConfig) -> int | None:
    """Return the `learner_threads` of a config's `ScalingCallback`; None if it sets none."""
    ours = next(filter(measures, callbacks_of(config)), None)
    threads: int | None = getattr(ours, "keywords", {}).get("learner_threads")
    return threads


def with_learner_threads(config: AlgorithmConfig, threads: int) -> AlgorithmConfig:
    """Return a copy of a config whose `ScalingCallback`, the user's or a new one after the user's callbacks, sets the threads.

    A subclass that doesn't take `learner_threads` is left alone.
    """
    from rl_scaling_callback.callback import ScalingCallback

    callbacks = callbacks_of(config)
    ours: Any = next(filter(measures, callbacks), ScalingCallback)
    tuned: Any = config.copy(copy_frozen=False)
    taken = inspect.signature(ours).parameters.values()
    if any(each.name == "learner_threads" or each.kind is each.VAR_KEYWORD for each in taken):
        place = callbacks.index(ours) if ours in callbacks else len(callbacks)
        callbacks[place : place + 1] = [functools.partial(ours, learner_threads=threads)]
        tuned.callbacks(callbacks)
    return cast("AlgorithmConfig", tuned)


# The task and its result


@dataclass(slots=True)
class Task:
    """What a sweep is to find, and whom it tells about it.

    Attributes:
        config: the config to tune.
        race: the rules.
        grid: the numbers of env runners and of envs to try.
        say: called with progress messages.
        clock: returns monotonic seconds.
    """

    config: AlgorithmConfig
    race: Race
    grid: Grid
    say: Callable[[str], None] = print
    clock: Callable[[], float] = time.monotonic

    def end_early(self, error: BaseException) -> bool:
        """Say why the sweep ends, and return whether the user interrupted it."""
        interrupted = isinstance(error, KeyboardInterrupt)
        self.say(f"{'Interrupted' if interrupted else f'Ended early ({error})'}: showing the results so far")
        return interrupted

    def tell_leader(self, number: int, choice: Configuration, more: str = "") -> None:
        """Say `"Round 3: 2r×8e leads, 3.41× ± 12 %"`."""
        error = f" {percent(choice.speedup_error)}" if choice.speedup_error > 0 else ""
        self.say(f"Round {number}: {choice.scale} leads, {rounded(choice.speedup, 2, '×')}{error}{more}")

    def experiment(
        self, machine: Machine, runs: Sequence[Run], failed: Mapping[Scale, str], source: str, *, from_probes: bool
    ) -> Experiment:
        """Return the experiment of the sweep, whose source says what was measured.

        If `from_probes`, each run is an iteration to expect, with an error relative to the others, instead of a measured window.
        """
        import ray

        settings, algorithm, env = vars(self.config), cast(Any, self.config.algo_class).__name__, self.config.env
        name = str(env if isinstance(env, str) else getattr(env, "__name__", "env"))
        overlaps = is_asynchronous(settings)
        study = Study(
            f"{algorithm} on {name}",
            tuple(runs),
            facts={"algorithm": algorithm, "env": name, "cpu": machine.cpu, "ray": ray.__version__},
            phases_overlap=overlaps,
            steps_vary=overlaps and iterations_are_timed(settings),
            from_probes=from_probes,
        )
        return Experiment(source, (study,), tuple(LeftOut(str(scale), why) for scale, why in failed.items()))


class SweepResult(NamedTuple):
    """The measurements of a sweep, whether the user interrupted it, and the learner's threads to set at a scale, if any."""

    experiment: Experiment
    interrupted: bool
    learner_threads: Mapping[Scale, int]
