"""The scaling curve for TensorBoard: speedup and efficiency over N, next to the ideal line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rl_scaling_callback.report.study import StudyReport

RUN: Final = "scaling_over_N"
SPEEDUP: Final = f"{RUN}/speedup"
EFFICIENCY: Final = f"{RUN}/efficiency"

_MEANING: Final = {
    SPEEDUP: "Speedup [×] over N = env runners × envs per runner (the step). The largest, if configurations share an N.",
    EFFICIENCY: "Parallel efficiency [%] over N (the step): speedup / ideal × 100, of the configuration with the largest speedup.",
}


def write_curve(study: StudyReport, folder: str | Path, run: str = RUN) -> Path:
    """Write the scaling curve as TensorBoard scalars, with N as the step, and return its folder.

    Two runs with the same tags, `<run>/actual` and `<run>/ideal`, let TensorBoard draw both in one chart; a layout for the Custom
    Scalars tab is included. An existing curve is replaced.

    Args:
        study: the study to draw. Configurations without a speedup are left out; the runs are empty if none has one.
        folder: the experiment's folder, next to Tune's trials.
        run: name of the curve, to distinguish several studies of one experiment.

    Raises:
        ValueError: the folder is a URI. Write the curve locally and copy it.
    """
    if "://" in str(folder):
        raise ValueError(f"folder is {str(folder)!r}; allowed are local folders: write the curve to one, then copy it")
    known = sorted((c for c in study.configurations if c.speedup > 0), key=lambda c: c.speedup)
    best = {c.scale.parallelism: c for c in known}
    curve = Path(folder) / run
    _write(curve / "actual", {n: (c.speedup, c.efficiency) for n, c in best.items()}, layout=True)
    _write(curve / "ideal", {n: (c.ideal, 100.0) for n, c in best.items()})
    return curve


def _write(folder: Path, values: dict[int, tuple[float, float]], *, layout: bool = False) -> None:
    from tensorboardX import SummaryWriter

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        if layout:
            charts = {"speedup over N": ["Multiline", [SPEEDUP]], "efficiency [%] over N": ["Multiline", [EFFICIENCY]]}
            writer.add_custom_scalars({"Scaling": charts})
        for n, scalars in sorted(values.items()):
            for tag, value in zip((SPEEDUP, EFFICIENCY), scalars, strict=True):
                writer.add_scalar(tag, value, n, summary_description=_MEANING[tag])
