"""``rebuild`` and ``readmit``: interleaved rows, back to their text, and out of quarantine."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from interloom.core.errors import ConfigError, DataError
from interloom_flows.cli import screen
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from interloom.core.artifacts import ArtifactRef
    from interloom.ports.store import ArtifactStore
    from interloom.text.bpe import TextTokenizer


def rebuild(
    row: Annotated[
        str | None, typer.Argument(metavar="[ROW]", help="The id of a row: that of its document.")
    ] = None,
    run: Annotated[
        str,
        typer.Option("--run", metavar="RUN", help="Whose rows: a run, a recipe's name, or last."),
    ] = "last",
    is_all: Annotated[
        bool, typer.Option("--all", help="Rebuild every row, and only say whether all are right.")
    ] = False,
) -> None:
    """Give back the text of an interleaved row, byte for byte, from its ids and offsets.

    What is rebuilt is compared with the document of the corpus that the row was made from.
    """
    if (row is None) != is_all:
        raise ConfigError("name one ROW, or ask for --all of them")
    with opened() as services:
        from interloom_flows.results import find_run, summarise

        names = ("interleaved", "text_tokenizer")
        outputs = summarise(services.catalog, find_run(services.catalog, run, names)).outputs
        from interloom.text.bpe import load_text_tokenizer

        tokenizer = load_text_tokenizer(services.store, outputs["text_tokenizer"])
        if row is None:
            _rebuild_all(services.store, outputs["interleaved"], tokenizer)
        else:
            text = _rebuild_one(services.store, outputs["interleaved"], row, tokenizer)
            sys.stdout.buffer.write(text.encode())
            sys.stdout.flush()


def readmit(
    run: Annotated[
        str,
        typer.Option("--run", metavar="RUN", help="Whose rows: a run, a recipe's name, or last."),
    ] = "last",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A limit, as in max_refused=0.5."),
    ] = None,
) -> None:
    """Judge interleaved rows in quarantine again, and publish those that hold now.

    Limits are those of the run's recipe, section interleave.quality, changed by --set. Nothing is
    spoken anew; what was published stays as it is, and a new version of it with the others is
    published as RECIPE/readmit.interleaved. Ends with the command that trains on these rows.
    """
    with opened() as services:
        from interloom.config.interleaving import QualityLimits
        from interloom.config.overrides import apply_overrides, explain
        from interloom.config.recipe import Recipe
        from interloom.stages.contract import StageCall, execute_stage
        from interloom.stages.readmit import ReadmitRequest
        from interloom_flows.results import find_run, summarise

        record = find_run(services.catalog, run, ("interleaved",))
        limits = Recipe.model_validate_json(record.request_json).interleave.quality
        try:
            changed = QualityLimits.model_validate(
                apply_overrides(limits.model_dump(mode="json"), set_ or ())
            )
        except ValidationError as error:
            raise ConfigError(f"interleave.quality: {explain(error, QualityLimits)}") from error
        request = ReadmitRequest(
            interleaved=summarise(services.catalog, record).outputs["interleaved"], limits=changed
        )
        call = StageCall(stage="readmit", request=request, recipe=record.recipe)
        result = execute_stage(services.contract, call).result
        rows = result.outputs()["interleaved"]
        version = next(one for one in services.catalog.datasets() if one.ref == rows)
        name = f"{version.name}@{version.version}"
    counts = {one.name.rpartition("/")[2]: int(one.value) for one in result.metrics}
    told = (
        f"{counts['readmitted']:,} rows readmitted, {counts['quarantined']:,} stay in quarantine, "
        f"{counts['rows']:,} are published as {name}"
    )
    if counts["readmitted"]:
        told += f"\nto train on them: interloom run {record.recipe} --set interleave.rows={name}"
    screen.out().print(told, soft_wrap=True)


def _rebuild_one(
    store: "ArtifactStore", ref: "ArtifactRef", row_id: str, tokenizer: "TextTokenizer"
) -> str:
    """The text of one row, compared with its source.

    Raises:
        DataError: They differ.
    """
    from interloom.corpora.interleaved import find_row, source_text

    text = _checked(find_row(store, ref, "interleaved", row_id), tokenizer)
    source = source_text(store, ref, row_id)
    if source is None:
        screen.say("the store holds its document no more; compared with the row's own text")
    elif source != text:
        raise DataError(f"row {row_id!r} of {ref} is not the text of its document")
    return text


def _rebuild_all(store: "ArtifactStore", ref: "ArtifactRef", tokenizer: "TextTokenizer") -> None:
    """Rebuild every row and count."""
    from interloom.corpora.tables import read_table

    rows = num_bytes = 0
    for row in read_table(store, ref, "interleaved"):
        num_bytes += len(_checked(row, tokenizer).encode())
        rows += 1
    screen.out().print(f"{rows:,} rows of {ref} rebuilt byte for byte, {screen.size(num_bytes)}")


def _checked(row: "Mapping[str, Any]", tokenizer: "TextTokenizer") -> str:
    """The text of a row.

    Raises:
        DataError: It is not the one that the row keeps.
    """
    from interloom.corpora.interleaved import rebuild as rebuild_row

    text = rebuild_row(row, tokenizer)
    if text != row["text"]:
        raise DataError(f"row {row['id']!r} rebuilds to another text than it keeps")
    return text
