"""The verbs, and how a command begins and ends."""

import signal
import sys
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from interloom.core.errors import InterloomError
from interloom_flows.cli import (
    ancestry,
    comparing,
    data,
    deploying,
    governing,
    machine,
    presets,
    records,
    respeaking,
    running,
    screen,
    speaking,
    taking_in,
    training,
    weaving,
)
from interloom_flows.cli.outcome import INTERRUPTED, conclude

app = typer.Typer(
    name="interloom",
    help="Train speech-text language models as checked, versioned stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(running.run)
app.command("plan")(running.plan)
app.command("evaluate")(running.evaluate)
app.command("runs")(records.runs)
app.command("lineage")(ancestry.lineage)
app.command("diff")(comparing.diff)
app.command("mixtures")(comparing.mixtures)
app.command("takedown")(governing.takedown)
app.command("verify")(governing.verify)
app.command("card")(governing.card)
app.command("reconcile")(governing.reconcile)
app.command("tokenize")(speaking.tokenize)
app.command("speak")(speaking.speak)
app.command("chat")(speaking.chat)
app.command("rebuild")(weaving.rebuild)
app.command("readmit")(weaving.readmit)
app.command("respeak")(respeaking.respeak)
app.command("verify-resume")(training.verify_resume)
app.command("sweep")(training.sweep)
app.command("preset")(presets.preset)
app.command("curves")(training.curves)
app.command("dashboard")(machine.dashboard)
app.command("doctor")(machine.doctor)
app.command("deploy")(deploying.deploy)
app.add_typer(taking_in.app, name="ingest")
app.add_typer(data.app, name="data")


def _print_version(*, is_asked: bool) -> None:
    if is_asked:
        screen.out().print(f"interloom {version('interloom')}")
        raise typer.Exit


@app.callback()
def _common(
    version_: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version and leave.",
            is_eager=True,
            callback=lambda is_asked: _print_version(is_asked=is_asked),
        ),
    ] = False,
) -> None:
    """Train speech-text language models as checked, versioned stages."""


def main() -> None:
    """Entry point: run the command that was typed, and leave with its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command; gives its exit code. Says errors in one line."""
    command = typer.main.get_command(app)

    def call() -> int | None:
        code: int | None = command.main(
            args=arguments, prog_name="interloom", standalone_mode=False
        )
        if code == INTERRUPTED:  # Typer turns an interrupt into a code
            raise KeyboardInterrupt
        return code

    return conclude(call, screen.say, _home())


def _home() -> Path:
    """Where a crash log goes, even when the settings cannot be read."""
    from interloom.config.settings import Settings, load_settings

    try:
        return load_settings().home
    except InterloomError:
        return Path(Settings.model_fields["home"].default)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    """End as an interrupt does: stages are ended, nothing is left behind."""
    raise KeyboardInterrupt
