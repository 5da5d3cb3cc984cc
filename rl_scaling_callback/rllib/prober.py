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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from statistics import median
from typing import Any, Final, NoReturn

import ray
from ray.rllib.algorithms.dqn.dqn import calculate_rr_weights
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rl_scaling_callback.core.probing import Probe, ProbeError, ProbeTimeoutError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import configs, hooks, results, twins

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


def obstacle(config: Mapping[str, Any]) -> str:
    """Return why probes can't predict the training of a config, as `vars(AlgorithmConfig)`; "" if they can."""
    if not configs.is_new_stack(config):
        return "it uses the old API stack"
    if configs.is_asynchronous(config):
        return "its sampling overlaps learning (APPO, IMPALA), and each slows down the other"
    if not configs.samples_env(config):
        return "it learns from recorded data and samples no env"
    return ""


class Prober:
    """Measures the sampling of a running Algorithm at other scales.

    Call it while training is paused: between iterations, or in `on_algorithm_init`. Training results stay bit-identical.

    Args:
        algorithm: an Algorithm on RLlib's new API stack.
        max_seconds: time limit of `measure` [s].
        probe_seconds: approximate sampling time of one probe [s], at most the algorithm's own. Many short rounds, spread over time,
            are more precise than few long ones, and clear cases end sooner.

    Raises:
        ProbeError: the Algorithm can't be probed.
    """

    def __init__(self, algorithm: Any, *, max_seconds: float = 10.0, probe_seconds: float = 0.1) -> None:
        self._algorithm = algorithm
        self._max_seconds = max_seconds
        self._probe_seconds = probe_seconds
        self._config: Any = algorithm.config
        if why := obstacle(vars(self._config)):
            raise ProbeError(f"The algorithm can't be probed: {why}.")
        if self._config.output:
            raise ProbeError("The env runners record their episodes (output), and probes would be recorded too.")
        self._group = algorithm.env_runner_group
        self._sends_weights = False
        self._replay_buffer: Any = None
        self._metrics: Any = None

    def env_steps_per_update(self, scale: Scale) -> float:
        """Return the env steps at `scale` per learner update; infinite if the number of updates depends on the env steps alone."""
        config = self._config.copy(copy_frozen=False)
        if not hasattr(config, "training_intensity"):
            return math.inf
        config.num_env_runners, config.num_envs_per_env_runner = scale.num_env_runners, scale.num_envs_per_env_runner
        samples, updates = calculate_rr_weights(config)
        return float(config.get_rollout_fragment_length() * scale.parallelism * samples / updates)

    def measure(self, scales: Sequence[Scale], rounds: int = 1) -> list[dict[Scale, Probe]]:
        """Measure each of `scales` once per round, in random order; return the probes of each complete round, at least of one.

        0 env runners means sampling in the Algorithm's process.

        Raises:
            ProbeError: a probe failed or took too long.
        """
        until = time.perf_counter() + self._max_seconds
        complete: list[dict[Scale, Probe]] = []
        collects_garbage = gc.isenabled()
        gc.disable()  # a full collection in this process takes as long as several probes
        try:
            for _ in range(rounds):
                # Not the global generator, which is seeded for training.
                in_random_order = random.Random().sample(scales, len(scales))
                complete.append({scale: self._probe(scale, until) for scale in in_random_order})
        except ProbeTimeoutError as error:
            if not complete:
                why = f"A round of probes, including the creation of envs, took more than {self._max_seconds:g} s."
                raise ProbeTimeoutError(why) from error
        except ProbeError:
            raise
        except Exception as error:
            raise ProbeError(f"A probe failed: {twins.text_of(error)}.") from error
        finally:
            if collects_garbage:
                gc.enable()
        return complete

    def close(self) -> None:
        """Close the twins and their envs. The prober stays usable and creates new ones when needed."""
        with suppress(Exception):
            self._ask([], twins.close, self._max_seconds)
        with suppress(Exception):
            self._ask(self._group.healthy_env_runner_ids(), twins.close, self._max_seconds)

    def _probe(self, scale: Scale, until: float) -> Probe:
        runners = self._runners(scale)
        try:
            prepared = self._call(runners, functools.partial(twins.prepare, scale=scale), until)
            own, envs = prepared[0][1], scale.num_envs_per_env_runner
            updates_by_round = math.isfinite(self.env_steps_per_update(scale))
            # Env runners get new weights before each sample, unless an update takes several samples.
            whole_batch = own * scale.samplers >= self._config.total_train_batch_size
            self._sends_weights = whole_batch or updates_by_round
            if updates_by_round:
                buffer = {**self._config.replay_buffer_config, "capacity": _REPLAY_CAPACITY}
                with suppress(Exception):
                    create = self._algorithm._create_local_replay_buffer_if_necessary
                    self._replay_buffer = create({"replay_buffer_config": buffer})
            self._metrics = MetricsLogger()
            vector_step = max(seconds for seconds, _ in prepared)
            wanted = envs * max(_MIN_VECTOR_STEPS, round(self._probe_seconds / max(vector_step, 1e-6)))
            call = functools.partial(self._timed, scale, runners, until)
            return self._of_shorter_calls(scale, call, wanted, own) if own > wanted else self._of_own_calls(scale, call)
        finally:
            self._replay_buffer = self._metrics = None
            with suppress(Exception):
                self._ask(runners, twins.finish, _GRACE_S)

    def _of_shorter_calls(self, scale: Scale, call: Callable[[int | None], Probe], wanted: int, own: float) -> Probe:
        """Return a probe from calls for `wanted` env steps per env runner, fewer than the algorithm's own calls (`own`)."""
        # Calls of a single vector step measure the fixed cost of a call.
        shortest = [call(scale.num_envs_per_env_runner) for _ in range(_SHORTEST_CALLS)]
        longer = call(wanted)
        least, least_steps = median(each.seconds for each in shortest), shortest[-1].env_steps
        seconds = max(longer.seconds, least)  # a longer call can only seem to take less time
        per_step = (seconds - least) / (longer.env_steps - least_steps)
        excess = max(0.0, least - per_step * least_steps) * (1 - wanted / own)
        return replace(longer, seconds=seconds, excess=excess, sync=median(each.sync for each in (longer, *shortest)))

    def _of_own_calls(self, scale: Scale, call: Callable[[int | None], Probe]) -> Probe:
        """Return a probe from calls like the algorithm's own."""
        calls: list[Probe] = []
        fewest = 1 if self._replay_buffer is None else _FEWEST_CALLS
        started = time.perf_counter()
        while len(calls) < fewest or time.perf_counter() - started < self._probe_seconds:
            calls.append(call(None))
        env_steps = sum(each.env_steps for each in calls)
        # A median, because one delayed call, such as by garbage collection, would outweigh dozens of short ones.
        seconds = env_steps * median(each.seconds_per_step for each in calls)
        busy = tuple(sum(of_runner) for of_runner in zip(*(each.busy for each in calls), strict=True))
        return Probe(scale, env_steps, seconds, busy, sync=median(each.sync for each in calls))

    def _timed(self, scale: Scale, runners: Sequence[int], until: float, steps: int | None) -> Probe:
        """Return a probe of one call: `steps` env steps with each env runner, or as many as the algorithm's own call if None."""
        started = time.perf_counter()
        sync = 0.0
        # As in RLlib, a sample waits until the env runner has the new weights. Custom algorithms may lack what this needs.
        with suppress(Exception):
            if self._sends_weights:
                self._send_weights(runners)
                sync = time.perf_counter() - started
        started = time.perf_counter()
        function = functools.partial(twins.sample, steps=steps)
        samples: list[twins.Sample] = self._call(runners, function, until)
        data = [sample.data for sample in samples]
        with suppress(Exception):
            merge = getattr(self._metrics, hooks.merging(self._metrics))
            merge([metrics for _, metrics in data], key=results.ENV_RUNNER_RESULTS)
        if self._replay_buffer is not None:
            self._replay_buffer.add([episode for episodes, _ in data for episode in episodes])
        seconds = time.perf_counter() - started - max(sample.reset for sample in samples)
        busy = tuple(sample.busy for sample in samples)
        return Probe(scale, sum(sample.env_steps for sample in samples), seconds, busy, sync=sync)

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

    def _runners(self, scale: Scale) -> list[int]:
        """Return the ids of the env runners that sample; an empty list means the local one."""
        if scale.num_env_runners == 0:
            if self._group.local_env_runner is None:
                raise ProbeError(f"{scale} samples in the Algorithm's process, but this Algorithm has no local env runner.")
            return []
        healthy = self._group.healthy_env_runner_ids()
        if len(healthy) < scale.num_env_runners:
            trials = f"{len(healthy)} of the trial's {self._group.num_remote_env_runners()} env runners"
            raise ProbeError(f"{scale} can't be probed now: only {trials} are healthy.")
        return list(healthy[: scale.num_env_runners])

    def _call(self, runners: Sequence[int], function: Callable[..., Any], until: float) -> list[Any]:
        """Call `function` on each of `runners` and return the answers; raise if one failed, was late or did not answer."""
        seconds = until - time.perf_counter()
        if seconds <= 0:
            raise ProbeTimeoutError("The time limit is reached.")
        answers = self._ask(runners, function, seconds)
        if len(answers) < len(runners):
            self._raise_unanswered(runners)
        for answer in answers:
            if isinstance(answer, ProbeError):
                raise answer
        return answers

    def _ask(self, runners: Sequence[int], function: Callable[..., Any], seconds: float) -> list[Any]:
        """Call `function` on each of `runners`, or on the local one if there are none; return the answers given in time."""
        function = functools.partial(function, seconds=seconds)
        if not runners:
            return [function(self._group.local_env_runner)]
        answers: list[Any] = self._group.foreach_env_runner(
            function, local_env_runner=False, remote_worker_ids=list(runners), timeout_seconds=seconds + _GRACE_S
        )
        return answers

    def _raise_unanswered(self, runners: Sequence[int]) -> NoReturn:
        """Wait for env runners that haven't answered, and restart those that hang: RLlib only replaces dead ones."""
        manager: Any = self._group._worker_manager
        alive = [runner for runner in runners if manager.is_actor_healthy(runner)]
        if len(alive) < len(runners):
            raise ProbeError("An env runner died during a probe.")
        logger.warning(
            "ScalingCallback: an env runner is late in a probe. Waiting up to %.0f s, as native code may be running.", _HUNG_AFTER_S
        )
        pings = {manager.actors()[runner].ping.remote(): runner for runner in alive}
        _, silent = ray.wait(list(pings), num_returns=len(pings), timeout=_HUNG_AFTER_S)
        if not silent:
            raise ProbeTimeoutError("An env runner was late.")
        if not self._config.restart_failed_env_runners:
            raise ProbeError("An env runner hangs in a probe, and training waits for it: restart_failed_env_runners is False.")
        for ping in silent:
            ray.kill(manager.actors()[pings[ping]], no_restart=False)
            # Otherwise RLlib would mistake the new one for the old, and not send it the weights.
            manager.set_actor_state(pings[ping], healthy=False)
        raise ProbeError(f"An env runner hung in a probe for {_HUNG_AFTER_S:.0f} s and is being restarted.")
