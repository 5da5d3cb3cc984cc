"""`ScalingCallback`: the RLlib callback that measures a trial and injects `result["scaling"]`."""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

try:
    from ray.rllib.callbacks.callbacks import RLlibCallback
except ImportError as error:
    raise ImportError('ScalingCallback needs RLlib 2.45 or newer: pip install "ray[tune,rllib]>=2.45"') from error

from rl_scaling_callback.analysis.choice import GOALS, Goal
from rl_scaling_callback.baseline.probed import ProbedBaseline
from rl_scaling_callback.baseline.source import BaselineSource, GivenBaseline
from rl_scaling_callback.baseline.store import BaselineStore
from rl_scaling_callback.baseline.tracker import BaselineTracker
from rl_scaling_callback.core import schema
from rl_scaling_callback.core.checks import at_least, non_empty, positive
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.probing import ProbeError, ProbeTimeoutError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE, SteadyRule
from rl_scaling_callback.core.trial import Resources, Trial
from rl_scaling_callback.live.instruments import Instrument, instrument_for
from rl_scaling_callback.live.machine import Colocation
from rl_scaling_callback.live.monitor import TrialMonitor
from rl_scaling_callback.live.tuner import Tuner, tuner_for
from rl_scaling_callback.rllib import hardware, hooks, introspection
from rl_scaling_callback.rllib.clocks import SampleTiming, SamplingClock
from rl_scaling_callback.rllib.configs import is_asynchronous, iterations_are_timed, read_scale, samples_env
from rl_scaling_callback.rllib.prober import Prober
from rl_scaling_callback.rllib.results import REPORTS
from rl_scaling_callback.rllib.threads import learner_threads, set_learner_threads, torch_threads
from rl_scaling_callback.storage import shown

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

logger = logging.getLogger("rl_scaling_callback")


class _Options(NamedTuple):
    """The options of `ScalingCallback`, which describes them. One attribute, because subclasses have attributes of their own."""

    baseline_dir: str | Path | None
    baseline_sps: float | None
    reference: Scale
    workload: str | None
    probe: bool | None
    max_probe_seconds: float
    steady: SteadyRule
    goal: Goal | None
    max_envs: int
    learner_threads: int | None


class ScalingCallback(SampleTiming, RLlibCallback):
    """Adds throughput, speedup and parallel efficiency to every training result, under `result["scaling"]`.

    Pass it to any algorithm config: `config.callbacks(ScalingCallback)`, or with options
    `config.callbacks(functools.partial(ScalingCallback, probe=True))`. Speedup and efficiency need a baseline. Under Tune, include
    a trial at the reference scale (1 env runner × 1 env) in the experiment, or set `probe=True`; outside Tune, it is probed by
    default. The callback never raises during training. Values that it can't determine are NaN, and it warns once about the reason.
    Methods of a subclass must call those of `super()`.

    Args:
        baseline_dir: directory or URI (such as `s3://…`) to keep baselines in across experiments. Relative paths are resolved
            against the directory the program was started in. By default, they are kept in the experiment's folder, for one run.
        baseline_sps: SPS of the reference [steps/s], if already known; of the losses, only straggler and evaluate are known then.
        reference: scale of the reference, such as `"1r1e"` or `"4r×2e"`.
        workload: a name; trials with the same name are treated as comparable. By default, config and hardware decide.
        probe: whether to measure the baseline inside the trial, by sampling a few hundred env steps at the reference scale from
            time to time: a second at the start and whenever env steps clearly become more than twice as slow or fast, at most 10 %
            of the first half minute, and at most 1 % of the time afterwards. Each env runner keeps up to two more sets of envs. By
            default, the baseline is probed outside Tune, without `baseline_dir` and `baseline_sps`. Pass False for envs that must
            not exist twice. APPO, IMPALA and the old API stack can't be probed.
        max_probe_seconds: time limit [s] of the probes at the start, together, of each later round, and with autotune also of each
            of its probes. The first ones also build the envs. Native code of an env can't be interrupted: a step or reset in
            progress is waited for.
        steady: which iterations count for steady figures, and when a reference trial publishes its baseline.
        autotune: True, or a goal, to make the trial faster by itself within the CPUs that it has: how many of its env runners
            sample, with how many envs, and how many threads the learner uses. The batch stays the same, and each env takes at least
            256 steps of it, or as many as in the config. It takes about twenty iterations and some seconds of probes, and goes back
            without a proven gain, unless the config misses a goal that the choice meets. To reach a minimum efficiency, it may
            choose fewer envs and be slower. The baseline is probed, and the trial is no reference for others.
        max_envs: largest number of envs per env runner that autotune may choose; up to twice as many exist while it probes.
        learner_threads: number of threads of the learner's torch. Ray starts it with as many as its process has CPUs, usually one.

    Raises:
        ValueError: an option is invalid. An unreachable `baseline_dir` is reported when the Algorithm is built.
    """

    _warned: frozenset[str] = frozenset()
    _is_redundant = _is_iterating = False
    _monitor: TrialMonitor | None = None
    _instrument: Instrument | None = None
    _colocation: Colocation | None = None
    _lasting: BaselineStore | None = None
    _tuner: Tuner | None = None
    _sampling: SamplingClock | None = None  # `__getstate__` leaves out the names that have a default here
    _learner_threads = NAN

    def __init__(
        self,
        *,
        baseline_dir: str | Path | None = None,
        baseline_sps: float | None = None,
        reference: str | Scale = "1r1e",
        workload: str | None = None,
        probe: bool | None = None,
        max_probe_seconds: float = 10.0,
        steady: SteadyRule = DEFAULT_RULE,
        autotune: bool | str | Goal = False,
        max_envs: int = 64,
        learner_threads: int | None = None,
    ) -> None:
        super().__init__()
        # No error tells a `baseline_dir`: a URI may contain credentials.
        if not (baseline_dir is None or isinstance(baseline_dir, (str, Path))):
            raise ValueError(f"baseline_dir is of type {type(baseline_dir).__name__}; allowed are str and Path")
        if baseline_dir is not None:
            non_empty("baseline_dir", str(baseline_dir))
        if baseline_sps is not None:
            positive("baseline_sps", baseline_sps)
        if workload is not None:
            non_empty("workload", workload)
        if not (probe is None or isinstance(probe, bool)):
            raise ValueError(f"probe is {probe!r}; allowed are True, False and None")
        positive("max_probe_seconds", max_probe_seconds)
        if not isinstance(steady, SteadyRule):
            raise ValueError(f"steady is {steady!r}; allowed is a SteadyRule, such as SteadyRule(warmup_iterations=3)")
        at_least("max_envs", max_envs, 1)
        if learner_threads is not None:
            at_least("learner_threads", learner_threads, 1)
        goal = None if autotune is False else GOALS["fastest"] if autotune is True else autotune
        goal = GOALS.get(goal) if isinstance(goal, str) else goal
        if not (autotune is False or isinstance(goal, Goal)):
            raise ValueError(f"autotune is {autotune!r}; allowed are True, False, a Goal and {', '.join(map(repr, GOALS))}")
        if goal is not None and goal.max_cpus is not None:
            raise ValueError(f"autotune is {goal!r}; allowed are goals without max_cpus: a trial keeps the CPUs that it has")
        conflicts = {
            "baseline_dir and baseline_sps": baseline_dir is not None and baseline_sps is not None,
            "baseline_dir and probe=True": baseline_dir is not None and probe,
            "baseline_dir and autotune": baseline_dir is not None and goal is not None,
            "baseline_sps and probe=True": baseline_sps is not None and probe,
            "autotune and probe=False": goal is not None and probe is False,
        }
        if both := next((both for both, are_given in conflicts.items() if are_given), ""):
            raise ValueError(f"{both} are given; allowed is one of the two")
        where, scale = (baseline_dir, baseline_sps), Scale.parse(reference)
        self._options = _Options(*where, scale, workload, probe, max_probe_seconds, steady, goal, max_envs, learner_threads)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the measurement, which can't leave this process, so that a function sent to env runners may refer to `self`."""
        return {name: value for name, value in vars(self).items() if name == "_warned" or name not in vars(ScalingCallback)}

    def on_algorithm_init(self, *, algorithm: Algorithm, **kwargs: Any) -> None:
        """Set up the measurement of this trial. RLlib calls it once, before the first iteration.

        Raises:
            ValueError: `baseline_dir` can't be reached.
        """
        self._is_redundant = self._is_not_first_of(getattr(algorithm, "callbacks", None))
        if self._is_redundant:
            self._warn("redundant", "the config has more than one ScalingCallback: only the first one measures.")
            return
        if not hasattr(self, "_options"):
            ScalingCallback.__init__(self)  # a subclass's __init__ does not
        place = self._options.baseline_dir
        self._lasting = None if place is None else BaselineStore.at(introspection.users_path(str(place)))
        try:
            self._start(algorithm)
        except Exception as error:
            self._give_up(error)

    def on_evaluate_start(self, **kwargs: Any) -> None:
        """Start timing an evaluation. Where RLlib's timers time it as well, it counts once."""
        if self._instrument is not None and self._is_iterating:  # users call evaluate() between iterations too
            self._instrument.clock.enter("evaluate")

    def on_evaluate_end(self, **kwargs: Any) -> None:
        """Stop timing an evaluation."""
        if self._instrument is not None:
            self._instrument.clock.leave("evaluate")

    def on_environment_created(self, *, env_runner: Any, **kwargs: Any) -> None:
        """Time the samples of an env runner, and the steps and resets of its env. RLlib calls it in the env runner's process."""
        if self._is_not_first_of(getattr(env_runner, "_callbacks", None)) or not hasattr(env_runner, "metrics"):
            return
        self._attempt("timing an env runner", lambda: self._time_samples(env_runner))

    def on_sample_end(self, *, env_runner: Any = None, metrics_logger: Any = None, samples: Any = None, **kwargs: Any) -> None:
        """Report the times of this sample. RLlib calls it in the env runner's process."""

        def report(clock: SamplingClock) -> None:
            for part, seconds in clock.take().items():
                metrics_logger.log_value((REPORTS, str(env_runner.worker_index), part), seconds, **hooks.SUM_OF_THE_ITERATION)

        if self._sampling is not None and metrics_logger is not None:
            self._attempt("reporting the times of an env runner", functools.partial(report, self._sampling))

    def on_train_result(self, *, algorithm: Algorithm, result: dict[str, Any], **kwargs: Any) -> None:
        """Add `result["scaling"]` before any logger, stopper, scheduler or searcher sees the result."""
        if self._is_redundant:
            return
        values: dict[str, Any] | None = None
        try:
            if self._monitor is not None and self._instrument is not None:
                exclusive = NAN if self._colocation is None else self._colocation.exclusive
                spent = self._instrument.read()
                values = self._monitor.measure(result, spent, exclusive=exclusive, threads=self._learner_threads)
                if self._tuner is not None:
                    self._tune(algorithm, self._tuner, self._monitor, values)
            elif "failed" not in self._warned:
                needed = "super().on_algorithm_init(algorithm=algorithm, **kwargs)"
                self._warn("late", f"a subclass's on_algorithm_init does not call {needed}: the first iteration isn't measured.")
                ScalingCallback.on_algorithm_init(self, algorithm=algorithm)
        except Exception as error:
            self._give_up(error)
        result[schema.ROOT] = schema.unknown() if values is None else values

    def _is_not_first_of(self, callbacks: Any) -> bool:
        """Return whether another `ScalingCallback` comes before this one in a list of callbacks."""
        ours = [each for each in callbacks if isinstance(each, ScalingCallback)] if isinstance(callbacks, list) else []
        return bool(ours) and ours[0] is not self

    def _start(self, algorithm: Algorithm) -> None:
        hooks.watch_methods(algorithm, cleanup=functools.partial(self._end, torch_threads()))
        config = vars(algorithm.config)
        instrument = self._instrument = instrument_for(algorithm, self._attempt, self._warn)
        self._colocation = self._attempt("looking for other trials", lambda: Colocation(hardware.this_machine().name))
        if (threads := self._options.learner_threads) is not None:
            self._attempt("setting the learner's threads", lambda: set_learner_threads(algorithm, threads))
        storage = introspection.storage_of(algorithm)
        hosts = self._attempt("finding the hosts", lambda: introspection.hosts_of(algorithm), set())
        name = storage.trial_fs_path if storage is not None else uuid.uuid4().hex
        trial = Trial(
            name,
            read_scale(config),
            introspection.workload_of(algorithm, hosts, self._options.workload),
            self._attempt("reading the resources", lambda: introspection.resources_of(algorithm, hosts), Resources()),
            introspection.provenance_of(name.rpartition("/")[2]),
            overlaps=is_asynchronous(config),
            steps_vary=iterations_are_timed(config),
        )
        if self._options.goal is not None:
            options = (self._options.goal, self._options.max_envs, self._options.max_probe_seconds, threads is None)
            self._tuner = self._attempt("starting autotune", lambda: tuner_for(algorithm, trial, *options, self._warn))
        self._monitor = self._make_monitor(algorithm, trial)
        self._learner_threads = self._attempt("reading the learner's threads", lambda: learner_threads(algorithm), NAN)
        step, training_step = functools.partial(self._iteration, instrument), functools.partial(instrument.clock.block, "other")
        hooks.watch_methods(algorithm, step=step, training_step=training_step)

    def _make_monitor(self, algorithm: Algorithm, trial: Trial, *, learns: bool = False) -> TrialMonitor:
        config = vars(algorithm.config)
        return TrialMonitor(trial, self._source(algorithm, trial), config, self._options.steady, self._warn, learns=learns)

    def _tune(self, algorithm: Algorithm, tuner: Tuner, monitor: TrialMonitor, values: dict[str, Any]) -> None:
        """Let the tuner go on after an iteration; if it changed the scale, or is over, measure anew from the next one on."""
        was_over = tuner.is_over
        seconds = tuner.observe(values)
        if tuner.scale != monitor.trial.scale:
            monitor.end()
            monitor = self._monitor = self._make_monitor(algorithm, replace(monitor.trial, scale=tuner.scale), learns=True)
        elif tuner.is_over and not was_over:
            monitor.start_over()  # it may have compared numbers of threads
        self._learner_threads, monitor.thread_comparison = tuner.threads, tuner.thread_comparison
        if seconds > 0.01:  # it probed
            monitor.note_probes(seconds)

    @contextmanager
    def _end(self, threads: float) -> Iterator[None]:
        """End the trial before the Algorithm ends; torch then uses as many threads in this process as before."""
        if self._tuner is not None and not self._tuner.is_over:
            self._warn("not over", "the trial ended before autotune was over, which takes about twenty iterations.")
            self._attempt("ending autotune", self._tuner.end)
        if self._monitor is not None:
            self._attempt("ending the measurement", self._monitor.end)
        if threads != torch_threads() == self._learner_threads:  # a local learner's, set for this trial
            torch_threads(threads=int(threads))
        yield

    @contextmanager
    def _iteration(self, instrument: Instrument) -> Iterator[None]:
        """Start the instrument, so that an earlier evaluation or failed iteration doesn't count, and run an iteration."""
        instrument.start()
        self._is_iterating = True
        try:
            with nullcontext() if self._colocation is None else self._colocation.iteration():
                yield
        except BaseException:
            if self._monitor is not None:
                self._monitor.note_failure()
            raise
        finally:
            self._is_iterating = False

    def _source(self, algorithm: Algorithm, trial: Trial) -> BaselineSource:
        store = self._lasting
        if self._options.baseline_sps is not None:
            return GivenBaseline(float(self._options.baseline_sps), self._options.reference)
        if not samples_env(vars(algorithm.config)):
            return BaselineSource()
        tunes, storage = self._tuner is not None, introspection.storage_of(algorithm)
        if store is None and storage is not None:
            store = BaselineStore.of_experiment(storage, introspection.run_of(storage))
        probes = (store is None or tunes) if self._options.probe is None else self._options.probe
        if store is None and not probes:
            self._warn(
                "no baseline",
                "there is no experiment folder to keep a baseline in outside Tune: SPS only. For speedup and efficiency, leave out "
                "probe=False, or pass baseline_dir='a/directory' (and run 1r×1e once) or baseline_sps=….",
            )
        stored = BaselineSource()
        if store is not None and not tunes:
            stored = BaselineTracker(store, trial, self._options.reference, warn=self._warn)
        return self._probe_baseline(algorithm, trial, stored) if probes else stored

    def _probe_baseline(self, algorithm: Algorithm, trial: Trial, stored: BaselineSource) -> BaselineSource:
        """Return a probed baseline, or the stored one if the trial can't be probed."""
        prober: Prober | None = None
        reference, scale = self._options.reference, trial.scale
        if scale.num_env_runners == 0 and reference.num_env_runners == 1:
            reference = Scale(0, reference.num_envs_per_env_runner)  # the Algorithm's process is the only env runner
        try:
            if reference.num_env_runners > scale.num_env_runners:
                few = f"the reference {reference} has more env runners than the trial ({scale})"
                raise ProbeError(f"{few}; use reference={Scale(scale.num_env_runners, 1).slug!r}.")
            prober = Prober(algorithm, max_seconds=self._options.max_probe_seconds)
            return ProbedBaseline(prober, scale, reference, warn=self._warn)
        except ProbeError as error:
            if prober is not None:
                prober.close()  # with the envs that it created
            longer = " Increase max_probe_seconds to allow more time." if isinstance(error, ProbeTimeoutError) else ""
            otherwise = "A reference trial's baseline is used if there is one; or give baseline_sps."
            self._warn("probe", f"the baseline can't be probed: {error}{longer} {otherwise}")
            return stored

    def _attempt(self, what: str, do: Callable[[], Any], otherwise: Any = None) -> Any:
        """Return what `do` returns. If it fails, warn once and return `otherwise`, so that all else goes on."""
        try:
            return do()
        except Exception as error:
            self._warn(what, f"{what} failed ({error!r}). All else goes on; values that depend on it stay NaN.")
            return otherwise

    def _warn(self, topic: str, text: str, error: Exception | None = None) -> None:
        if topic not in self._warned:
            self._warned |= {topic}
            logger.warning("ScalingCallback: %s", shown(text), exc_info=error)  # an env's error may contain credentials

    def _give_up(self, error: Exception) -> None:
        text = "measurement failed; training continues and result['scaling'] is NaN. Please report this:"
        self._warn("failed", f"{text} {error!r}", error)
