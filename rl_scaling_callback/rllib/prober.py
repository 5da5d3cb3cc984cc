"""Measures sampling at any scale inside a running Algorithm, with twins of its env runners (see `rllib.twins`).

Twins sample while training is paused, and their samples are not used in training. This module runs in the Algorithm's process.
"""

from __future__ import annotations

import functools
import gc
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NoReturn

import ray
from ray.rllib.algorithms.dqn.dqn import calculate_rr_weights
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rl_scaling_callback.core import checks
from rl_scaling_callback.core.probing import Probe, ProbeError, ProbeTimeoutError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import configs, hooks, results, twins

if TYPE_CHECKING:
    from types import TracebackType

    from ray.rllib.algorithms.algorithm import Algorithm

logger = logging.getLogger("rl_scaling_callback")

_GRACE_S: Final = 5.0
"""Extra time for an env runner to answer after a probe's time limit."""
_HUNG_AFTER_S: Final = 300.0
"""Further time for it to answer before it counts as hung: its last sample or native code of its env may just take long."""
_SHORTEST_CALLS: Final = 3
_FEWEST_CALLS: Final = 3
_MIN_VECTOR_STEPS: Final = 8
_REPLAY_CAPACITY: Final = 2**14
"""Env steps; more than a probe samples, so that nothing is evicted."""
_INSTEAD: Final = "Measure the baseline with a reference trial, or give it as a number"


class Prober:
    """Measures the sampling of a running Algorithm at other scales.

    Call it while training is paused: between iterations, or in `on_algorithm_init`. Training results stay bit-identical.
    Asynchronous algorithms (APPO, IMPALA) can only be probed before their first iteration.

    Args:
        algorithm: an Algorithm on RLlib's new API stack.
        max_seconds: time limit of `measure` [s].
        probe_seconds: approximate sampling time of one probe [s]; never longer than the algorithm's own sampling.
        keep_envs: keep the twins' envs between rounds. False keeps only one set of envs at a time, which takes longer.
        seed: seed for the order of the scales.

    Raises:
        ValueError: an option is invalid.
        ProbeError: the Algorithm can't be probed.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        *,
        max_seconds: float = 10.0,
        probe_seconds: float = 0.2,
        keep_envs: bool = True,
        seed: int | None = None,
    ) -> None:
        checks.positive("max_seconds", max_seconds)
        checks.positive("probe_seconds", probe_seconds)
        self._max_seconds = max_seconds
        self._probe_seconds = probe_seconds
        self._keep_envs = keep_envs
        self._random = random.Random(seed)
        self._algorithm = algorithm
        self._config: Any = algorithm.config
        config = vars(self._config)
        if not configs.is_new_stack(config):
            raise ProbeError(f"The old API stack can't be probed. {_INSTEAD}, or migrate to the new API stack.")
        if not configs.samples_env(config) or algorithm.env_runner_group is None:
            raise ProbeError("The algorithm learns from recorded data and samples no env: there is nothing to probe.")
        if config.get("output"):
            raise ProbeError(f"The env runners record their episodes (output), and probes would be recorded too. {_INSTEAD}.")
        self._group = algorithm.env_runner_group
        self._asynchronous = configs.is_asynchronous(config)
        self._sends_weights = False
        self._replay_buffer: Any = None
        self._metrics: Any = None

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def steps_per_round(self, scale: Scale) -> float:
        """Return the env steps at `scale` per learner update; infinite if the number of updates depends on the env steps alone."""
        config = self._config.copy(copy_frozen=False)
        if not hasattr(config, "training_intensity"):
            return math.inf
        config.num_env_runners, config.num_envs_per_env_runner = scale.num_env_runners, scale.num_envs_per_env_runner
        samples, updates = calculate_rr_weights(config)
        return float(config.get_rollout_fragment_length() * scale.parallelism * samples / updates)

    def measure(self, scales: Iterable[Scale], rounds: int = 1, first_round: int = 0) -> list[Probe]:
        """Measure each of `scales` once per round, in random order.

        Args:
            scales: scales to probe; 0 env runners means sampling in the Algorithm's process.
            rounds: number of rounds.
            first_round: number of the first round.

        Returns:
            The probes of the complete rounds within the time limit, at least one round.

        Raises:
            ValueError: a scale has more env runners than the trial.
            ProbeError: a probe failed or took too long.
        """
        scales = list(dict.fromkeys(scales))
        runners = self._group.num_remote_env_runners()
        for scale in scales:
            if scale.num_env_runners > runners:
                raise ValueError(f"scale is {scale}; allowed are at most the trial's {runners} env runners")
        if self._asynchronous and self._algorithm.iteration > 0:
            raise ProbeError("An asynchronous algorithm never stops sampling: it can only be probed before its first iteration.")
        until = time.perf_counter() + self._max_seconds
        probes: list[Probe] = []
        collects_garbage = gc.isenabled()
        gc.disable()  # a full collection in this process takes as long as several probes
        try:
            for number in range(first_round, first_round + rounds):
                of_round: list[Probe] = []
                for scale in self._random.sample(scales, len(scales)):
                    if time.perf_counter() > until:
                        raise _TooSlowError
                    of_round.append(self._probe(scale, number, until))
                probes += of_round
        except _TooSlowError as error:
            if not probes:
                raise ProbeTimeoutError(
                    f"A round of probes, including the creation of envs, took more than {self._max_seconds:g} s. {_INSTEAD}."
                ) from error
        except ProbeError:
            raise
        except Exception as error:
            raise ProbeError(f"A probe failed: {twins.text_of(error)}. {_INSTEAD}.") from error
        finally:
            if collects_garbage:
                gc.enable()
        return probes

    def close(self) -> None:
        """Close the twins and their envs. The prober stays usable and creates new ones when needed."""
        close = functools.partial(twins.close, seconds=self._max_seconds)
        with suppress(Exception):
            if self._group.local_env_runner is not None:
                close(self._group.local_env_runner)
        with suppress(Exception):
            if self._group.num_remote_env_runners():
                self._group.foreach_env_runner(close, local_env_runner=False, timeout_seconds=self._max_seconds + _GRACE_S)

    def _probe(self, scale: Scale, number: int, until: float) -> Probe:
        runners = self._runners(scale)
        try:
            prepared = self._call(runners, functools.partial(twins.prepare, scale=scale, keep_others=self._keep_envs), until)
            own, envs = prepared[0].env_steps, scale.num_envs_per_env_runner
            self._sends_weights = self._waits_for_weights(scale, own)
            self._replay_buffer = self._twin_of_replay_buffer(scale)
            self._metrics = MetricsLogger()
            vector_step = max(answer.seconds for answer in prepared)
            wanted = envs * max(_MIN_VECTOR_STEPS, round(self._probe_seconds / max(vector_step, 1e-6)))
            if own > wanted:
                return self._shorter_calls(scale, number, runners, wanted, own, until)
            return self._own_calls(scale, number, runners, until)
        finally:
            self._replay_buffer = self._metrics = None
            with suppress(Exception):
                self._ask(runners, functools.partial(twins.finish, keep=self._keep_envs), _GRACE_S)

    def _shorter_calls(self, scale: Scale, number: int, runners: Sequence[int], wanted: int, own: float, until: float) -> Probe:
        """Return a probe from calls for `wanted` env steps per env runner, fewer than the algorithm's own calls (`own`)."""
        # Calls of a single vector step measure the fixed cost of a call.
        shortest = [self._timed(runners, scale.num_envs_per_env_runner, until) for _ in range(_SHORTEST_CALLS)]
        sync, seconds, answers = self._timed(runners, wanted, until)
        env_steps = sum(answer.env_steps for answer in answers)
        least, least_steps = median(took for _, took, _ in shortest), sum(answer.env_steps for answer in shortest[-1][2])
        seconds = max(seconds, least)  # a longer call can only seem to take less time
        per_step = (seconds - least) / (env_steps - least_steps)
        call = max(0.0, least - per_step * least_steps)
        return Probe(
            scale,
            number,
            env_steps,
            seconds,
            tuple(answer.seconds - answer.reset for answer in answers),
            excess=call * (1 - wanted / own),
            sync=median([sync, *(each for each, _, _ in shortest)]),
        )

    def _own_calls(self, scale: Scale, number: int, runners: Sequence[int], until: float) -> Probe:
        """Return a probe from calls like the algorithm's own."""
        calls: list[tuple[float, float, list[twins.Answer]]] = []
        fewest = 1 if self._replay_buffer is None else _FEWEST_CALLS
        started = time.perf_counter()
        while len(calls) < fewest or time.perf_counter() - started < self._probe_seconds:
            calls.append(self._timed(runners, None, until))
        env_steps = [sum(answer.env_steps for answer in answers) for _, _, answers in calls]
        # A median, because one delayed call, such as by garbage collection, would outweigh dozens of short ones.
        seconds = sum(env_steps) * median(took / steps for (_, took, _), steps in zip(calls, env_steps, strict=True))
        by_runner = zip(*(answers for *_, answers in calls), strict=True)
        busy = tuple(sum(answer.seconds - answer.reset for answer in of_runner) for of_runner in by_runner)
        return Probe(scale, number, sum(env_steps), seconds, busy, sync=median(sync for sync, _, _ in calls))

    def _timed(self, runners: Sequence[int], steps: int | None, until: float) -> tuple[float, float, list[twins.Answer]]:
        """Return the times to send new weights and to sample and store env steps [s], and the env runners' answers."""
        function = functools.partial(twins.sample, steps=steps, by_reference=self._asynchronous)
        started = time.perf_counter()
        sync = 0.0
        if self._sends_weights:
            # As in RLlib, a sample waits until the env runner has the new weights. Custom algorithms may lack what this needs.
            with suppress(Exception):
                self._send_weights(runners)
                sync = time.perf_counter() - started
        started = time.perf_counter()
        answers = self._call(runners, function, until)
        self._take_in([answer.data for answer in answers if answer.data is not None])
        return sync, time.perf_counter() - started - max(answer.reset for answer in answers), answers

    def _take_in(self, data: Sequence[tuple[Any, Any]]) -> None:
        """Process the env runners' samples and metrics as RLlib does, without side effects on training."""
        with suppress(Exception):
            merge = getattr(self._metrics, hooks.merging(self._metrics))
            merge([metrics for _, metrics in data], key=results.ENV_RUNNER_RESULTS)
        if self._replay_buffer is not None:
            self._replay_buffer.add([episode for episodes, _ in data for episode in episodes])

    def _waits_for_weights(self, scale: Scale, own: float) -> bool:
        """Return whether env runners get new weights before each sample: not if an update takes several samples."""
        whole_batch = own * max(1, scale.num_env_runners) >= self._config.total_train_batch_size
        return not self._asynchronous and (whole_batch or math.isfinite(self.steps_per_round(scale)))

    def _send_weights(self, runners: Sequence[int]) -> None:
        learners: Any = self._algorithm.learner_group
        state = learners.get_state(components="learner/rl_module", inference_only=True)["learner"]
        if runners:
            weights = ray.put({"rl_module": state["rl_module"]})
            # Older releases don't pass on a function's `kwargs`.
            self._group.foreach_env_runner(
                functools.partial(twins.set_weights, state=weights, seconds=self._max_seconds),
                local_env_runner=False,
                remote_worker_ids=list(runners),
                timeout_seconds=0.0,
            )

    def _twin_of_replay_buffer(self, scale: Scale) -> Any:
        """Return an empty replay buffer like the algorithm's, or None if it has none."""
        if math.isinf(self.steps_per_round(scale)):
            return None
        config = {"replay_buffer_config": {**self._config.replay_buffer_config, "capacity": _REPLAY_CAPACITY}}
        with suppress(Exception):
            return self._algorithm._create_local_replay_buffer_if_necessary(config)
        return None

    def _runners(self, scale: Scale) -> list[int]:
        """Return the ids of the env runners that sample; an empty list means the local one."""
        if scale.num_env_runners == 0:
            if self._group.local_env_runner is None:
                raise ProbeError(f"{scale} samples in the Algorithm's process, but this Algorithm has no local env runner.")
            return []
        healthy = self._group.healthy_env_runner_ids()
        if len(healthy) < scale.num_env_runners:
            raise ProbeError(
                f"{scale} can't be probed now: only {len(healthy)} of {self._group.num_remote_env_runners()} env runners are "
                "healthy. RLlib restarts them according to the config's fault tolerance."
            )
        return list(healthy[: scale.num_env_runners])

    def _call(self, runners: Sequence[int], function: Callable[..., twins.Answer], until: float) -> list[twins.Answer]:
        """Call `function` on each of `runners` and return the answers; raise if one failed, was late or did not answer."""
        try:
            answers = self._ask(runners, function, max(0.1, until - time.perf_counter()))
        except ray.exceptions.RayError as error:
            raise ProbeError(f"An env runner died during a probe: {twins.text_of(error)}. {_INSTEAD}.") from error
        if len(answers) < len(runners):
            self._raise_unanswered(runners)
        for answer in answers:
            if answer.late:
                raise _TooSlowError
            if answer.error:
                raise ProbeError(f"The trial can't be probed: {answer.error}. {_INSTEAD}.")
        return answers

    def _ask(self, runners: Sequence[int], function: Callable[..., twins.Answer], seconds: float) -> list[twins.Answer]:
        """Call `function` on each of `runners`, or on the local one if there are none; return the answers given in time."""
        function = functools.partial(function, seconds=seconds)
        if not runners:
            return [function(self._group.local_env_runner)]
        answers: list[twins.Answer] = self._group.foreach_env_runner(
            function, local_env_runner=False, remote_worker_ids=list(runners), timeout_seconds=seconds + _GRACE_S
        )
        return answers

    def _raise_unanswered(self, runners: Sequence[int]) -> NoReturn:
        healthy = set(runners) & set(self._group.healthy_env_runner_ids())
        if len(healthy) < len(runners):
            raise ProbeError(f"An env runner died during a probe. {_INSTEAD}.")
        logger.warning(
            "ScalingCallback: an env runner has not answered a probe in time. Waiting up to %.0f s longer, because native code of "
            "its env may be running.",
            _HUNG_AFTER_S,
        )
        actors = self._group._worker_manager._actors
        pings: dict[Any, int] = {actors[runner].ping.remote(): runner for runner in healthy}
        _, silent = ray.wait(list(pings), num_returns=len(pings), timeout=_HUNG_AFTER_S)
        if not silent:
            raise _TooSlowError
        # Training would wait for a hung env runner, and RLlib only replaces dead ones.
        if not self._config.restart_failed_env_runners:
            raise ProbeError(
                f"An env runner hangs in a probe, and training will wait for it: restart_failed_env_runners is False. {_INSTEAD}."
            )
        for ping in silent:
            ray.kill(actors[pings[ping]], no_restart=False)
            # Otherwise RLlib would mistake the new one for the old, and not send it the weights.
            self._group._worker_manager.set_actor_state(pings[ping], healthy=False)
        raise ProbeError(f"An env runner hung in a probe for {_HUNG_AFTER_S:.0f} s and is being restarted. {_INSTEAD}.")


class _TooSlowError(Exception):
    """The time limit of `measure` was exceeded."""
