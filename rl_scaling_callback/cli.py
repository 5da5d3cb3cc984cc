"""The command line: `rl-scaling report PATH`, `rl-scaling sweep FILE.py:CONFIG` and `rl-scaling keys`."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

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
from rl_scaling_callback.analysis.speed_correction import CORRECTIONS, Correction
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.schema import KEYS
from rl_scaling_callback.core.steady import DEFAULT_RULE, SteadyRule
from rl_scaling_callback.experiments import ExperimentError, read_experiment
from rl_scaling_callback.sweeping import ENGINES, Engine

if TYPE_CHECKING:
    from rl_scaling_callback.report import Report

DEFAULT_PAGE: Final = "scaling_report.html"
UNREADABLE: Final = 1
INTERRUPTED: Final = 128 + signal.SIGINT
EXIT_CODES: Final = {"met": 0, "not met": 3, "undecided": 4}
"""With --exit-code: by the verdict on the goal, the first study's. 1 is for what can't be read, 2 for a wrong command."""


def _scale(_context: click.Context, _option: click.Parameter, text: str) -> Scale:
    try:
        return Scale.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _can_be_written(_context: click.Context, _option: click.Parameter, file: Path | None) -> Path | None:
    """Refuse a file in a folder that can't be written to: now, and not after minutes of reading or measuring."""
    if file is not None and not os.access(file.parent, os.W_OK):
        raise click.BadParameter(f"there is no folder {file.parent} that can be written to")
    return file


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="rl-scaling")
def main() -> None:
    """How many env runners, how many envs? What parallel RL training with RLlib brings, and which configuration to take."""


def _goal(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a goal, and pass it the `Goal` that they make."""

    @click.option("--goal", type=click.Choice(list(GOALS)), default="balanced", show_default=True, help="What you are after.")
    @click.option("--min-efficiency", type=float, metavar="%", help="Least efficiency, in place of the goal's.")
    @click.option("--min-speedup", type=float, metavar="×", help="Least speedup, in place of the goal's.")
    @click.option("--max-cpus", type=float, metavar="CPUS", help="Most CPUs that a trial may hold.")
    @click.option("--max-ram-utilisation", type=float, metavar="%", help="Most RAM utilisation of the node.")
    @functools.wraps(command)
    def with_goal(
        goal: str,
        min_efficiency: float | None,
        min_speedup: float | None,
        max_cpus: float | None,
        max_ram_utilisation: float | None,
        **others: Any,
    ) -> None:
        try:
            wanted = Goal.of(
                goal,
                min_efficiency=min_efficiency,
                min_speedup=min_speedup,
                max_cpus=max_cpus,
                max_ram_utilisation=max_ram_utilisation,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        command(goal=wanted, **others)

    return with_goal


@main.command()
@click.argument("path")
@_goal
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "json", "html"]),
    default="table",
    show_default=True,
    help="How to show it.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=_can_be_written,
    help=f"File to write. [default: standard output; {DEFAULT_PAGE} for html]",
)
@click.option("--figures", type=click.Path(file_okay=False, path_type=Path), help="Folder to write the pictures into, as SVG.")
@click.option("--curve", type=click.Path(file_okay=False, path_type=Path), help="Folder to write TensorBoard's curve over N into.")
@click.option("--reference", callback=_scale, default="1r1e", show_default=True, help="Scale of the baseline.")
@click.option(
    "--warmup-iterations",
    type=click.IntRange(min=0),
    default=DEFAULT_RULE.warmup_iterations,
    show_default=True,
    help="Iterations of each trial that are left out at its start.",
)
@click.option(
    "--correction",
    type=click.Choice(CORRECTIONS),
    default="repeated",
    show_default=True,
    help="When to correct for the machine's speed, as the learner shows it: where trials were repeated, always or never.",
)
@click.option(
    "--verbose", "-v", is_flag=True, help="In the table format: all configurations, laws, predictions, checklist and notes."
)
@click.option("--exit-code", is_flag=True, help="Exit with 3 when the goal is not met, with 4 when that is undecided.")
def report(
    path: str,
    goal: Goal,
    form: str,
    output: Path | None,
    figures: Path | None,
    curve: Path | None,
    reference: Scale,
    warmup_iterations: int,
    correction: Correction,
    verbose: bool,
    exit_code: bool,
) -> None:
    """What an experiment says: a table of its configurations, and which one to take.

    PATH is the folder of a Tune experiment (a path or a URI such as s3://…; trials need not have used ScalingCallback), or a CSV
    file with the columns num_env_runners, num_envs_per_env_runner (1 by default), and two of env_steps, time_this_iter_s and sps,
    or sps alone.
    """
    rule = SteadyRule(warmup_iterations=warmup_iterations)
    try:
        with _progress() as progress:
            experiment = read_experiment(path, reference=reference, rule=rule, progress=progress)
    except ExperimentError as error:
        raise click.ClickException(str(error)) from None

    from rl_scaling_callback.report import make_report, save_figures, write_curve

    made = make_report(experiment, goal, reference, correction=correction)
    _show(made, form, output, verbose)
    for place, study in enumerate(made.studies, start=1):
        # Several workloads in one folder: each gets a place of its own.
        own = "" if len(made.studies) == 1 else str(place)
        if figures is not None:
            save_figures(study, figures / own)
        if curve is not None:
            write_curve(study, curve / own)
    if exit_code:
        sys.exit(EXIT_CODES[made.studies[0].recommendation.verdict] if made.studies else UNREADABLE)


def _counts(_context: click.Context, _option: click.Parameter, text: str) -> list[int] | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        counts = [int(each) for each in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1 or len(set(counts)) < len(counts):
        raise click.BadParameter(f"{text!r}; allowed are auto and different whole numbers from 1 up, such as 1,2,4,8")
    return counts


@main.command()
@click.argument("config")
@click.option("--runners", callback=_counts, default="auto", metavar="1,2,4", help="Env runners. [default: up to the cores]")
@click.option(
    "--envs", callback=_counts, default="auto", metavar="1,2,4", help="Envs per env runner. [default: doubled while it pays]"
)
@_goal
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="auto",
    show_default=True,
    help="Probe configurations inside one Algorithm, or run a trial of each. auto: trials only where probes can't be.",
)
@click.option("--confirm/--no-confirm", default=True, show_default=True, help="Train a few iterations with what probes found.")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MINUTES",
    help="Nothing new is measured after that, once Ray and the Algorithm have started. [default: 0.5 with probes and as much to "
    "confirm, no limit with trials]",
)
@click.option(
    "--keep-envs/--no-keep-envs",
    default=True,
    show_default=True,
    help="Keep the envs of all configurations that are probed, or of one at a time: for few licences or little memory, and slower.",
)
@click.option("--max-trials", type=click.IntRange(min=1), help="Most trials.")
@click.option("--storage-path", default="~/ray_results", show_default=True, help="Where Tune keeps results: a directory or URI.")
@click.option("--name", default="scaling_sweep", show_default=True, help="Name of the experiment there. Its page is replaced.")
@click.option("--resume", is_flag=True, help="Go on with the trials that ran under this name.")
@click.option(
    "--reuse", multiple=True, metavar="PATH", help="Earlier experiment: what it measured of this workload is not repeated."
)
@click.option(
    "--num-cpus",
    type=click.IntRange(min=1),
    help="Logical CPUs of a cluster that is started here; a trial takes 1 + its env runners. [default: cores + 1]",
)
@click.option(
    "--write",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=_can_be_written,
    help="Python file to write the tuned config into.",
)
def sweep(
    config: str,
    runners: list[int] | Literal["auto"],
    envs: list[int] | Literal["auto"],
    goal: Goal,
    engine: Engine,
    confirm: bool,
    budget: float | None,
    keep_envs: bool,
    max_trials: int | None,
    storage_path: str,
    name: str,
    resume: bool,
    reuse: tuple[str, ...],
    num_cpus: int | None,
    write: Path | None,
) -> None:
    """Find the best number of env runners and envs by measuring few of them.

    CONFIG is FILE.py:NAME, where NAME is an AlgorithmConfig or a function that returns one. Configurations are probed inside one
    Algorithm, in seconds; where that can't be, each gets a trial of its own, one at a time. The page lies in the experiment's
    folder at the end. Interrupted, it reports what is known; trials go on with --resume.
    """
    try:
        from rl_scaling_callback.report.progress import following
        from rl_scaling_callback.rllib.prober import ProbeError
        from rl_scaling_callback.sweeping.cluster import connect
        from rl_scaling_callback.sweeping.config_file import load_config, write_config
        from rl_scaling_callback.sweeping.sweep import sweep as run_sweep
    except ImportError as error:
        raise click.ClickException(str(error)) from None
    try:
        loaded = load_config(config)
        if num_cpus is not None:
            connect(num_cpus)
        with following(Console(stderr=True)) as follow:
            made = run_sweep(
                loaded,
                goal,
                runners=runners,
                envs=envs,
                engine=engine,
                confirm=confirm,
                budget_minutes=budget,
                keep_envs=keep_envs,
                storage_path=storage_path,
                name=name,
                say=functools.partial(click.echo, err=True),
                progress=follow,
                max_trials=max_trials,
                resume=resume,
                reuse=reuse,
            )
    except (ValueError, TimeoutError, ExperimentError, ProbeError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("Interrupted: nothing more is known than what was shown", err=True)
        sys.exit(INTERRUPTED)
    choice = made.studies[0].recommendation if made.studies else None
    if choice is None or choice.choice is None:
        raise click.ClickException("nothing could be measured; see what was left out above")
    if write is not None:
        from rl_scaling_callback.report import reason_text

        write_config(write, config, choice.choice.scale, reason_text(choice))
        click.echo(f"written: {write}", err=True)
    if made.interrupted:
        sys.exit(INTERRUPTED)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def keys(as_json: bool) -> None:
    """All keys that ScalingCallback adds to each result, under "scaling": unit and meaning."""
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
    from rl_scaling_callback.report import print_report, to_json, to_markdown, write_page

    if form == "html":
        click.echo(f"written: {write_page(made, output or DEFAULT_PAGE)}", err=True)
        return
    if form == "table":
        if output is None:
            print_report(made, verbose=verbose)
            return
        with output.open("w", encoding="utf-8") as file:
            print_report(made, Console(file=file, width=200), verbose=verbose)
    else:
        text = to_json(made) if form == "json" else to_markdown(made)
        if output is None:
            click.echo(text)
            return
        output.write_text(text + "\n", encoding="utf-8")
    click.echo(f"written: {output}", err=True)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show how far reading is, on standard error and only to a person."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("Reading trials", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
