"""The command line: `rl-scaling report PATH`, `rl-scaling sweep FILE.py:CONFIG` and `rl-scaling keys`."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

try:
    import click
    from rich.console import Console
    from rich.progress import Progress
except ImportError as error:
    raise ImportError('rl-scaling needs the report extra: pip install "rl-scaling-callback[report]"') from error

from rl_scaling_callback import __version__
from rl_scaling_callback.analysis.choice import GOALS, Goal
from rl_scaling_callback.core.probing import ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.schema import KEYS
from rl_scaling_callback.experiments import ExperimentError, read_experiment
from rl_scaling_callback.report import SWEEP_PAGE, make_report, print_report, write_page

INTERRUPTED: Final = 128 + signal.SIGINT


def _parsed(parse: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a callback that parses the text of an option; a `ValueError` of `parse` becomes a usage error."""

    def callback(_context: click.Context, _option: click.Parameter, given: Any) -> Any:
        try:
            return None if given is None else parse(given)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def _columns(texts: tuple[str, ...]) -> dict[str, str]:
    columns = {ours: theirs for ours, _, theirs in (text.partition("=") for text in texts)}
    if not all((*columns, *columns.values())):
        raise ValueError(f"{', '.join(texts)!r}; allowed are pairs such as sps=FPS: a name of ours, and the table's")
    return columns


def _counts(text: str) -> list[int] | str:
    try:
        return text if text == "auto" else [int(each) for each in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r}; allowed are auto and whole numbers, such as 1,2,4,8") from None


def _file(text: str) -> Path:
    """Return a path if a file can be written there, to find out before spending minutes on reading or measuring."""
    path = Path(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{text} can't be written: it must be a file in a folder that exists and is writable")
    return path


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
@click.option("--reference", callback=_parsed(Scale.parse), default="1r1e", show_default=True, help="Scale of the baseline.")
@click.option(
    "--column", "columns", callback=_parsed(_columns), multiple=True, metavar="OURS=THEIRS", help="A table's column: sps=FPS."
)
@click.option("--pool", multiple=True, metavar="NAME", help="Column or setting whose values are repeats.")
@click.option("--page", callback=_parsed(_file), metavar="FILE", help="HTML page to write, with figures.")
@click.option("--verbose", "-v", is_flag=True, help="Also show losses, checklist, scaling law and notes.")
def report(
    path: str,
    goal: Goal,
    reference: Scale,
    columns: dict[str, str],
    pool: tuple[str, ...],
    page: Path | None,
    verbose: bool,
) -> None:
    """Show a table of configurations and a recommendation.

    PATH is a folder of Tune (or a URI such as s3://…), a result.json or progress.csv, with or without ScalingCallback, or a table
    (CSV, TSV, JSON lines) with num_env_runners, num_envs_per_env_runner, and sps, or time_this_iter_s with env_steps, or usual
    names for these.
    """
    try:
        with _progress() as progress:
            experiment = read_experiment(path, reference=reference, columns=columns, pool=pool, progress=progress)
    except ExperimentError as error:
        raise click.ClickException(str(error)) from None
    made = make_report(experiment, goal, reference)
    print_report(made, verbose=verbose)
    if page is not None:
        click.echo(f"written: {write_page(made, page)}", err=True)


@main.command()
@click.argument("config")
@_goal
@click.option(
    "--runners", callback=_parsed(_counts), default="auto", metavar="1,2,4", help="Env runners. [default: up to the CPUs]"
)
@click.option(
    "--envs", callback=_parsed(_counts), default="auto", metavar="1,2,4", help="Envs of each. [default: while more pay off]"
)
@click.option(
    "--page",
    default=SWEEP_PAGE,
    show_default=True,
    help="File or URI of the HTML page to write; an existing one is replaced.",
)
@click.option("--write", callback=_parsed(_file), metavar="FILE", help="Python file to write the tuned config to.")
def sweep(config: str, goal: Goal, write: Path | None, **options: Any) -> None:
    """Find the best number of env runners and envs.

    CONFIG is FILE.py:NAME, where NAME is an AlgorithmConfig or a function that returns one. Configurations are probed inside one
    Algorithm, in seconds; if that is not possible, each is trained for some iterations, one after another. If interrupted, the
    sweep reports its measurements so far.
    """
    if write is not None and write.resolve() == Path(config.rpartition(":")[0]).resolve():
        raise click.UsageError(f"--write is {write}, which holds the config to tune; allowed is another file")
    from rl_scaling_callback.sweeping.sweep import sweep as run_sweep  # imported here, because only a sweep needs Ray
    from rl_scaling_callback.sweeping.task import learner_threads_of, load_config, write_config

    say = functools.partial(click.echo, err=True)
    try:
        made = run_sweep(load_config(config), goal, say=say, **options)
    except (ValueError, TimeoutError, ProbeError, ImportError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        say("Interrupted before there were further results")
        sys.exit(INTERRUPTED)
    found = made.studies[0].recommendation
    if found.choice is None:
        raise click.ClickException("nothing could be measured; the reasons are listed above")
    if write is not None:
        from rl_scaling_callback.report.decisions import reason_text

        write_config(write, config, found.choice.scale, reason_text(found), learner_threads_of(made.config))
        say(f"written: {write}")
    if made.interrupted:
        sys.exit(INTERRUPTED)


@main.command()
def keys() -> None:
    """List the keys that ScalingCallback adds to results."""
    width = max(len(key.name) for key in KEYS)
    for key in KEYS:
        click.echo(f"{key.name:{width}}  {key.unit:8}  {key.meaning}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error if it is a terminal."""
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("Reading trials", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
