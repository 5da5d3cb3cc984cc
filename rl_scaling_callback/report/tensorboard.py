"""TensorBoard's picture of scaling: speedup and efficiency over N, the ideal line beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rl_scaling_callback.report.report import StudyReport

RUN: Final = "scaling_over_N"
SPEEDUP: Final = f"{RUN}/speedup"
EFFICIENCY: Final = f"{RUN}/efficiency"

_MEANING: Final = {
    SPEEDUP: "Speedup [×] over N = env runners × envs per runner (the step). Where configurations share an N: the largest.",
    EFFICIENCY: "Parallel efficiency [%] over N (the step): speedup / N × 100, of the configuration with the largest speedup.",
}


def write_curve(study: StudyReport, folder: str | Path, run: str = RUN) -> Path:
    """Write the scaling curve as TensorBoard's scalars, whose step is N, and return the folder that holds it.

    There are two runs of the same tags, `<run>/actual` and `<run>/ideal`, so that TensorBoard draws both into one chart, and
    a layout of the two charts for its Custom Scalars tab. A curve that was written before is replaced.

    Args:
        study: what to draw. Configurations without a speedup are left out, and without any the runs stay empty.
        folder: folder of the experiment, where Tune's trials lie.
        run: name of the curve, to tell several studies of one experiment apart.

    Raises:
        ValueError: the folder is a URI. Copy a curve that was written locally.
    """
    if "://" in str(folder):
        raise ValueError(f"folder is {str(folder)!r}; allowed are local folders: write there, then copy what was written")
    best: dict[int, float] = {}
    for c in study.configurations:
        n = c.scale.parallelism
        if c.speedup > best.get(n, 0.0):
            best[n] = c.speedup
    curve = Path(folder) / run
    _write(curve / "actual", {n: (speedup, 100 * speedup / n) for n, speedup in best.items()}, layout=True)
    _write(curve / "ideal", {n: (float(n), 100.0) for n in best})
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
