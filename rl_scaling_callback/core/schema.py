"""The schema of `result["scaling"]`: every injected key with its unit and meaning.

A slash in a key separates levels of the dict, as in RLlib's results: `steady/sps` is `result["scaling"]["steady"]["sps"]`.
Tune and TensorBoard flatten it to `scaling/steady/sps`.

On RLlib's old API stack, `time/*` are read from RLlib's timers. Env runners don't report how long they sample, so
`runners/busy`, `longest`, `env_step` and `reset` are NaN, and so is every `loss/<cause>` but `learn`, `sync`, `evaluate` and
`other`. For APPO and IMPALA, whose phases overlap, `time/evaluate` alone is known of these on that stack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from rl_scaling_callback.core.attribution import CAUSES, PHASES
from rl_scaling_callback.core.formulas import NAN

ROOT: Final = "scaling"
"""The key of the injected dict in an RLlib result."""


@dataclass(frozen=True, slots=True)
class Key:
    """One injected key.

    Attributes:
        name: path below `ROOT`, with slashes between levels.
        unit: unit; "" for a dimensionless number, "text" for a string.
        meaning: description in one line.
        unknown: the value while unknown.
    """

    name: str
    unit: str
    meaning: str
    unknown: float | str = NAN


KEYS: Final[tuple[Key, ...]] = (
    Key("sps", "steps/s", "env steps of this iteration / `time_this_iter_s`"),
    Key("env_steps", "steps", "env steps of this iteration"),
    Key("parallelism", "", "N = max(1, `num_env_runners`) × `num_envs_per_env_runner`; fewer if env runners deliver no samples"),
    Key("baseline_sps", "steps/s", "current SPS of the reference; divided by its N if the reference is larger than 1r×1e"),
    Key("baseline/source", "text", "where the baseline comes from: trial, probe or given; empty when there is none", ""),
    Key("baseline/error", "%", "half-width of its 95 % interval; of a probed one, known from the third probe on"),
    Key("baseline/age", "s", "time since the baseline was measured"),
    Key("speedup", "×", "sps / baseline_sps"),
    Key("efficiency", "%", "speedup / N × 100"),
    Key("gap", "×", "N − speedup"),
    Key("serial_fraction", "", "Karp–Flatt serial fraction of this iteration; NaN at N = 1"),
    Key("band", "text", "perfect, excellent, good, fair or inefficient; empty when unknown", ""),
    Key("steady/sps", "steps/s", "Σ env steps / Σ time over the steady window, without evaluation"),
    Key("steady/speedup", "×", "steady/sps / the baseline's SPS; for a probed baseline, its SPS over the same window"),
    Key("steady/efficiency", "%", "steady/speedup / N × 100"),
    Key("steady/error", "%", "half-width of the 95 % interval of steady/sps within this run; separate runs differ by more"),
    Key("steady/iterations", "", "iterations in the steady window"),
    Key("steady/converged", "0/1", "1 when steady/error is within the requested precision"),
    Key("steady/drift", "%", "change in the sampling cost per env step since steady state began; 0 if noise may explain it"),
    Key("core_efficiency", "%", "speedup / min(env runners, cores) × 100"),
    Key("sps_per_cpu", "steps/s", "sps / CPUs allocated to the trial"),
    *(Key(f"time/{phase}", "s", f"exclusive time of the phase `{phase}` in this iteration") for phase in PHASES),
    Key("time/probe", "s", "time spent on probes since the last result; not part of any iteration or other figure"),
    Key("loss/total", "% points", "100 − efficiency"),
    *(Key(f"loss/{cause}", "% points", f"efficiency lost to {meaning}") for cause, meaning in CAUSES.items()),
    Key("account/exact", "0/1", "1 when losses are exact; 0 when phases overlap and the env runners' waits are unknown"),
    Key("account/estimated", "0/1", "1 while stepping and contention can't be separated: loss/serial_stepping includes both"),
    Key("runners/busy", "s", "time the typical (lower median) env runner spent sampling in this iteration; new API stack only"),
    Key("runners/longest", "s", "the same for the slowest one; the mean for APPO and IMPALA, which don't wait for it"),
    Key("runners/env_step", "s", "time in `env.step`, without env resets, mean over env runners"),
    Key("runners/reset", "s", "the same for env resets, beyond the time of an ordinary step"),
    Key("runners/reported", "", "number of env runners that reported in this iteration"),
    Key("learner/busy", "s", "time spent on updates, mean over learners; APPO and IMPALA only, whose `sps` includes dropped steps"),
    Key("learner/waiting", "s", "time spent waiting for batches; if large, sampling is the bottleneck"),
    Key("learner/connectors", "s", "part of time/learn in the connectors of a local learner (advantages, batches)"),
    Key("learner/threads", "", "threads that torch uses for an update; NaN if unknown, as for asynchronous algorithms"),
    Key("tuned/num_env_runners", "", "env runners that sampled in this iteration; NaN without autotune, like all of `tuned/*`"),
    Key("tuned/num_envs_per_env_runner", "", "envs of each in this iteration"),
    Key("tuned/learner_threads", "", "threads of the learner's torch in this iteration"),
    Key("tuned/gain", "×", "throughput after tuning / before, as measured; 1 if nothing changed, NaN until it is known"),
    Key("tuned/gain_error", "%", "half-width of its 95 % interval"),
    Key(
        "diagnosis",
        "text",
        "largest cause of lost efficiency over the steady window, the speed without it, and a remedy; empty when unknown",
        "",
    ),
    Key("is_baseline", "0/1", "1 when this trial is the reference"),
    Key(
        "comparable",
        "0/1",
        "1 when workload, hardware and steps match the baseline's; 0 when only other baselines exist, or probes don't reproduce "
        "the trial",
    ),
    Key("workload", "text", "id of everything that must match for a fair comparison, hardware included; empty when unknown", ""),
    Key("exclusive", "0/1", "1 when no other trial trained on this trial's host during the iteration"),
    Key("cores/own", "cores", "cores that this trial's processes used, mean over the iteration"),
    Key("cores/others", "cores", "the same for other programs on its machine, including time stolen by a virtual machine's host"),
)


def unknown() -> dict[str, Any]:
    """Return a new dict to inject, nested at slashes, in which every key is unknown."""
    root: dict[str, Any] = {}
    for key in KEYS:
        level, _, leaf = key.name.rpartition("/")
        (root.setdefault(level, {}) if level else root)[leaf] = key.unknown
    return root
