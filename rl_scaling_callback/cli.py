"""The command line: `rl-scaling report PATH`, `rl-scaling sweep FILE.py:CONFIG` and `rl-scaling keys`."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

try:
    import click
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise ImportError('rl-scaling needs the report extra: pip install "rl-scaling-callback[report]"') from error

from rl_scaling_callback._version import __version__
from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.schema import KEYS
from rl_scaling_callback.core.steady import DEFAULT_RULE, SteadyRule
from rl_scaling_callback.experiments import ExperimentError, read_experiment
from rl_scaling_callback.report import PAGE

if TYPE_CHECKING:
    from rl_scaling_callback.report import Report

INTERRUPTED: Final = 128 + signal.SIGINT
UNREADABLE: Final = 1
EXIT_CODES: Final = {"met": 0, "not met": 3, "undecided": 4}
"""Exit codes of --exit-code by the verdict of the first study. 1 means an unreadable experiment, 2 a usage error."""

_OUTPUT: Final = click.Path(dir_okay=False, writable=True, path_type=Path)
_FOLDER: Final = click.Path(file_okay=False, path_type=Path)


def _scale(_context: click.Context, _option: click.Parameter, text: str) -> Scale:
    try:
        return Scale.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _finite(_context: click.Context, _option: click.Parameter, number: float | None) -> float | None:
    if number is not None and not math.isfinite(number):
        raise click.BadParameter(f"{number}; allowed are finite numbers")
    return number


def _columns(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if wrong := [text for text, (_, mark, theirs) in zip(texts, pairs, strict=True) if not (mark and theirs)]:
        raise click.BadParameter(f"{wrong[0]!r}; allowed are pairs such as sps=FPS: a name of ours, and the table's")
    return {ours: theirs for ours, _, theirs in pairs}


def _counts(_context: click.Context, _option: click.Parameter, text: str) -> list[int] | str:
    try:
        return text if text == "auto" else [int(each) for each in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r}; allowed are auto and whole numbers, such as 1,2,4,8") from None


def _can_be_written(_context: click.Context, _option: click.Parameter, file: Path | None) -> Path | None:
    """Reject a file in a folder that isn't writable, before spending minutes on reading or measuring."""
    if file is not None and not os.access(file.parent, os.W_OK):
        raise click.BadParameter(f"the folder {file.parent} does not exist or is not writable")
    return file


def _goal(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a goal to a command, and pass them to it as a `Goal`."""

    @click.option("--goal", type=click.Choice(list(GOALS)), default="balanced", show_default=True, help="What to recommend.")
    @click.option("--min-efficiency", type=float, metavar="%", help="Minimum efficiency; overrides the goal's.")
    @click.option("--min-speedup", type=float, metavar="×", help="Minimum speedup; overrides the goal's.")
    @click.option("--max-cpus", type=float, metavar="CPUS", help="Maximum number of CPUs per trial.")
    @functools.wraps(command)
    def with_goal(goal: str, **given: Any) -> None:
        constraints = {name: given.pop(name) for name in [*given] if name.startswith(("min_", "max_"))}
        try:
            wanted = Goal.of(goal, **constraints)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        command(goal=wanted, **given)

    return with_goal


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="rl-scaling")
def main() -> None:
    """Measure how RLlib training scales, and find the best number of env runners and envs."""


@main.command()
@click.argument("path")
@_goal
@click.option("--min-sooner", type=float, metavar="×", help="Minimum speedup of the time to return.")
@click.option(
    "--return",
    "target_return",
    type=float,
    callback=_finite,
    metavar="RETURN",
    help="The return to reach; by default, the highest that all runs reach.",
)
@click.option(
    "--reference", callback=_scale, default="1r1e", show_default=True, help="Scale of the baseline; if not measured, the smallest."
)
@click.option("--column", "columns", callback=_columns, multiple=True, metavar="OURS=THEIRS", help="A table's column: sps=FPS.")
@click.option("--pool", multiple=True, metavar="NAME", help="Column or setting whose values are repeats, not studies of their own.")
@click.option(
    "--warmup-iterations",
    type=click.IntRange(min=0),
    default=DEFAULT_RULE.warmup_iterations,
    show_default=True,
    metavar="COUNT",
    help="Iterations to skip at the start of each trial.",
)
@click.option("--format", "form", type=click.Choice(["table", "json", "html"]), default="table", show_default=True)
@click.option("--output", "-o", type=_OUTPUT, callback=_can_be_written, help=f"File to write; for html, {PAGE} by default.")
@click.option("--figures", type=_FOLDER, help="Folder for the figures, as SVG.")
@click.option("--verbose", "-v", is_flag=True, help="Also show losses, laws, predictions, checklist and notes.")
@click.option("--exit-code", is_flag=True, help="Exit with code 3 if the goal is not met, 4 if undecided.")
def report(
    path: str,
    goal: Goal,
    target_return: float | None,
    reference: Scale,
    columns: dict[str, str],
    pool: tuple[str, ...],
    warmup_iterations: int,
    form: str,
    output: Path | None,
    figures: Path | None,
    verbose: bool,
    exit_code: bool,
) -> None:
    """Show a table of configurations and a recommendation.

    PATH is a folder of Tune (a trial, an experiment or many; a path or a URI such as s3://…), a result.json or progress.csv of any
    Ray, or a table in CSV, TSV or JSON lines. Trials need not have used ScalingCallback.

    A table has a row per iteration or configuration. It needs num_env_runners or num_envs_per_env_runner (or both), and sps, or
    time_this_iter_s with env_steps, or usual names for these. Other columns separate studies.
    """
    rule = SteadyRule(warmup_iterations=warmup_iterations)
    try:
        with _progress() as progress:
            experiment = read_experiment(path, reference=reference, rule=rule, columns=columns, pool=pool, progress=progress)
    except ExperimentError as error:
        raise click.ClickException(str(error)) from None

    from rl_scaling_callback.report import make_report

    made = make_report(experiment, goal, reference, target_return=target_return)
    if target_return is not None and not any(study.to_return.is_given for study in made.studies):
        click.echo("--return has no effect: not all runs recorded returns and times, or there is only one configuration", err=True)
    _show(made, form, output, verbose)
    if figures is not None:
        from rl_scaling_callback.report.figures import save_figures

        try:
            for index, study in enumerate(made.studies, start=1):
                # One subfolder per workload if there are several.
                save_figures(study, figures / ("" if len(made.studies) == 1 else str(index)))
        except OSError as error:
            raise click.ClickException(f"the folder can't be written: {error}") from None
    if exit_code:
        sys.exit(EXIT_CODES[made.studies[0].recommendation.verdict] if made.studies else UNREADABLE)


@main.command()
@click.argument("config")
@_goal
@click.option("--runners", callback=_counts, default="auto", metavar="1,2,4", help="Env runners. [default: up to the cores]")
@click.option("--envs", callback=_counts, default="auto", metavar="1,2,4", help="Envs of each. [default: while more pay off]")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Start no new measurement after this time, counted from when Ray and the Algorithm have started. [default: 0.2 for "
    "probes, 0.5 on a disturbed machine, 0.2 for confirming, no limit without probes]",
)
@click.option(
    "--page",
    default=f"~/ray_results/scaling_sweep/{PAGE}",
    show_default=True,
    help="File or URI of the HTML page to write; an existing one is replaced.",
)
@click.option(
    "--num-cpus",
    type=click.IntRange(min=1),
    help="CPUs of the local cluster to start; a trial needs 1 + its env runners. [default: enough for an env runner per core]",
)
@click.option("--write", type=_OUTPUT, callback=_can_be_written, help="Python file to write the tuned config to.")
def sweep(config: str, goal: Goal, budget: float | None, num_cpus: int | None, write: Path | None, **options: Any) -> None:
    """Find the best number of env runners and envs.

    CONFIG is FILE.py:NAME, where NAME is an AlgorithmConfig or a function that returns one. Configurations are probed inside one
    Algorithm, in seconds; if that is not possible, each is trained for some iterations, one after another. If interrupted, the
    sweep reports its measurements so far.
    """
    try:
        from rl_scaling_callback.core.probing import ProbeError
        from rl_scaling_callback.sweeping.cluster import connect
        from rl_scaling_callback.sweeping.config_file import load_config, write_config
        from rl_scaling_callback.sweeping.sweep import sweep as run_sweep
        from rl_scaling_callback.sweeping.user_callbacks import learner_threads_of
    except ImportError as error:
        raise click.ClickException(str(error)) from None
    say = functools.partial(click.echo, err=True)
    try:
        loaded = load_config(config)
        if num_cpus is not None:
            connect(num_cpus, insist=True)
        made = run_sweep(loaded, goal, budget_minutes=budget, say=say, **options)
    except (ValueError, TimeoutError, ProbeError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        say("Interrupted before there were further results")
        sys.exit(INTERRUPTED)
    choice = made.studies[0].recommendation if made.studies else None
    if choice is None or choice.choice is None:
        raise click.ClickException("nothing could be measured; the reasons are listed above")
    if write is not None:
        from rl_scaling_callback.report.decisions import reason_text

        write_config(write, config, choice.choice.scale, reason_text(choice), learner_threads_of(made.config))
        say(f"written: {write}")
    if made.interrupted:
        sys.exit(INTERRUPTED)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def keys(as_json: bool) -> None:
    """List the keys that ScalingCallback adds to results."""
    if as_json:
        click.echo(json.dumps([{"key": key.name, "unit": key.unit, "meaning": key.meaning} for key in KEYS], ensure_ascii=False))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("key", "unit", "meaning"):
        table.add_column(heading, no_wrap=heading != "meaning")
    for key in KEYS:
        table.add_row(Text(key.name), Text(key.unit), Text(key.meaning))
    Console().print(table)


def _show(made: Report, form: str, output: Path | None, verbose: bool) -> None:
    from rl_scaling_callback.report import print_report, to_json, write_page

    if form == "html":
        output = write_page(made, output or PAGE)
    elif output is None:
        if form == "table":
            print_report(made, verbose=verbose)
        else:
            click.echo(to_json(made))
        return
    else:
        with output.open("w", encoding="utf-8") as file:
            if form == "table":
                print_report(made, Console(file=file, width=200), verbose=verbose)
            else:
                file.write(f"{to_json(made)}\n")
    click.echo(f"written: {output}", err=True)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error if it is a terminal."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("Reading trials", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
