"""``takedown``, ``verify``, ``card``, ``reconcile``: what may be read, and what can be proven."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interloom_flows.cli import screen
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from interloom.bootstrap import Services
    from interloom.ports.catalog import Block
    from interloom_flows.takedown import Touched

_MISMATCH = 65  # as for data that breaks its contract


def takedown(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[WHAT]", help="source:NAME, speaker:ID or licence:SPDX.", show_default=False
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="Kept with the block and in the audit.")] = "",
    who: Annotated[str | None, typer.Option(help="Who decided it; you by default.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what it touched, and block nothing.")
    ] = False,
    lift: Annotated[bool, typer.Option("--lift", help="Take it off the block list again.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the block list.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all that it touched, as JSON.")
    ] = None,
) -> None:
    """Take data down: list what it touched, and keep later runs from reading it."""
    from interloom.core.errors import ConfigError
    from interloom_flows.takedown import find_touched, parse_selector, take_down

    if list_:
        _show_blocks()
        return
    if what is None:
        raise ConfigError("takedown needs WHAT: source:NAME, speaker:ID or licence:SPDX; or --list")
    kind, value = parse_selector(what)
    by = who or _user()
    with opened() as services:
        if lift:
            was_there = services.catalog.unblock(kind, value, by)
            screen.put(
                f"{what} is off the block list." if was_there else f"{what} was not blocked."
            )
            return
        touched = find_touched(services.catalog, services.store, what)
        _show_touched(what, touched)
        if report is not None:
            report.write_bytes(_report(what, touched))
            screen.put(f"report: {report}")
        if dry_run:
            screen.put("Nothing was blocked.")
            return
        take_down(services.catalog, touched, _block(what, by, reason))
    screen.put(
        f"{what} is blocked: later runs leave its rows out. Run the recipes again to replace"
    )
    screen.put("what was made from it.")


def verify(
    what: Annotated[
        str,
        typer.Argument(metavar="ARTIFACT", help="NAME, NAME@VERSION, or the beginning of an id."),
    ],
    ranks: Annotated[
        int | None, typer.Option(help="Train on so many ranks, to compare world sizes.", min=1)
    ] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Show earlier verdicts, and execute nothing.")
    ] = False,
) -> None:
    """Execute the stage that made an artifact again, and compare."""
    from interloom.ports.catalog import Verdict
    from interloom.stages.verifying import verify_artifact
    from interloom_flows.tracing import find_artifact

    with opened() as services:
        artifact = find_artifact(services.catalog, what)
        if history:
            _show_verdicts(services, what)
            return
        with screen.err().status(f"Making {artifact} again"):
            verification = verify_artifact(services.contract, artifact, num_ranks=ranks)
    screen.put(f"{artifact}: {verification.verdict}: {verification.detail}")
    if verification.verdict is Verdict.DIFFERENT:
        raise typer.Exit(_MISMATCH)


def reconcile(
    paranoid: Annotated[
        bool, typer.Option("--paranoid", help="Hash every byte of every artifact, not a sample.")
    ] = False,
) -> None:
    """End what the dead left, tell lineage, and compare what is published with the store."""
    from interloom.stages.sweeping import reconcile as find_lost
    from interloom.stages.sweeping import sweep
    from interloom_flows.reporting import describe_lost
    from interloom_flows.telling import tell_lineage

    num_lost = 0
    with opened() as services:
        swept = sweep(services.contract, grace_s=services.settings.staging_grace_s)
        screen.put(
            f"Removed {swept.folders} folders, ended {swept.runs} runs and {swept.leases} leases."
        )
        told = tell_lineage(services)
        if told is not None:
            why = f": {told.error}" if told.error else ""
            screen.put(f"Told {told.num_told} lineage events, {told.num_left} wait{why}")
        for lost in find_lost(services.contract, every_byte=paranoid):
            num_lost += 1
            screen.put(describe_lost(lost))
    if num_lost:
        screen.put(f"{num_lost} published artifacts are not whole.")
        raise typer.Exit(_MISMATCH)
    screen.put("Every published artifact is whole.")


def card(
    what: Annotated[
        str,
        typer.Argument(metavar="ARTIFACT", help="NAME, NAME@VERSION, or the beginning of an id."),
    ],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Write it there, as Markdown.")
    ] = None,
) -> None:
    """Show the card of a model or data set, written from its lineage."""
    from interloom_flows.cards import card as written_card
    from interloom_flows.tracing import find_artifact

    with opened() as services:
        artifact = find_artifact(services.catalog, what)
        currency = services.contract.prices.currency
        text = written_card(services.catalog, artifact, currency=currency)
    if to is None:
        screen.put(text)
        return
    to.write_text(text, encoding="utf-8")
    screen.put(str(to))


def _user() -> str:
    import getpass

    return getpass.getuser()


def _block(what: str, who: str, reason: str) -> "Block":
    from datetime import UTC, datetime

    from interloom.ports.catalog import Block
    from interloom_flows.takedown import parse_selector

    kind, value = parse_selector(what)
    return Block(kind, value, datetime.now(UTC).isoformat(timespec="milliseconds"), who, reason)


def _show_blocks() -> None:
    with opened() as services:
        blocks = services.catalog.blocks()
    if not blocks:
        screen.put("Nothing is blocked.")
        return
    shown = screen.table("", "what", "since", "who", "reason")
    for block in blocks:
        since = block.since[:16].replace("T", " ")
        shown.add_row(f"{block.kind}:{block.value}", since, block.who, block.reason)
    screen.out().print(shown)


def _show_touched(what: str, touched: "Touched") -> None:
    rows = sum(shard.num_rows for shard in touched.shards)
    screen.put(
        f"{what}: {rows:,} rows in {len(touched.shards)} shards, "
        f"{len(touched.artifacts)} artifacts, {len(touched.models)} models, "
        f"{len(touched.run_ids)} runs"
    )
    for shard in touched.shards:
        screen.put(f"  shard {shard.artifact} {shard.path}: {shard.num_rows:,} rows")
    for name in touched.names:
        screen.put(f"  version {name}")
    for point in touched.checkpoints:
        screen.put(
            f"  model {point.artifact}, trained to step {point.step} by run {point.run_id[:13]}"
        )
    for ref in touched.unread:
        screen.put(f"  {ref} is not whole in the store: counted as touched")


def _report(what: str, touched: "Touched") -> bytes:
    import json
    from dataclasses import asdict

    return json.dumps({"what": what, **asdict(touched)}, indent=2, sort_keys=True).encode()


def _show_verdicts(services: "Services", what: str) -> None:
    from interloom_flows.tracing import find_artifact

    verdicts = services.catalog.verifications(find_artifact(services.catalog, what))
    for held in verdicts:
        screen.put(f"{held.at[:16].replace('T', ' ')}  {held.verdict}: {held.detail}")
    if not verdicts:
        screen.put("Never verified.")
