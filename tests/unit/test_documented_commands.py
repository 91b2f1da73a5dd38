"""What the documentation tells people to type can be typed."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from interloom_flows.cli.application import app
from interloom_flows.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND: Any = typer.main.get_command(app)


def typed_lines() -> Iterator[str]:
    """Lines of the console blocks; a line that ends with a backslash goes on in the next."""
    for document in DOCUMENTS:
        for block in re.findall(r"```console\n(.*?)```", document.read_text(), re.DOTALL):
            yield from block.replace("\\\n", " ").splitlines()


def inline_lines() -> Iterator[str]:
    """Commands within sentences: `interloom ...`."""
    for document in DOCUMENTS:
        yield from re.findall(r"`(interloom [^`]+|make [a-z-]+)`", document.read_text())


def words_of(program: str, lines: Iterator[str]) -> list[list[str]]:
    typed = (shlex.split(line, comments=True) for line in lines)
    return [words[1:] for words in typed if words[:1] == [program]]


def parse(words: list[str], command: Any, parent: Any = None) -> None:
    """Parse a command line as it would be, and call nothing."""
    context = command.make_context(command.name or "", list(words), parent=parent)
    if hasattr(command, "commands"):
        _, chosen, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        parse(rest, chosen, context)


@pytest.mark.parametrize("words", words_of("interloom", typed_lines()), ids=" ".join)
def test_every_documented_command_is_one(words: list[str]) -> None:
    parse(words, COMMAND)


@pytest.mark.parametrize("words", words_of("interloom", inline_lines()), ids=" ".join)
def test_every_verb_that_a_sentence_names_is_there(words: list[str]) -> None:
    assert words[0] in COMMAND.commands


def test_every_documented_make_target_is_one() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {
        words[0] for lines in (typed_lines(), inline_lines()) for words in words_of("make", lines)
    }

    assert {"demo", "test"} <= named <= set(targets)


def test_every_documented_change_of_a_recipe_is_valid() -> None:
    changed = 0
    for words in words_of("interloom", typed_lines()):
        overrides = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
        if overrides:
            load_recipe(words[1], overrides)
            changed += 1
    assert changed
