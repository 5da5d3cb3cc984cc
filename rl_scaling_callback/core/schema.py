"""The contract: every key that is injected under `result["scaling"]`, with its unit and meaning. Defined here, once.

A slash in a key is a level of the dict, as in RLlib's own results: `steady/sps` is `result["scaling"]["steady"]["sps"]`.
Tune and TensorBoard flatten it to `scaling/steady/sps`.

On RLlib's old API stack, `time/*` come from its own timers, and of `loss/<cause>` only `learn`, `sync`, `evaluate` and `other` are
known: its env runners don't tell how long they sample, so `runners/busy`, `longest`, `env_step`, `inference` and `rest` and the
causes of sampling are NaN. For APPO and IMPALA, whose phases overlap, its timers don't tell enough: `time/*` and `loss/<cause>` are
NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
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
        name: its path below `ROOT`, levels separated by a slash.
        unit: its unit; "" for a dimensionless number, "text" for a text.
        meaning: what it says, in a line.
        unknown: the value that stands for "not known (yet)".
    """

    name: str
    unit: str
    meaning: str
    unknown: float | str = NAN


KEYS: Final[tuple[Key, ...]] = (
    Key("sps", "steps/s", "env steps of this iteration / `time_this_iter_s`"),
    Key("env_steps", "steps", "env steps of this iteration"),
    Key("parallelism", "", "N = max(1, `num_env_runners`) × `num_envs_per_env_runner`"),
    Key("baseline_sps", "steps/s", "SPS of the reference, as known now; with a reference larger than 1r×1e, its SPS / its N"),
    Key("baseline/source", "text", "where the baseline comes from: trial, probe or given; empty when there is none", ""),
    Key("baseline/error", "%", "half-width of the 95 % interval of the baseline"),
    Key("baseline/age", "s", "time since the baseline was measured"),
    Key("speedup", "×", "sps / baseline_sps"),
    Key("efficiency", "%", "speedup / N × 100"),
    Key("gap", "×", "N − speedup"),
    Key("serial_fraction", "", "Karp–Flatt's serial fraction from this iteration alone; NaN at N = 1"),
    Key("band", "text", "perfect, excellent, good, fair or inefficient; empty when unknown", ""),
    Key("steady/sps", "steps/s", "Σ env steps / Σ time over the steady window; evaluation left out"),
    Key("steady/speedup", "×", "steady/sps / the baseline's SPS; a probed baseline's over the same window"),
    Key("steady/efficiency", "%", "steady/speedup / N × 100"),
    Key("steady/error", "%", "half-width of the 95 % interval of steady/sps, from this run's iterations; runs differ by more"),
    Key("steady/iterations", "", "iterations in the steady window"),
    Key("steady/converged", "0/1", "1 when steady/error is within the precision asked for"),
    Key(
        "steady/drift",
        "%",
        "change of the sampling cost per env step since the steady window began; 0 where noise may explain it",
    ),
    Key("core_efficiency", "%", "speedup / min(env runners, cores) × 100"),
    Key("sps_per_cpu", "steps/s", "sps / CPUs that the trial holds"),
    *(Key(f"time/{phase}", "s", f"time of this iteration in the phase `{phase}`, exclusive") for phase in PHASES),
    Key("time/probe", "s", "time spent on probes since the last result; in no iteration's time, and so in no other figure"),
    Key("loss/total", "% points", "100 − efficiency"),
    *(Key(f"loss/{cause}", "% points", f"its part that goes to {meaning}") for cause, meaning in CAUSES.items()),
    Key(
        "account/exclusive",
        "0/1",
        "1 when the account is exact; 0 where phases overlap and the env runners did not tell what they waited for",
    ),
    Key("account/estimated", "0/1", "1 when stepping and contention can't be told apart yet: both are in loss/serial_stepping"),
    Key("runners/busy", "s", "time that the typical (lower median) env runner sampled in this iteration; new API stack only"),
    Key(
        "runners/longest",
        "s",
        "the same of the env runner that took longest; with APPO and IMPALA, where none waits for it, the mean",
    ),
    Key("runners/env_step", "s", "time in `env.step`, mean over the env runners; estimated from single steps where they are fast"),
    Key("runners/inference", "s", "the same of policy inference"),
    Key("runners/rest", "s", "the rest of their sampling: connectors, resets, bookkeeping; mean over the env runners"),
    Key("runners/reported", "", "env runners that reported in this iteration"),
    Key("runners/healthy", "", "env runners that RLlib holds for healthy"),
    Key("runners/restarts", "", "restarts of env runners so far"),
    Key(
        "learner/busy",
        "s",
        "time that learners beside the env runners updated in this iteration (APPO, IMPALA); mean over learners",
    ),
    Key("learner/waiting", "s", "time that it waited for a batch: much of it means that sampling is the bottleneck"),
    Key(
        "learner/queue",
        "updates",
        "updates that lay ready in the learner's queue, mean over time; APPO's circular buffer holds a batch for several. "
        "Unknown on older releases of Ray (2.45), whose queues can't be watched",
    ),
    Key(
        "learner/dropped",
        "steps",
        "env steps that no learner had room for, and those that APPO's circular buffer overwrote before the learner took them; "
        "`sps` counts them. Unknown where the queue is",
    ),
    Key("diagnosis", "text", "largest cause of lost efficiency over the steady window, and what helps; empty when unknown", ""),
    Key("is_baseline", "0/1", "1 when this trial is the reference"),
    Key("comparable", "0/1", "1 when workload, hardware and steps are those of the baseline; 0 when only others have one"),
    Key("workload", "text", "id of what must be equal for a fair comparison, hardware included; empty when unknown", ""),
    Key("exclusive", "0/1", "1 when no other trial ran on this trial's node during the iteration"),
    Key("cores/own", "cores", "cores that this trial's processes kept busy, mean over the iteration"),
    Key("cores/others", "cores", "the same of other programs on its machine, and of what a virtual machine's host took away"),
)


def nest(values: Mapping[str, float | str]) -> dict[str, Any]:
    """Return the dict to inject: every key of the contract, those missing in `values` as unknown.

    Raises:
        KeyError: `values` has a key that the contract does not know.
    """
    levels = {level: unknown.copy() for level, unknown in _UNKNOWN.items()}
    for name, value in values.items():
        level, leaf = _PLACES[name]
        levels[level][leaf] = value
    root: dict[str, Any] = levels.pop("")
    root.update(levels)
    return root


# Taken apart once: this runs in every iteration of every trial.
_PLACES: Final = {key.name: (key.name.rpartition("/")[0], key.name.rpartition("/")[2]) for key in KEYS}
_UNKNOWN: Final[dict[str, dict[str, float | str]]] = {level: {} for level, _ in _PLACES.values()}
for _key in KEYS:
    _UNKNOWN[_PLACES[_key.name][0]][_PLACES[_key.name][1]] = _key.unknown
