"""Plan the mixture and pack it into rows."""

from collections.abc import Iterator, Mapping
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from interloom.config.mixture import MixtureConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.ports.catalog import Metric, MixtureComponent
from interloom.ports.store import ArtifactStore
from interloom.ports.workspace import Workspace
from interloom.stages.result import StageRequest, StageResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from interloom.corpora.tables import Split
    from interloom.mixture.alignment import Aligner, Word
    from interloom.mixture.examples import Example, Ids
    from interloom.mixture.spooling import SpooledSource
    from interloom.mixture.writing import RowCounts
    from interloom.vocabulary.layout import VocabularyLayout
    from interloom.vocabulary.units import SpeechUnits

_NAMED = 16  # ids of left-out examples that the manifest lists
_BPE_UTTERANCES = 100_000  # that units are learnt from


class MixRequest(StageRequest):
    """The sources, and how much of each is read.

    ``interleaved`` may be left out if the mixture does not name it.
    """

    text: ArtifactRef
    tokens: ArtifactRef
    interleaved: ArtifactRef | None = None
    tokenizer: ArtifactRef
    text_tokenizer: ArtifactRef
    config: MixtureConfig = MixtureConfig()
    seed: int = 0
    version: Literal[2] = 2


class MixResult(StageResult):
    """The packed rows."""

    rows: ArtifactRef

    def mixture(self) -> tuple[MixtureComponent, ...]:
        """Tokens asked and drawn by source, out of the metrics."""
        values = {metric.name: metric.value for metric in self.metrics}
        prefix = "mix/epochs/"
        return tuple(
            MixtureComponent(
                source=name,
                tokens_asked=int(values[f"mix/asked/{name}"]),
                tokens_drawn=int(values[f"mix/drawn/{name}"]),
                epochs=values[f"{prefix}{name}"],
            )
            for name in (key.removeprefix(prefix) for key in values if key.startswith(prefix))
        )


def mix(request: MixRequest, *, store: ArtifactStore, work: Workspace) -> MixResult:
    """Encode every source, plan tokens by source, draw whole documents, pack them.

    Metrics ``mix/asked/SOURCE`` and ``mix/drawn/SOURCE`` count tokens, ``mix/targets/SOURCE`` those
    with loss, ``mix/size/SOURCE`` those of one pass, ``mix/epochs/SOURCE`` the passes,
    ``mix/left_out/SOURCE`` examples that fit no row, ``mix/drawn/modality/...`` tokens of the rows
    by modality, ``mix/asked/licence/SPDX`` and ``mix/drawn/licence/SPDX`` those by licence,
    ``mix/fill`` the part of all places, or units, that is not padding; with ``alignment``,
    ``mix/utterances/aligned`` and ``mix/utterances/unaligned`` runs of speech in the rows.

    Raises:
        ConfigError: The mixture cannot be made of these sources; says why.
        DataError: Codes or ids were made with another tokenizer or vocabulary.
    """
    import shutil

    from interloom.mixture.plan import all_documents, draw_documents, plan_phases
    from interloom.mixture.rows import RowPart
    from interloom.mixture.writing import write_rows

    layout = _layout(request, store)
    shutil.rmtree(work.folder / "spool", ignore_errors=True)
    aligner = _aligner(request, store)
    sources = _spool("train", request, store, layout, aligner, work)
    heldout = _spool("heldout", request, store, layout, aligner, work)
    phases = plan_phases(request.config, {name: held.num_tokens for name, held in sources.items()})
    lengths = {name: held.lengths_D for name, held in sources.items()}
    draws = draw_documents(phases, lengths, request.seed)
    asked = {name: sum(phase[name] for phase in phases) for name in sources}
    with store.draft(ArtifactKind.PACKED_ROWS) as draft:
        counts = write_rows(
            draft,
            sources,
            draws,
            row_length=request.config.row_length,
            layout=layout,
        )
        if not counts.num_rows:
            raise ConfigError(
                f"total_tokens = {request.config.total_tokens} is less than half of the first "
                "document of every source, so that no row was filled; raise it"
            )
        if any(held.num_tokens for held in heldout.values()):
            write_rows(
                draft,
                heldout,
                all_documents({name: len(held.lengths_D) for name, held in heldout.items()}),
                row_length=request.config.row_length,
                layout=layout,
                part=RowPart.HELDOUT,
            )
        rows = draft.commit(
            parents=tuple(request.inputs().values()),
            licences=tuple(name for held in sources.values() for name in held.licence_names),
            facts={
                "asked": asked,
                "asked_by_licence": _asked_by_licence(asked, sources),
                "drawn": {name: counts.tokens[name] for name in sources},
                "drawn_by_licence": dict(counts.licences),
                "drawn_by_modality": dict(counts.modalities),
                "left_out": {name: list(s.left_out[:_NAMED]) for name, s in sources.items()},
                "layout": layout.to_dict(),
                "phases": [dict(phase) for phase in phases],
                "row_length": request.config.row_length,
                "seed": request.seed,
                "vocabulary": layout.digest,
            },
        )
    shutil.rmtree(work.folder / "spool")
    return MixResult(rows=rows, metrics=_metrics(asked, sources, counts))


def _layout(request: MixRequest, store: ArtifactStore) -> "VocabularyLayout":
    """The joint id space; refuses codes of another tokenizer, or rows of another layout."""
    from dataclasses import replace

    from interloom.text.bpe import load_text_tokenizer
    from interloom.vocabulary.layout import VocabularyLayout

    facts = store.manifest(request.tokens).facts
    if facts["tokenizer"] != request.tokenizer.id:
        raise DataError(
            f"{request.tokens} was made with speech tokenizer {facts['tokenizer'][:12]}, the "
            f"mixture is for {request.tokenizer.id[:12]}; tokenize the speech again"
        )
    layout = VocabularyLayout(
        text_vocab_size=load_text_tokenizer(store, request.text_tokenizer).vocab_size,
        codebook_size=facts["codebook_size"],
        text_tokenizer=request.text_tokenizer.id,
        tokenizer=request.tokenizer.id,
    )
    if request.interleaved is not None:
        held = store.manifest(request.interleaved).facts["vocabulary"]
        layout.require(held, holder=str(request.interleaved))
    return replace(layout, units=_units(request, store))


def _spool(
    split: "Split",
    request: MixRequest,
    store: ArtifactStore,
    layout: "VocabularyLayout",
    aligner: "Aligner | None",
    work: Workspace,
) -> "dict[str, SpooledSource]":
    """A split of every source on disk, in the mixture's order; of what is held out, the first."""
    from interloom.mixture.spooling import CutRule, first_examples, spool

    rule = CutRule(
        row_length=request.config.row_length,
        layout=layout,
        refuses_unfit=request.config.unfit == "refuse",
        units=request.config.units,
    )
    names = tuple(request.config.sources())
    folder = work.folder / "spool" / split
    folder.mkdir(parents=True)
    sources = {}
    for done, name in enumerate(names):
        work.progress.update(done, len(names), f"encoding {split} {name}")
        own = rule.whole() if name in {"transcribe", "speak"} else rule
        examples = _examples(name, split, request, store, layout, aligner)
        if split == "heldout":
            examples = first_examples(examples, request.config.heldout_tokens)
        sources[name] = spool(name, examples, own, folder)
    return sources


def _examples(
    name: str,
    split: "Split",
    request: MixRequest,
    store: ArtifactStore,
    layout: "VocabularyLayout",
    aligner: "Aligner | None",
) -> "Iterator[Example]":
    """The examples of one source."""
    from interloom.mixture import sources
    from interloom.text.bpe import load_text_tokenizer

    text_tokenizer = load_text_tokenizer(store, request.text_tokenizer)
    rows_of = partial(_rows, store, split)
    times = ("text", "words") if aligner else ()
    match name:
        case "text" | "filler":
            rows = rows_of(request.text, "documents", "text", "facts")
            if request.config.filler is not None:
                rows = (row for row in rows if (not row["facts"]) == (name == "filler"))
            return sources.text_examples(rows, layout, text_tokenizer)
        case "speech":
            rows = rows_of(request.tokens, "tokens", "codes", *times)
            return sources.speech_examples(rows, layout, aligner)
        case "transcribe" | "speak":
            rows = rows_of(request.tokens, "tokens", "text", "codes", *times[1:])
            make = sources.transcribe_examples if name == "transcribe" else sources.speak_examples
            return make((row for row in rows if row["text"]), layout, text_tokenizer, aligner)
        case _:
            if request.interleaved is None:
                raise ConfigError(
                    "the mixture names interleaved rows, but the request has none; run the "
                    "interleave stage, or take 'interleaved' out of the mixture"
                )
            spoken = ("spans", "text") if aligner else ()
            rows = rows_of(request.interleaved, "interleaved", "ids", *spoken)
            return sources.interleaved_examples(rows, layout, aligner)


def _aligner(request: MixRequest, store: ArtifactStore) -> "Aligner | None":
    """What says where patches may begin, if the mixture asks for it: the CTC aligner.

    Words without known times, or the BPE tokens of all words; none that cannot be there.
    """
    if request.config.alignment == "off":
        return None
    from interloom.mixture.alignment import PieceAligner, WordAligner
    from interloom.speech_tokenizer.runtime import load_speech_tokenizer

    load = cache(lambda: load_speech_tokenizer(store, request.tokenizer))

    def pieces(codes: "Ids", words: "Sequence[str]") -> "list[list[Word]]":
        tokenizer = load()
        try:
            found = tokenizer.align(codes, words)
        except DataError:  # more words than codes
            return [[] for _ in words]
        parts = [() if one.refusal else one.parts for one in found]
        spans = [[tokenizer.clock.span(part.start, part.stop) for part in one] for one in parts]
        return [[{"start": at.start, "stop": at.stop} for at in one] for one in spans]

    def whole(codes: "Ids", words: "Sequence[str]") -> "list[Word]":
        found = [one for one in pieces(codes, words) if one]
        return [{"start": one[0]["start"], "stop": one[-1]["stop"]} for one in found]

    return WordAligner(whole) if request.config.alignment == "words" else PieceAligner(pieces)


def _units(request: MixRequest, store: ArtifactStore) -> "SpeechUnits | None":
    """What stands for several codes, learnt from the speech for training, if it is asked for."""
    if request.config.speech_units is None:
        return None
    import numpy as np

    from interloom.vocabulary.units import SpeechUnits

    rows = _rows(store, "train", request.tokens, "tokens", "codes")
    return SpeechUnits.train(
        (np.asarray(row["codes"], np.int32) for row in islice(rows, _BPE_UTTERANCES)),
        codebook_size=store.manifest(request.tokens).facts["codebook_size"],
        num_units=request.config.speech_units,
    )


def _rows(
    store: ArtifactStore, split: "Split", ref: ArtifactRef, table: str, *columns: str
) -> Iterator[dict[str, Any]]:
    """A split of a table with the columns that examples need."""
    from interloom.corpora.tables import read_table

    return read_table(store, ref, table, split=split, columns=("id", *columns, "licence"))


def _asked_by_licence(
    asked: Mapping[str, int], sources: "Mapping[str, SpooledSource]"
) -> dict[str, int]:
    """Tokens by licence, if each source gave its licences in equal parts."""
    sums: dict[str, float] = {}
    for name, held in sources.items():
        for licence, tokens in held.licence_tokens().items():
            part = asked[name] * tokens / held.num_tokens
            sums[licence] = sums.get(licence, 0.0) + part
    return {licence: round(tokens) for licence, tokens in sums.items()}


def _metrics(
    asked: Mapping[str, int], sources: "Mapping[str, SpooledSource]", counts: "RowCounts"
) -> tuple[Metric, ...]:
    """Asked against drawn, by source and modality."""
    points: dict[str, float] = {}
    for name, held in sources.items():
        points[f"asked/{name}"] = asked[name]
        points[f"drawn/{name}"] = counts.tokens[name]
        points[f"targets/{name}"] = counts.targets[name]
        points[f"size/{name}"] = held.num_tokens
        points[f"epochs/{name}"] = counts.tokens[name] / max(1, held.num_tokens)
        points[f"left_out/{name}"] = len(held.left_out)
    points |= {f"drawn/modality/{name}": n for name, n in sorted(counts.modalities.items())}
    for licence, tokens in sorted(_asked_by_licence(asked, sources).items()):
        points[f"asked/licence/{licence}"] = tokens
        points[f"drawn/licence/{licence}"] = counts.licences[licence]
    points |= {f"utterances/{name}": n for name, n in sorted(counts.utterances.items())}
    points["rows"] = counts.num_rows
    points["fill"] = counts.fill
    return tuple(Metric(f"mix/{name}", float(value)) for name, value in points.items())
