"""Taking data down: all that it touched is found, and later runs leave it out."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interloom.config.corpora import CatalogCorpora, IngestConfig, StarterWorld, TakeIn
from interloom.config.recipe import recipe_of
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.core.ids import new_run_id
from interloom.corpora.ingest_text import ingest_text
from interloom.corpora.permission import BlockList, require_licences
from interloom.corpora.tables import UTTERANCES, read_table, write_table
from interloom.ports.catalog import Block, BlockKind, RunStart
from interloom.ports.progress import NoProgress
from interloom.ports.workspace import Workspace
from interloom.stages.contract import StageCall, StageContract, StageOutcome, execute_stage
from interloom.stages.ingest import IngestRequest, ingest
from interloom.testing import catalog as catalogs
from interloom.testing.launcher import InlineLauncher
from interloom.testing.store import MemoryStore
from interloom_flows.planning import blocked_entries, named_corpora
from interloom_flows.takedown import find_touched, parse_selector, take_down

OWN = IngestConfig(source=CatalogCorpora(speech="voices", text="texts"), heldout_share=0.2)
BOB = Block(BlockKind.SPEAKER, "bob", "2026-01-01", "legal", "asked us to")


@pytest.fixture
def contract(tmp_path: Path) -> Iterator[StageContract]:
    store = MemoryStore()
    with catalogs.temporary() as catalog:
        yield StageContract(
            store=store, catalog=catalog, launcher=InlineLauncher(store), work_folder=tmp_path
        )


def spoken(store: MemoryStore, *consents: str) -> ArtifactRef:
    rows: Iterator[Mapping[str, Any]] = (
        {
            "id": f"u{index}",
            "split": "train",
            "speaker": "bob" if index % 10 == 0 else "ann",
            "text": f"this is {index}",
            "audio": b"",
            "num_samples": 1600,
            "words": [],
            "source": "voices",
            "licence": "CC0-1.0",
            "facts": [],
        }
        for index in range(60)
    )
    with store.draft(ArtifactKind.SPEECH_CORPUS) as draft:
        write_table(draft, "utterances", UTTERANCES, rows)
        return draft.commit(licences=("CC0-1.0",), consents=consents)


def written(store: MemoryStore, folder: Path, blocked: tuple[str, ...] = ()) -> Any:
    path = folder / "texts.jsonl"
    lines = [
        {
            "text": f"here is {index}. it goes on. and so it ends.",
            "licence": "CC-BY-NC-4.0" if index % 6 == 0 else "MIT",
        }
        for index in range(60)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = TakeIn(name="texts", blocked=blocked)
    return ingest_text(path, options, store=store, progress=NoProgress())


def taken_in(contract: StageContract, folder: Path, *consents: str) -> IngestRequest:
    """Corpora of one's own in the catalog, and the request that reads them."""
    store = contract.store
    assert isinstance(store, MemoryStore)
    folder.mkdir(exist_ok=True)
    refs = {"voices": spoken(store, *consents), "texts": written(store, folder).corpus}
    for name, ref in refs.items():
        run_id = new_run_id()
        contract.catalog.start_run(RunStart(run_id, "ingest", name))
        contract.catalog.publish_dataset(name, store.manifest(ref), run_id)
    return IngestRequest(config=OWN, speech=refs["voices"], text=refs["texts"])


def run(contract: StageContract, request: IngestRequest) -> StageOutcome:
    blocked = blocked_entries(contract.catalog)
    call = StageCall(
        stage="ingest", request=request.model_copy(update={"blocked": blocked}), recipe="r"
    )
    return execute_stage(contract, call)


def speakers(contract: StageContract, outcome: StageOutcome) -> set[str]:
    rows = read_table(contract.store, outcome.result.outputs()["speech"], "utterances")
    return {row["speaker"] for row in rows}


def test_all_that_a_speaker_touched_is_found_and_nothing_else(
    contract: StageContract, tmp_path: Path
) -> None:
    request = taken_in(contract, tmp_path / "own")
    made = run(contract, request).result.outputs()

    touched = find_touched(contract.catalog, contract.store, "speaker:bob")

    assert sum(shard.num_rows for shard in touched.shards) == 12  # in the corpus and in its split
    assert {shard.artifact for shard in touched.shards} == {request.speech, made["speech"]}
    assert set(touched.artifacts) == {request.speech, made["speech"], made["text_tokenizer"]}
    assert touched.names == ("r/ingest.speech@1", "r/ingest.text_tokenizer@1", "voices@1")
    assert len(touched.run_ids) == 1
    assert find_touched(contract.catalog, contract.store, "speaker:eva").artifacts == ()


def test_models_that_heard_a_speaker_are_found_through_any_number_of_stages(
    contract: StageContract, tmp_path: Path
) -> None:
    made = run(contract, taken_in(contract, tmp_path / "own")).result.outputs()
    chain, catalog = made["speech"], contract.catalog
    for kind in (ArtifactKind.TOKENIZER_MODEL, ArtifactKind.PACKED_ROWS, ArtifactKind.CHAT_MODEL):
        with contract.store.draft(kind) as draft:
            with draft.shard("file") as shard:
                shard.path.write_text(kind)
            chain = draft.commit(parents=(chain,))
        run_id = new_run_id()
        catalog.start_run(RunStart(run_id, "train", "r"))
        catalog.publish_dataset(f"r/{kind}", contract.store.manifest(chain), run_id)

    touched = find_touched(catalog, contract.store, "speaker:bob")

    assert [model.kind for model in sorted(touched.models)] == [
        ArtifactKind.CHAT_MODEL,
        ArtifactKind.TOKENIZER_MODEL,
    ]


def test_later_runs_leave_out_what_was_taken_down_and_say_how_much(
    contract: StageContract, tmp_path: Path
) -> None:
    request = taken_in(contract, tmp_path / "own")
    before = run(contract, request)
    touched = find_touched(contract.catalog, contract.store, "speaker:bob")
    take_down(contract.catalog, touched, BOB)

    after = run(contract, request)

    assert (before.is_hit, after.is_hit) == (False, False)
    assert (speakers(contract, before), speakers(contract, after)) == ({"ann", "bob"}, {"ann"})
    assert after.result.metric("ingest/blocked/speaker:bob") == 6
    assert before.result.outputs()["text"] == after.result.outputs()["text"]  # an early cut-off
    again = find_touched(contract.catalog, contract.store, "speaker:bob")
    assert after.result.outputs()["speech"] not in again.artifacts
    entry = contract.catalog.audit(subject="speaker:bob")[0]
    assert (entry.who, entry.detail["rows"], entry.detail["reason"]) == ("legal", 12, "asked us to")


def test_a_licence_that_is_taken_down_leaves_the_licence_tags(
    contract: StageContract, tmp_path: Path
) -> None:
    request = taken_in(contract, tmp_path / "own")
    block = replace(BOB, kind=BlockKind.LICENCE, value="CC-BY-NC-4.0")
    touched = find_touched(contract.catalog, contract.store, "licence:CC-BY-NC-4.0")
    take_down(contract.catalog, touched, block)

    after = run(contract, request).result.outputs()

    assert contract.store.manifest(after["text"]).licences == ("MIT",)
    rows = read_table(contract.store, after["text"], "documents")
    assert {row["licence"] for row in rows} == {"MIT"}


def test_corpora_that_are_taken_in_refuse_blocked_rows(tmp_path: Path) -> None:
    outcome = written(MemoryStore(), tmp_path, blocked=("licence:CC-BY-NC-4.0",))

    assert (outcome.accepted, outcome.refused) == (50, 10)
    assert "licence:CC-BY-NC-4.0 was taken down" in outcome.refusals[0].reason


def test_a_corpus_whose_bytes_are_gone_counts_as_touched(
    contract: StageContract, tmp_path: Path
) -> None:
    request = taken_in(contract, tmp_path / "own")
    empty = MemoryStore()

    touched = find_touched(contract.catalog, empty, "speaker:eva")

    assert set(touched.unread) == {request.speech, request.text}


def test_a_recipe_that_allows_other_licences_only_is_refused(
    contract: StageContract, tmp_path: Path
) -> None:
    request = taken_in(contract, tmp_path / "own")
    config = OWN.model_copy(update={"only_licences": ("CC0-1.0", "MIT")})
    wanted = recipe_of(
        {
            "name": "r",
            "ingest": {"source": {"kind": "catalog", "speech": "voices", "text": "texts"}},
        },
        ['ingest.only_licences=["CC0-1.0", "MIT"]'],
    )

    with pytest.raises(DataError, match=r"allows only CC0-1\.0, MIT, but .* holds CC-BY-NC-4\.0"):
        run(contract, request.model_copy(update={"config": config}))
    with pytest.raises(DataError, match=r"texts holds CC-BY-NC-4\.0"):
        named_corpora(contract.catalog, wanted)

    contract.catalog.block([replace(BOB, kind=BlockKind.LICENCE, value="CC-BY-NC-4.0")], {})
    assert named_corpora(contract.catalog, wanted)
    made = run(contract, request.model_copy(update={"config": config})).result.outputs()
    assert contract.store.manifest(made["text"]).licences == ("MIT",)


def test_a_recipe_that_asks_for_another_consent_is_refused(
    contract: StageContract, tmp_path: Path
) -> None:
    asked = ("research",)
    own = IngestConfig(source=OWN.source, heldout_share=0.2, only_consents=asked)
    wanted = recipe_of({"name": "r", "ingest": own.model_dump()})
    told = r"only the consent research, but .*%s; add it to ingest\.only_consents"

    held: dict[str, tuple[str, ...]] = {"unrecorded": (), "no-synthesis": (*asked, "no-synthesis")}
    for found, consents in held.items():
        request = taken_in(contract, tmp_path / "own", *consents)
        with pytest.raises(DataError, match=told % f"voices holds {found}"):
            named_corpora(contract.catalog, wanted)
        with pytest.raises(DataError, match=told % rf"\S+ holds {found}"):
            run(contract, request.model_copy(update={"config": own}))

    request = taken_in(contract, tmp_path / "own", "research")
    assert named_corpora(contract.catalog, wanted)["speech"] == request.speech
    made = run(contract, request.model_copy(update={"config": own})).result.outputs()
    carried = {name: contract.store.manifest(ref).consents for name, ref in made.items()}
    assert (carried["speech"], carried["text"]) == (asked, ())
    assert carried["text_tokenizer"] == asked  # it has read the transcripts


def test_a_recipe_does_not_start_from_weights_that_it_does_not_allow(
    contract: StageContract,
) -> None:
    store, catalog = contract.store, contract.catalog
    with store.draft(ArtifactKind.TOKENIZER_MODEL) as draft:
        with draft.shard("weights") as shard:
            shard.path.write_text("weights")
        ref = draft.commit(licences=("CC-BY-NC-4.0",))
    run_id = new_run_id()
    catalog.start_run(RunStart(run_id, "ingest_tokenizer", "whisper"))
    catalog.publish_dataset("whisper", store.manifest(ref), run_id)
    start = [f'tokenizer.start_from="{ref.kind}:{ref.id}"']
    wanted = recipe_of({"name": "r"}, [*start, 'ingest.only_licences=["CC0-1.0"]'])

    assert named_corpora(catalog, recipe_of({"name": "r"}, start)) == {}
    with pytest.raises(DataError, match=r"only CC0-1\.0, but tokenizer_model:\w+ holds CC-BY-NC"):
        named_corpora(catalog, wanted)


def test_the_starter_world_holds_to_the_licences_and_the_block_list(tmp_path: Path) -> None:
    world = StarterWorld(
        speech_seconds=10,
        num_stories=20,
        num_written_documents=20,
        num_woven_documents=20,
        num_dialogues=10,
        num_story_cloze=4,
    )
    refused = IngestRequest(config=IngestConfig(source=world, only_licences=("MIT",)))
    store = MemoryStore()

    with pytest.raises(DataError, match=r"allows only MIT, but the starter world holds CC0-1\.0"):
        ingest(refused, store=store, work=Workspace(tmp_path))
    whole = ingest(
        IngestRequest(config=IngestConfig(source=world)), store=store, work=Workspace(tmp_path)
    )
    first = next(iter(read_table(store, whole.speech, "utterances")))["speaker"]
    request = IngestRequest(config=IngestConfig(source=world), blocked=(f"speaker:{first}",))
    without = ingest(request, store=store, work=Workspace(tmp_path))

    heard = {row["speaker"] for row in read_table(store, without.speech, "utterances")}
    assert first not in heard
    assert without.metric(f"ingest/blocked/speaker:{first}") > 0
    assert without.text == whole.text


def test_a_block_list_without_entries_keeps_every_row() -> None:
    rows: list[Mapping[str, Any]] = [{"id": "a", "speaker": None}, {"id": "b", "speaker": "x"}]

    assert list(BlockList.of(()).keep(rows)) == rows
    assert list(BlockList.of(("speaker:x",)).keep(rows)) == rows[:1]
    require_licences((), {"corpus": ("anything",)})


@pytest.mark.parametrize("text", ["speaker", "speaker:", "person:bob", ":bob", ""])
def test_a_selector_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="source:ID, speaker:ID, licence:ID"):
        parse_selector(text)
