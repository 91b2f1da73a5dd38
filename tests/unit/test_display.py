"""What is shown of a run: lines where nobody can see bars, bars in a terminal."""

import io

from rich.console import Console

from interloom.core.errors import DataError
from interloom_flows.cli.display import watching

TITLES = {"mix": "mix the sources", "pretrain": "train the language model"}


def shown(*, is_terminal: bool) -> str:
    said = io.StringIO()
    console = Console(file=said, force_terminal=is_terminal, width=200, color_system=None)
    with watching(console, TITLES) as listener:
        listener.reused("mix")
        listener.started("pretrain").update(5, 10, "loss 3.2")
        listener.failed("pretrain", DataError("row 7 is empty\nand more"))
        listener.started("pretrain")
        listener.finished("pretrain", 12.4)
    return said.getvalue()


def test_without_a_terminal_each_event_is_a_plain_line() -> None:
    assert shown(is_terminal=False).splitlines() == [
        "mix: reused",
        "pretrain: train the language model",
        "pretrain: failed: row 7 is empty",
        "pretrain: train the language model",
        "pretrain: done in 12 s",
    ]


def test_a_terminal_gets_one_bar_a_stage() -> None:
    last = [line for line in shown(is_terminal=True).splitlines() if "━" in line][-2:]

    assert "mix" in last[0]
    assert "reused" in last[0]
    assert "pretrain" in last[1]
    assert "12 s" in last[1]


def test_an_interrupted_stage_has_not_failed() -> None:
    said = io.StringIO()
    with watching(Console(file=said, width=200), TITLES) as listener:
        listener.failed("mix", KeyboardInterrupt())

    assert said.getvalue() == "mix: interrupted\n"
