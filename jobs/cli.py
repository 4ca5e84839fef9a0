"""The command line: lists jobs, shows settings, hands one job to spark-submit."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from lib import job as runner
from lib.errors import GridsinkError
from lib.launch import catalog, java, present, setup, submit
from lib.settings import STATE, Loaded, load_with_origins

_KEPT_RUNS = 50
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


def common_options() -> list[click.Parameter]:
    """Options that every job has besides its own."""
    return [
        click.Option(["--master"], metavar="URL", help="Spark master; short for --set spark.master=URL."),
        click.Option(["--set", "overrides"], multiple=True, metavar="KEY=VALUE", help="A setting; may be given again."),
        click.Option(
            ["--profile"], metavar="NAME", help="Take conf/NAME.yaml.  [default: local or cluster, by master]"
        ),
        click.Option(["--max-quarantine"], type=int, metavar="ROWS", help="Short for --set max_quarantine=ROWS."),
        click.Option(
            ["--json", "json_file"],
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Write the job's summary there.",
        ),
        click.Option(
            ["--dry-run"], is_flag=True, help="Show settings, partitions and the spark-submit line; run nothing."
        ),
    ]


class Jobs(click.Group):
    """Jobs as commands, found in jobs/*/*.py; a job's module is imported only when it is named.

    GROUP.NAME may be typed as GROUP NAME: a group is a command whose commands are the jobs below `prefix`, "GROUP.".
    """

    def __init__(self, name: str | None = None, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(name, invoke_without_command=True, **kwargs)
        self.prefix = prefix

    def jobs(self) -> dict[str, str]:
        """Name below `prefix` and first line of each job."""
        known = catalog.jobs().items()
        return {name.removeprefix(self.prefix): line for name, line in known if name.startswith(self.prefix)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.jobs(), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known, jobs = super().get_command(ctx, cmd_name), self.jobs()
        if known is None and cmd_name in jobs:
            name = self.prefix + cmd_name
            module = catalog.load(name)
            return JobCommand(
                name, params=[*catalog.options(module), *common_options()], help=catalog.help_text(module)
            )
        if known is None and any(name.startswith(f"{cmd_name}.") for name in jobs):
            return Jobs(cmd_name, prefix=f"{cmd_name}.", callback=show_help, help=f"Run a job of the group {cmd_name}.")
        return known

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(ctx), 3, cutoff=0.5)
            near = [self.prefix + it for it in near]
            hint = f"did you mean {' or '.join(near)}?" if near else f"{ctx.command_path} alone lists the jobs"
            raise click.UsageError(f"there is no job {self.prefix}{name}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Jobs"):
            formatter.write_dl(list(self.jobs().items()))
        if self.prefix:
            return
        with formatter.section("Besides"):
            formatter.write_dl(
                [
                    ("config show", "Every setting, its value and where the value came from."),
                    ("operators [NAME]", "The operators that pipelines are made of; with NAME one of them in full."),
                ]
            )


class JobCommand(click.Command):
    """Keeps the arguments as they were typed, for the driver to parse again."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["gridsink.arguments"] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        common = {str(it.name): ctx.params.pop(str(it.name)) for it in common_options()}
        ctx.exit(run_job(str(self.name), ctx.params, ctx.meta["gridsink.arguments"], **common))


@click.pass_context
def show_help(ctx: click.Context) -> None:
    """What a group does where no command is named."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


cli = Jobs(
    callback=show_help,
    context_settings=_CONTEXT,
    help="Run a job on a lake: ./spark-submit.sh JOB [options]; JOB --help says its options.",
)


@cli.group(name="config")
def config() -> None:
    """Settings."""


@config.command(name="show")
@click.option("--master", metavar="URL")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option("--profile", metavar="NAME")
def config_show(master: str | None, overrides: tuple[str, ...], profile: str | None) -> None:
    """Every setting, its value and where the value came from."""
    present.show("settings", _load(master, overrides, profile, None).rows(), Console())


@cli.command(name="operators")
@click.argument("name", required=False)
def operators(name: str | None) -> None:
    """The operators that pipelines are made of; with NAME one of them in full."""
    from lib.algorithm import registry

    try:
        tables = registry.listing(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    for title, rows in tables.items():
        present.show(title, rows, Console())


def _load(master: str | None, overrides: tuple[str, ...], profile: str | None, max_quarantine: int | None) -> Loaded:
    short = [] if master is None else [f"spark.master={master}"]
    short += [] if max_quarantine is None else [f"max_quarantine={max_quarantine}"]
    return load_with_origins([*short, *overrides], profile=profile)


def run_job(
    name: str,
    options: dict[str, Any],
    arguments: list[str],
    master: str | None,
    overrides: tuple[str, ...],
    profile: str | None,
    max_quarantine: int | None,
    json_file: Path | None,
    dry_run: bool,
) -> int:
    """Hand one job to spark-submit and show what it gives back; returns the exit code."""
    loaded = _load(master, overrides, profile, max_quarantine)
    if json_file is not None and not os.access(json_file.parent, os.W_OK):
        raise click.BadParameter(f"cannot write to the folder {json_file.parent.resolve()}", param_hint="--json")
    settings = loaded.settings
    run_id = runner.new_run_id(name)
    folder = STATE / "runs" / run_id
    run_dir = runner.runs_folder(settings) / run_id
    request = {
        "job": name,
        "arguments": arguments,
        "settings": settings.model_dump(mode="json"),
        "run_id": run_id,
        "run_dir": str(run_dir),
        "interactive": sys.stderr.isatty(),
    }
    java_home = java.java_home(STATE)
    setup.prepare(java_home)
    _prune(folder.parent)
    folder.mkdir(parents=True)
    runner.write_json(folder / "request.json", request)
    line = submit.submission(settings, run_id, folder / "request.json", java_home)
    console = Console()
    if dry_run:
        _show_plan(loaded, name, options, line, console)
        return runner.OK
    code = submit.run(line, folder)
    result_file = folder / "result.json"
    if not result_file.is_file():
        if code not in (runner.INTERRUPTED, runner.OK):
            raise submit.last_words(folder)
        return code
    result = json.loads(result_file.read_text(encoding="utf-8"))
    for title, rows in result["tables"].items():
        present.show(title, rows, console)
    if result["exit_code"] in (runner.OK, runner.QUARANTINED):
        console.print(f"tables: {settings.lake.path}", soft_wrap=True, highlight=False)
    if (run_dir / "run.json").is_file():
        console.print(f"record: {run_dir / 'run.json'}", soft_wrap=True, highlight=False)
    if json_file is not None:
        summary = {"job": name, "run_id": run_id, "exit_code": result["exit_code"], **result["summary"]}
        runner.write_json(json_file, summary)
    return int(result["exit_code"])


def _show_plan(loaded: Loaded, name: str, options: dict[str, Any], line: submit.Submission, console: Console) -> None:
    present.show("settings", loaded.rows(), console)
    module = catalog.load(name)
    if hasattr(module, "plan"):
        try:
            present.show("partitions", module.plan(loaded.settings, options), console)
        except GridsinkError as error:
            console.print(f"partitions: not known yet: {error}", soft_wrap=True, highlight=False)
    if loaded.settings.spark.master.startswith(("yarn", "k8s")):
        console.print("note: YARN and Kubernetes are untested", highlight=False)
    click.echo(str(line))


def _prune(runs: Path) -> None:
    """Keep the latest runs' logs; the records themselves are in the lake."""
    for old in sorted(runs.glob("*-*"))[:-_KEPT_RUNS]:
        shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """Run the command line; known errors end as three short lines and their exit code."""
    try:
        cli(prog_name="./spark-submit.sh")
    except GridsinkError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(runner.INTERRUPTED)
