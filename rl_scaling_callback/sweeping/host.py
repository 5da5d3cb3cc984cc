"""Runs an Algorithm in a separate process, placed like a Tune trial, to measure configurations in it."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rl_scaling_callback.analysis.probe_rounds import TrainedIteration, is_within
from rl_scaling_callback.callback import ScalingCallback
from rl_scaling_callback.core.attribution import RECORDED
from rl_scaling_callback.core.probing import Probe, ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import hardware
from rl_scaling_callback.rllib.configs import is_asynchronous, is_new_stack, read_scale, steps_before_learning
from rl_scaling_callback.rllib.prober import Prober
from rl_scaling_callback.rllib.rescale import Switch
from rl_scaling_callback.rllib.results import MEASURED_KEYS, read_injected, read_iteration, read_number
from rl_scaling_callback.rllib.threads import learner_threads, set_learner_threads
from rl_scaling_callback.storage import shown
from rl_scaling_callback.sweeping.task import callbacks_of, learner_threads_of, measures

_SAY_AFTER_S: Final = 5.0
_MAX_WAIT_S: Final = 300.0
_MAX_START_S: Final = 300.0
_MAX_PROBE_S: Final = 300.0
"""Including the creation of the envs."""
_MAX_ANSWER_S: Final = 5.0
_MAX_TEXT: Final = 300
_MAX_ATTEMPTS: Final = 3
"""At training an iteration whose time is unknown, because the clock jumped."""
_MAX_STEPS: Final = 200
"""Env steps of an iteration with several learner updates."""
_MAX_MIN_TIME_S: Final = 2.0
"""Longest minimum duration of an iteration of an asynchronous algorithm. It only affects reporting, and the default of APPO and
IMPALA is 10 s. Two seconds contain many samples and updates."""
_MAX_SILENCE_S: Final = 600.0
"""A training iteration that takes longer counts as hung, unless probes have shown that the configuration works."""


class _Host:
    """The actor that runs in the separate process."""

    _prober: Prober
    _switch: Switch | None = None
    _lifetime = math.nan

    def start(self, config: AlgorithmConfig) -> hardware.Machine:
        # Its advice is about a user's trial, and this is none.
        logging.getLogger("rl_scaling_callback").setLevel(logging.CRITICAL)
        self._algorithm = config.build_algo()
        return hardware.this_machine()

    def prepare(self, probes: bool) -> float:
        """Train until the algorithm has learned; return the number of the learner's threads."""
        config = vars(self._algorithm.config)
        steps, before_learning = 0.0, steps_before_learning(config)
        if probes:
            self._prober = Prober(self._algorithm, max_seconds=_MAX_PROBE_S)
        while steps <= before_learning:
            steps += self.train(read_scale(config)).env_steps
        self._switch = Switch(self._algorithm) if probes else None
        return learner_threads(self._algorithm)

    def train(self, scale: Scale, threads: int | None = None) -> TrainedIteration:
        if threads is not None:
            set_learner_threads(self._algorithm, threads)
        result, resets_s = self._switch.train(scale) if self._switch else (self._algorithm.train(), 0.0)
        reading = read_iteration(result, self._lifetime, read_injected(result, MEASURED_KEYS))
        self._lifetime = read_number(result, "lifetime_steps")
        # An iteration without parts makes their sums unknown; omitting it would make them too small.
        parts = reading.parts or (math.nan,) * len(RECORDED)
        named = {**dict(zip(RECORDED, parts, strict=True)), "all_resets": resets_s}
        return TrainedIteration(scale, reading.env_steps, reading.seconds, named)

    def env_steps_per_update(self, scale: Scale) -> float:
        return self._prober.env_steps_per_update(scale)

    def probe(self, scale: Scale) -> Probe | str:
        """Return the probe, or the reason if it failed or took too long."""
        try:
            return self._prober.measure([scale])[0][scale]
        except ProbeError as error:
            return shown(str(error)).removesuffix(".")

    def is_whole(self) -> bool:
        group: Any = self._algorithm.env_runner_group
        answers = group.foreach_env_runner(bool, local_env_runner=False, timeout_seconds=_MAX_ANSWER_S)
        return bool(len(answers) == group.num_remote_env_runners())

    def stop(self) -> None:
        if self._switch is not None:
            self._prober.close()
        self._algorithm.stop()


class Host:
    """An Algorithm in a process of its own. It has trained an iteration, because the first update is slower.

    Args:
        config: the config, with the largest number of env runners to probe.
        probes: whether to probe and train configurations in this Algorithm, instead of training its own only.
        say: called with a message if it has to wait for resources.

    Attributes:
        machine: the machine of the process.
        learner_threads: the number of threads of the learner's torch; NaN if unknown.

    Raises:
        ProbeError: the Algorithm can't be built, probed or trained.
        TimeoutError: the cluster has no free resources for it.
    """

    def __init__(self, config: AlgorithmConfig, *, probes: bool = True, say: Callable[[str], None] = print) -> None:
        self._config, self._probes, self._say = config, probes, say
        self._deadly: dict[Scale, str] = {}
        self._within_s = None if probes else _MAX_SILENCE_S
        self._start()

    def _start(self) -> None:
        request = cast(Any, self._config.algo_class).default_resource_request(self._config)
        self._group = reserve(request, self._say)
        # If the main process requests nothing, the first bundle is an env runner's.
        own = {} if request.head_bundle_is_empty else dict(request.bundles[0])
        actor: Any = ray.remote(_Host)
        options: dict[str, Any] = {"num_cpus": own.pop("CPU", 0), "num_gpus": own.pop("GPU", 0), "resources": own}
        if self._group is not None:
            in_group = PlacementGroupSchedulingStrategy(self._group, 0, placement_group_capture_child_tasks=True)
            options["scheduling_strategy"] = in_group
        self._actor: Any = actor.options(**options).remote()
        try:
            self.machine: hardware.Machine = self._ask("start", _timed(self._config), within_s=_MAX_START_S)
            self.learner_threads: float = self._ask("prepare", self._probes, within_s=self._within_s)
        except BaseException:
            self.close()
            raise

    def train(self, scale: Scale, threads: int | None = None) -> TrainedIteration:
        """Run a training iteration at a scale, without probes that of the config; its figures may then be unknown.

        `threads` is the number of threads of the learner's torch from now on; None leaves it.
        """
        for _ in range(_MAX_ATTEMPTS):
            iteration: TrainedIteration = self._ask("train", scale, threads, within_s=self._within_s)
            if not self._probes or (
                iteration.env_steps > 0 and 0 < iteration.seconds < math.inf and 0 < iteration.rest_s < math.inf
            ):
                return iteration
        raise ProbeError(f"{_MAX_ATTEMPTS} training iterations in a row at {scale} could not be timed")

    def env_steps_per_update(self, scale: Scale) -> float:
        """Return the env steps per learner update at a scale (see `ProbeRounds`)."""
        return float(self._ask("env_steps_per_update", scale))

    def probe(self, scale: Scale) -> Probe | str:
        """Return a probe of a scale, or the reason if it failed.

        If env runners have died or hang, it starts a new Algorithm, and refuses larger scales from then on.
        """
        for smaller, why in self._deadly.items():
            if is_within(smaller, scale):
                return f"not tried after {smaller}: {why}"
        probe: Probe | str = self._ask("probe", scale)
        if isinstance(probe, str):
            with suppress(ProbeError):
                if self._ask("is_whole", within_s=2 * _MAX_ANSWER_S):
                    return probe
            self._deadly[scale] = probe
            self.close()
            self._start()
        return probe

    def close(self) -> None:
        """Close the envs, which may run in subprocesses, end the process, and release its resources."""
        try:
            with suppress(ray.exceptions.RayError, KeyboardInterrupt):
                ray.get(self._actor.stop.remote(), timeout=_MAX_ANSWER_S)
        finally:
            ray.kill(self._actor)
            if self._group is not None:
                remove_placement_group(self._group)

    def _ask(self, method: str, *given: Any, within_s: float | None = None) -> Any:
        try:
            return ray.get(getattr(self._actor, method).remote(*given), timeout=within_s)
        except ray.exceptions.GetTimeoutError as error:
            raise ProbeError(f"The Algorithm has not answered for {within_s:.0f} s") from error
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", error)
            # Ray's messages contain whole tracebacks; the cause is in the last line.
            lines = str(cause).strip().splitlines() or [""]
            raise ProbeError(f"{type(cause).__name__}: {shown(lines[-1])[:_MAX_TEXT]}") from error


def reserve(request: Any, say: Callable[[str], None], longest_s: float = _MAX_WAIT_S) -> PlacementGroup | None:
    """Reserve the resources that Tune requests for a trial; None if a process requests nothing, which Ray can't reserve.

    If others use the resources, it says so and waits, for at most `longest_s` [s], because Ray would wait forever.

    Raises:
        TimeoutError: others still used them at the time limit.
    """
    bundles = request.bundles
    if request.head_bundle_is_empty or not all(any(bundle.values()) for bundle in bundles):
        return None
    group: PlacementGroup = placement_group(bundles, strategy=request.strategy)
    try:
        if group.wait(min(_SAY_AFTER_S, longest_s)):
            return group
        asked = sum(bundle.get("CPU", 0.0) for bundle in bundles)
        free = f"{asked:g} CPUs are needed, and {ray.available_resources().get('CPU', 0.0):g} are free: other jobs hold the rest"
        say(f"{free}. Waiting for at most {longest_s:.0f} s")
        if group.wait(longest_s):
            return group
        raise TimeoutError(f"{free}, and have for {longest_s:.0f} s. Try again later, or with fewer env runners.")
    except BaseException:
        remove_placement_group(group)
        raise


def _timed(config: AlgorithmConfig) -> AlgorithmConfig:
    """Return a copy of a config with timed phases and short iterations, whose training fails as soon as an env runner fails.

    Otherwise, RLlib would wait a minute and then train with a different env runner from the one to measure. Iterations can be
    short because their length only affects reporting; DQN's, for example, have 1,000 updates.
    """
    others = [each for each in callbacks_of(config) if not measures(each)]
    measuring: Any = functools.partial(ScalingCallback, baseline_sps=1.0, learner_threads=learner_threads_of(config))
    timed = config.copy(copy_frozen=False)
    # The old API stack takes only one; beside the user's, the times of phases are unknown there.
    timed.callbacks([*others, measuring] if is_new_stack(vars(config)) else [*others, measuring][0])
    if is_asynchronous(vars(config)):
        timed.reporting(min_time_s_per_iteration=min(_MAX_MIN_TIME_S, timed.min_time_s_per_iteration or 0))
    else:
        least = min(_MAX_STEPS, timed.min_sample_timesteps_per_iteration or 0)
        timed.reporting(min_time_s_per_iteration=0, min_train_timesteps_per_iteration=0, min_sample_timesteps_per_iteration=least)
    return timed.fault_tolerance(restart_failed_env_runners=False, ignore_env_runner_failures=False)
