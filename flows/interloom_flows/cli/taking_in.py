"""``ingest``: corpora of one's own."""

import json
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interloom.core.artifacts import UNRECORDED
from interloom.core.errors import ConfigError
from interloom_flows.cli import screen
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from interloom.config.corpora import TakeIn
    from interloom.corpora.intake import IngestOutcome
    from interloom.ports.catalog import DatasetVersion
    from interloom_flows.publishing import Taken

app = typer.Typer(
    help="Take in a corpus of your own under a name.", no_args_is_help=True, rich_markup_mode=None
)

NameOption = Annotated[
    str, typer.Option("--name", metavar="NAME", help="Recipes use the corpus by this name.")
]
LicenceOption = Annotated[
    str, typer.Option("--licence", metavar="SPDX", help="Of rows that name none.")
]


@app.command("speech")
def speech(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A LibriSpeech-style folder, one with manifest.tsv, a .tsv, .jsonl or CutSet.",
        ),
    ],
    name: NameOption,
    licence: LicenceOption = "LicenseRef-unknown",
    consent: Annotated[
        str,
        typer.Option(
            metavar="WORD",
            help="What speakers agreed to, such as research; of rows that name none.",
        ),
    ] = UNRECORDED,
    script: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Of the transcripts, such as cyrillic; others are refused, but for any.",
        ),
    ] = "latin",
    asr: Annotated[
        str | None,
        typer.Option(
            "--asr",
            metavar="moonshine|FOLDER",
            help="Transcribe what has no transcript: Moonshine, or a folder with a Whisper.",
        ),
    ] = None,
) -> None:
    """Take in recordings with transcripts, or transcribe them (--asr).

    How often training draws transcribed ones is the recipe's tokenizer.pseudo_share.
    """
    from interloom.bootstrap import open_transcriber
    from interloom.corpora.ingest_speech import ingest_speech

    ingest = partial(ingest_speech, transcriber=open_transcriber(asr))
    _take_in(
        "speech",
        ingest,
        path,
        _options(name=name, licence=licence, consent=consent, script=script, labelled_by=asr),
    )


@app.command("text")
def text(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A .txt, .jsonl or .parquet file, or a folder.")
    ],
    name: NameOption,
    licence: LicenceOption = "LicenseRef-unknown",
) -> None:
    """Take in written documents."""
    from interloom.corpora.ingest_text import ingest_text

    _take_in("text", ingest_text, path, _options(name=name, licence=licence))


@app.command("dialogue")
def dialogue(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A .jsonl file of dialogues.")],
    name: NameOption,
    licence: LicenceOption = "LicenseRef-unknown",
) -> None:
    """Take in dialogues in text."""
    from interloom.corpora.ingest_dialogue import ingest_dialogues

    _take_in("dialogues", ingest_dialogues, path, _options(name=name, licence=licence))


@app.command("tokenizer")
def tokenizer(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="A Whisper or GLM-4-Voice tokenizer: config.json and *.safetensors.",
        ),
    ],
    name: NameOption,
    licence: LicenceOption = "LicenseRef-unknown",
) -> None:
    """Take in the weights of a speech tokenizer, or of a Whisper to make one of."""
    from interloom.speech_tokenizer.importing import import_tokenizer

    options = _options(name=name, licence=licence)
    imported, version = _take_in_weights("tokenizer", import_tokenizer, folder, options)
    ready = "ready to use" if imported.has_codebook else "without a codebook: train with it"
    screen.put(f"{version.name}@{version.version}: {imported.num_parameters:,} numbers, {ready}")
    start = f"{imported.ref.kind}:{imported.ref.id}"
    screen.put(f"use it: interloom run RECIPE --set 'tokenizer.start_from=\"{start}\"'")


@app.command("base")
def base(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="A Llama, Qwen 2 or Qwen 3: config.json, tokenizer.json and *.safetensors.",
        ),
    ],
    name: NameOption,
    licence: LicenceOption = "LicenseRef-unknown",
) -> None:
    """Take in a text model, with its tokenizer, for pre-training to start from."""
    from interloom.language_model.bases import import_base

    options = _options(name=name, licence=licence)
    imported, version = _take_in_weights("base", import_base, folder, options)
    values = {
        "pretrain.start": name,
        "ingest.text_tokenizer": f"{imported.text_tokenizer.kind}:{imported.text_tokenizer.id}",
        "ingest.text_vocab_size": imported.text_vocab_size,
        **{f"pretrain.model.{key}": value for key, value in imported.shape},
    }
    screen.put(
        f"{version.name}@{version.version}: {imported.num_parameters:,} weights; use it with"
    )
    for key, value in values.items():
        screen.put(f"--set {shlex.quote(f'{key}={json.dumps(value)}')}")


def _take_in_weights(
    kind: str, take: "Callable[..., Taken]", folder: Path, options: "TakeIn"
) -> "tuple[Taken, DatasetVersion]":
    """Store a model and publish it under its name."""
    from interloom.adapters.dvc_export import checked_name
    from interloom_flows.publishing import publish_weights

    checked_name(options.name)
    with opened() as services:
        return publish_weights(services, kind, options, folder, take)


def _options(**given: str | None) -> "TakeIn":
    """How something is taken in, as the options of the command say.

    Raises:
        ConfigError: One is empty or too long.
    """
    from pydantic import ValidationError

    from interloom.config.corpora import TakeIn

    try:
        return TakeIn.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"--{first['loc'][0]}: {first['msg']}") from error


def _take_in(
    kind: str, ingest: Callable[..., "IngestOutcome"], path: Path, given: "TakeIn"
) -> None:
    """Ingest, publish, say what was taken and what was refused."""
    from interloom.adapters.dvc_export import checked_name
    from interloom_flows.planning import blocked_entries
    from interloom_flows.publishing import publish_corpus

    checked_name(given.name)
    with opened() as services, screen.err().status(f"Reading {path}") as status:
        options = given.model_copy(update={"blocked": blocked_entries(services.catalog)})

        def make() -> "IngestOutcome":
            return ingest(path, options, store=services.store, progress=_Status(status.update))

        outcome, version = publish_corpus(services, kind, options, path, make)
    _show(kind, outcome, version)


def _show(kind: str, outcome: "IngestOutcome", version: "DatasetVersion") -> None:
    screen.put(
        f"{version.name}@{version.version}: {outcome.accepted:,} rows taken, "
        f"{outcome.refused:,} refused"
    )
    for refusal in outcome.refusals:
        screen.say(f"refused {refusal.row}: {refusal.reason}")
    screen.put(
        f"use it: interloom run RECIPE --set ingest.source.kind=catalog "
        f"--set ingest.source.{kind}={version.name}"
    )


class _Status:
    """Progress as one line that changes; nothing where there is no terminal."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def update(self, done: int, total: int | None, note: str = "") -> None:
        """Show the position."""
        self._show(f"{done:,}{f' of {total:,}' if total else ''} rows, {note}")
