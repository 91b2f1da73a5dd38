"""The mix stage over small sources."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from interloom.adapters.folder_store import FolderStore
from interloom.config.mixture import MixtureConfig
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError, DataError
from interloom.corpora.tables import DOCUMENTS, SPEECH_TOKENS, write_table
from interloom.mixture.order import RowOrder
from interloom.mixture.rows import INDEX, load_heldout_rows, load_rows
from interloom.mixture.sources import interleaved_examples, speech_examples
from interloom.ports.workspace import Workspace
from interloom.stages.mix import MixRequest, MixResult, mix
from interloom.testing.store import MemoryStore, stand_in
from interloom.text.bpe import TextTokenizer, load_text_tokenizer
from interloom.vocabulary.layout import Marker, VocabularyLayout
from interloom_flows.recipes import load_recipe
from interloom_flows.sweeps import load_sweep

TOKENIZER = stand_in(MemoryStore(), ArtifactKind.TOKENIZER_MODEL)
INTERLEAVED = pa.schema(
    [
        ("id", pa.string()),
        ("split", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("source", pa.string()),
        ("licence", pa.string()),
    ]
)


@dataclass(frozen=True)
class _World:
    store: MemoryStore
    request: MixRequest
    layout: VocabularyLayout


def _table(
    store: MemoryStore,
    kind: ArtifactKind,
    name: str,
    schema: pa.Schema,
    rows: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> ArtifactRef:
    with store.draft(kind) as draft:
        write_table(draft, name, schema, rows)
        return draft.commit(facts=facts)


def _text_tokenizer(store: MemoryStore) -> ArtifactRef:
    stand_in(store, ArtifactKind.TOKENIZER_MODEL)
    with store.draft(ArtifactKind.TEXT_TOKENIZER) as draft:
        with draft.shard("tokenizer.json") as shard:
            TextTokenizer.train(["the fox sees the owl"] * 4, vocab_size=270).save(shard.path)
        return draft.commit()


def _documents(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"d{i}",
            "split": "heldout" if i % 10 == 9 else "train",
            "text": "the fox sees the owl. " * (1 + i % 4),
            "source": "world",
            "licence": "CC0-1.0",
            "may_interleave": True,
            "facts": ["fox-home"] if i % 3 == 0 else [],
        }
        for i in range(count)
    ]


def _utterances(count: int, num_codes: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "id": f"u{i}",
            "split": "train",
            "speaker": "s",
            "text": "the owl",
            "codes": [(i * 7 + j) % 32 for j in range(num_codes)],
            "num_samples": 1280 * num_codes,
            "words": [],
            "source": "world",
            "licence": "CC-BY-4.0",
            "facts": [],
        }
        for i in range(count)
    ]


def _world(*, num_utterances: int = 20, num_codes: int = 12, **config: object) -> _World:
    store = MemoryStore()
    text_tokenizer = _text_tokenizer(store)
    bpe = load_text_tokenizer(store, text_tokenizer)
    layout = VocabularyLayout(bpe.vocab_size, 32, text_tokenizer.id, TOKENIZER.id)
    codes = np.arange(8)
    woven = np.concatenate([bpe.encode("the fox "), layout.wrap_audio(codes), bpe.encode("owl")])
    interleaved = [
        {"id": f"i{i}", "split": "train", "ids": woven, "source": "world", "licence": "CC0-1.0"}
        for i in range(60)
    ]
    settings = {"row_length": 64, "total_tokens": 4000} | config
    return _World(
        store,
        MixRequest(
            text=_table(
                store, ArtifactKind.TEXT_CORPUS, "documents", DOCUMENTS, _documents(60), {}
            ),
            tokens=_table(
                store,
                ArtifactKind.SPEECH_TOKENS,
                "tokens",
                SPEECH_TOKENS,
                _utterances(num_utterances, num_codes),
                {"tokenizer": TOKENIZER.id, "codebook_size": 32},
            ),
            interleaved=_table(
                store,
                ArtifactKind.INTERLEAVED,
                "interleaved",
                INTERLEAVED,
                interleaved,
                {"vocabulary": layout.digest},
            ),
            tokenizer=TOKENIZER,
            text_tokenizer=text_tokenizer,
            config=MixtureConfig.model_validate(settings),
            seed=3,
        ),
        layout,
    )


def _mix(world: _World, folder: Path) -> MixResult:
    return mix(world.request, store=world.store, work=Workspace(folder))


def test_drawn_tokens_are_those_asked_to_within_a_document(tmp_path: Path) -> None:
    result = _mix(_world(), tmp_path)

    for name in ("text", "speech", "transcribe", "speak", "interleaved"):
        asked, drawn = result.metric(f"mix/asked/{name}"), result.metric(f"mix/drawn/{name}")
        assert drawn == pytest.approx(asked, abs=40)
    assert result.metric("mix/asked/text") == 1200
    assert result.metric("mix/epochs/speech") == 1
    assert result.metric("mix/drawn/speech") == 20 * 14
    assert result.metric("mix/fill") > 0.95


def test_the_loss_of_pairs_is_on_what_is_asked_for(tmp_path: Path) -> None:
    world = _world()

    rows = load_rows(world.store, _mix(world, tmp_path).rows)
    batch = rows.batch(range(rows.num_rows))

    seen = set()
    for row in range(rows.num_rows):
        for segment in range(batch.segments_BL[row].max() + 1):
            own = batch.segments_BL[row] == segment
            ids, is_target = batch.tokens_BL[row][own], batch.is_target_BL[row][own]
            first = (
                Marker(list(Marker)[ids[0] - world.layout.text_vocab_size])
                if (0 <= ids[0] - world.layout.text_vocab_size < len(Marker))
                else None
            )
            seen.add(first)
            targets = ids[is_target]
            if first is Marker.ASR:
                assert world.layout.is_text(targets[:-1]).all()
                assert targets[-1] == world.layout.marker(Marker.DOCUMENT_END)
            elif first is Marker.TTS:
                assert world.layout.is_speech(targets[1:-1]).all()
                assert targets[0] == world.layout.marker(Marker.AUDIO_BEGIN)
            elif first is Marker.PAD:
                assert not is_target.any()
            else:
                assert is_target.tolist() == [False] + [True] * (len(ids) - 1)
    assert {None, Marker.ASR, Marker.TTS, Marker.AUDIO_BEGIN} <= seen


def test_every_drawn_document_stands_whole_in_the_rows(tmp_path: Path) -> None:
    world = _world()

    result = _mix(world, tmp_path)
    rows = load_rows(world.store, result.rows)
    batch = rows.batch(range(rows.num_rows))

    begins = (batch.tokens_BL == world.layout.marker(Marker.AUDIO_BEGIN)).sum(axis=1)
    ends = (batch.tokens_BL == world.layout.marker(Marker.AUDIO_END)).sum(axis=1)
    assert begins.tolist() == ends.tolist()
    pad = world.layout.marker(Marker.PAD)
    drawn = sum(m.value for m in result.metrics if m.name.startswith("mix/drawn/modality/"))
    assert (batch.tokens_BL != pad).sum() == drawn
    assert rows.num_targets(range(rows.num_rows)) == batch.is_target_BL.sum()
    counted = sum(m.value for m in result.metrics if m.name.startswith("mix/targets/"))
    assert counted == batch.is_target_BL.sum()


def test_held_out_documents_are_packed_apart(tmp_path: Path) -> None:
    world = _world(heldout_tokens=30)

    ref = _mix(world, tmp_path).rows
    heldout = load_heldout_rows(world.store, ref)

    assert heldout is not None
    batch = heldout.batch(range(heldout.num_rows))
    bpe = load_text_tokenizer(world.store, world.request.text_tokenizer)
    ids = batch.tokens_BL[world.layout.is_text(batch.tokens_BL)]
    documents = [row["text"] for row in _documents(60) if row["split"] == "heldout"]
    lengths = [len(bpe.encode(text)) + 1 for text in documents]
    taken = next(n for n in range(7) if sum(lengths[:n]) >= 30)
    assert bpe.decode(ids) == "".join(documents[:taken])
    assert world.store.manifest(ref).count("heldout_rows") == heldout.num_rows


def test_a_total_that_no_document_fits_is_refused(tmp_path: Path) -> None:
    config: dict[str, Any] = {"total_tokens": 1, "text": {"budget": {"kind": "rest"}}}
    config |= dict.fromkeys(("speech", "transcribe", "speak", "interleaved"))
    world = _world(**config)

    with pytest.raises(ConfigError, match="total_tokens = 1 is less than half of the first"):
        _mix(world, tmp_path)


def test_a_mixture_may_hold_nothing_out(tmp_path: Path) -> None:
    world = _world(heldout_tokens=0)

    assert load_heldout_rows(world.store, _mix(world, tmp_path).rows) is None


def test_the_same_request_gives_the_same_rows(tmp_path: Path) -> None:
    first, second = _world(), _world()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    assert _mix(first, tmp_path / "a") == _mix(second, tmp_path / "b")


def test_what_is_drawn_is_counted_by_licence_beside_what_is_asked(tmp_path: Path) -> None:
    world = _world()

    result = _mix(world, tmp_path)

    facts = world.store.manifest(result.rows).facts
    speech = sum(result.metric(f"mix/drawn/{name}") for name in ("speech", "transcribe", "speak"))
    assert result.metric("mix/drawn/licence/CC-BY-4.0") == speech
    assert facts["drawn_by_licence"]["CC-BY-4.0"] == speech
    assert sum(facts["drawn_by_licence"].values()) == sum(facts["drawn"].values())
    assert sum(facts["asked_by_licence"].values()) == pytest.approx(4000, abs=1)
    assert facts["drawn_by_modality"]["speech"] == result.metric("mix/drawn/modality/speech")


def test_a_row_knows_the_documents_it_is_made_of(tmp_path: Path) -> None:
    world = _world()

    rows = load_rows(world.store, _mix(world, tmp_path).rows)

    bpe = load_text_tokenizer(world.store, world.request.text_tokenizer)
    texts = {row["id"]: row["text"] for row in _documents(60)}
    seen = 0
    for row in range(rows.num_rows):
        start = 0
        for origin in rows.origins(row):
            ids = rows.tokens(row)[start : start + origin.num_tokens]
            start += origin.num_tokens
            if origin.source == "text" and origin.num_tokens > 1:
                whole = bpe.encode(texts[origin.document_id])
                stop = origin.start + origin.num_tokens
                assert ids.tolist()[:-1] == whole[origin.start : stop - 1]
                assert origin.licence == "CC0-1.0"
                seen += 1
        assert start == len(rows.tokens(row))
    assert seen > 20


def test_phases_follow_each_other_in_the_rows(tmp_path: Path) -> None:
    nothing = {"kind": "share", "share": 0}
    early = {"share": 0.5, "interleaved": nothing, "text": {"kind": "rest"}}
    world = _world(phases=[early, {"share": 0.5}])

    rows = load_rows(world.store, _mix(world, tmp_path).rows)
    order = RowOrder(rows.num_rows, 4, rows.phase_rows)

    first, second = rows.phase_rows
    woven = rows.source_names.index("interleaved")
    held = rows.batch(order.rows(0, rows.num_rows)).sources_BL == woven
    assert not held[:first].any()
    assert held[first:].any()
    assert sorted(order.rows(0, first)) == list(range(first))
    assert sorted(order.rows(first, first + second)) == list(range(first, first + second))
    assert order.rows(rows.num_rows + 1, rows.num_rows + 2)[0] < first


def test_the_manifest_carries_vocabulary_licences_and_counts(tmp_path: Path) -> None:
    world = _world()

    manifest = world.store.manifest(_mix(world, tmp_path).rows)

    assert manifest.facts["vocabulary"] == world.layout.digest
    assert manifest.licences == ("CC-BY-4.0", "CC0-1.0")
    assert manifest.count("tokens") == sum(manifest.facts["drawn"].values())
    assert (
        manifest.count("rows")
        == json.loads(world.store.local_path(manifest.shard(INDEX)).read_text())["shard_rows"][0]
    )


def test_examples_longer_than_a_row_are_left_out_and_counted(tmp_path: Path) -> None:
    small = {"text": {"budget": {"kind": "share", "share": 0.5}, "max_epochs": 20}}
    world = _world(num_utterances=3, num_codes=80, speech=None, transcribe=None, **small)

    result = _mix(world, tmp_path)

    assert result.metric("mix/left_out/speak") == 3
    assert result.metric("mix/drawn/speak") == 0
    assert world.store.manifest(result.rows).facts["left_out"]["speak"] == ["u0", "u1", "u2"]


def test_examples_longer_than_a_row_may_stop_the_stage(tmp_path: Path) -> None:
    world = _world(num_codes=80, unfit="refuse")

    with pytest.raises(DataError, match=r"'u0' has 82 tokens, a row holds 64"):
        _mix(world, tmp_path)


def test_codes_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    world = _world()
    other = ArtifactRef(ArtifactKind.TOKENIZER_MODEL, "8" * 64)

    with pytest.raises(DataError, match=r"made with speech tokenizer .* is for 888"):
        mix(
            world.request.model_copy(update={"tokenizer": other}),
            store=world.store,
            work=Workspace(tmp_path),
        )


def test_rows_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    world = _world()
    other = _table(
        world.store,
        ArtifactKind.INTERLEAVED,
        "interleaved",
        INTERLEAVED,
        [{"id": "i", "split": "train", "ids": [1], "source": "w", "licence": "CC0-1.0"}],
        {"vocabulary": "5" * 64},
    )

    with pytest.raises(DataError, match=r"made with vocabulary 5555"):
        mix(
            world.request.model_copy(update={"interleaved": other}),
            store=world.store,
            work=Workspace(tmp_path),
        )


def test_a_mixture_with_interleaved_rows_needs_them(tmp_path: Path) -> None:
    world = _world()

    with pytest.raises(ConfigError, match="the request has none"):
        mix(
            world.request.model_copy(update={"interleaved": None}),
            store=world.store,
            work=Workspace(tmp_path),
        )


def _damaged(
    world: _World, ref: ArtifactRef, name: str, change: Callable[[bytes], bytes]
) -> ArtifactRef:
    """The same artifact, with one file changed before it was hashed."""
    manifest = world.store.manifest(ref)
    with world.store.draft(ArtifactKind.PACKED_ROWS) as draft:
        for held in manifest.shards:
            data = world.store.local_path(held).read_bytes()
            with draft.shard(held.path) as shard:
                shard.path.write_bytes(change(data) if held.path.endswith(name) else data)
        return draft.commit(facts=manifest.facts)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tokens.bin", lambda data: data[:-4], "bytes, its index ends at .*cut short"),
        ("tokens.idx", lambda data: data[:-8], "documents need .*cut short or damaged"),
        ("tokens.idx", lambda data: b"x" + data[1:], "does not begin with MMIDIDX"),
        ("tokens.idx", lambda data: data[:9] + b"\2" + data[10:], "version 2 and token type 4"),
        ("targets.bin", lambda data: data[:-1], "packed rows do not fit their index"),
        ("counts.bin", lambda data: data[:-1], "no multiple of 4: it was cut short"),
        ("index.json", lambda data: data[:-1], "index of packed rows cannot be read"),
        (
            "index.json",
            lambda data: data.replace(b'"vocabulary": "', b'"vocabulary": "0'),
            "its manifest says",
        ),
    ],
)
def test_damaged_rows_are_refused(
    name: str, change: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    world = _world(heldout_tokens=0)
    ref = _mix(world, tmp_path).rows

    with pytest.raises(DataError, match=message):
        load_rows(world.store, _damaged(world, ref, name, change))


def test_a_flipped_bit_in_the_rows_is_refused(tmp_path: Path) -> None:
    world = _world(heldout_tokens=0)
    store = FolderStore(tmp_path / "store")
    manifest = world.store.manifest(_mix(world, tmp_path).rows)
    with store.draft(ArtifactKind.PACKED_ROWS) as draft:
        for held in manifest.shards:
            with draft.shard(held.path) as shard:
                shard.path.write_bytes(world.store.local_path(held).read_bytes())
        ref = draft.commit(facts=manifest.facts)
    path = store.object_path(store.manifest(ref).shard("rows-00000/tokens.bin").md5)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)

    with pytest.raises(DataError, match=r"shard 'rows-00000/tokens\.bin' is corrupt"):
        load_rows(FolderStore(store.root), ref)


def test_a_row_that_is_not_there_is_refused(tmp_path: Path) -> None:
    world = _world()
    rows = load_rows(world.store, _mix(world, tmp_path).rows)

    with pytest.raises(ConfigError, match=r"no row 999; the artifact has \d+, from 0"):
        rows.tokens(999)


def test_interleaved_ids_outside_the_layout_are_refused() -> None:
    layout = VocabularyLayout(20, 16, "1" * 64, "2" * 64)
    rows = [{"id": "i", "ids": [3, layout.size], "licence": "CC0-1.0"}]

    with pytest.raises(
        DataError, match=r"row 'i' has ids in \[3, 47\], the layout holds \[0, 47\)"
    ):
        list(interleaved_examples(rows, layout))


def test_codes_outside_the_codebook_name_their_utterance() -> None:
    layout = VocabularyLayout(20, 16, "1" * 64, "2" * 64)

    with pytest.raises(DataError, match=r"utterance 'u': speech codes must lie in \[0, 16\)"):
        list(speech_examples([{"id": "u", "codes": [16], "licence": "CC0-1.0"}], layout))


def test_filler_holds_the_documents_without_facts_and_text_the_others(tmp_path: Path) -> None:
    share, rest = {"kind": "share", "share": 0.4}, {"kind": "rest"}
    world = _world(
        total_tokens=2000,
        text={"budget": share, "max_epochs": 64},
        filler={"budget": rest, "max_epochs": 64},
        speech=None,
        transcribe=None,
        speak=None,
        interleaved=None,
    )

    result = mix(world.request, store=world.store, work=Workspace(tmp_path))

    rows = load_rows(world.store, result.rows)
    found = {(o.source, o.document_id) for row in range(rows.num_rows) for o in rows.origins(row)}
    assert {source for source, _ in found} == {"text", "filler"}
    for source, document in found:
        assert (int(document.removeprefix("d")) % 3 == 0) == (source == "text")
    assert result.metric("mix/asked/text") == 800
    assert result.metric("mix/asked/filler") == 1200


def test_arms_of_the_transfer_sweep_differ_in_filler_and_interleaved_alone(tmp_path: Path) -> None:
    drawn = []
    mixtures = [load_recipe("transfer", arm).mixture for arm in load_sweep("transfer").arms]
    for number, mixture in enumerate(dict.fromkeys(mixtures)):
        small = {"total_tokens": 8000, "row_length": 64, "heldout_tokens": 0}
        world = _world(**(mixture.model_dump() | small))
        (tmp_path / str(number)).mkdir()
        rows = load_rows(world.store, _mix(world, tmp_path / str(number)).rows)
        drawn.append(Counter[tuple[str, str]]())
        for origin in (origin for row in range(rows.num_rows) for origin in rows.origins(row)):
            drawn[-1][origin.source, origin.document_id] += origin.num_tokens

    stating = {f"d{i}" for i in range(60) if i % 3 == 0}
    replaced = {"filler", "interleaved"}
    kept = [{key: n for key, n in own.items() if key[0] not in replaced} for own in drawn]
    assert kept == [kept[0]] * len(kept)
    assert {source for source, _ in kept[0]} == {"text", "speech", "transcribe", "speak"}
    assert {name for source, name in kept[0] if source == "text"} == stating - {"d9", "d39"}
    shares = set()
    for own in drawn:
        assert own.total() == pytest.approx(8000, abs=6 * 40)
        assert not stating & {name for source, name in own if source == "filler"}
        woven = sum(n for (source, _), n in own.items() if source == "interleaved")
        shares.add(round(woven / own.total(), 2))
    assert shares == {0.0, 0.16, 0.31, 0.62}


def test_utterances_whose_words_were_not_found_are_counted(tmp_path: Path) -> None:
    text = {"budget": {"kind": "rest"}, "max_epochs": 8}
    world = _world(alignment="words", text=text, interleaved=None)

    result = _mix(world, tmp_path)

    rows = load_rows(world.store, result.rows)
    batch = rows.batch(range(rows.num_rows))
    assert result.metric("mix/utterances/aligned") == 0
    assert result.metric("mix/utterances/unaligned") == 60
    assert batch.begins_BL is not None
    assert not batch.begins_BL.any()


def test_units_of_speech_hold_the_same_documents_in_fewer_ids(tmp_path: Path) -> None:
    plain = _world()
    merged = _world(speech_units=64)

    results = [_mix(world, tmp_path / name) for world, name in ((plain, "a"), (merged, "b"))]

    batches, layouts = [], []
    for world, result in zip((plain, merged), results, strict=True):
        rows = load_rows(world.store, result.rows)
        batches.append(rows.batch(range(rows.num_rows)))
        facts = world.store.manifest(result.rows).facts
        layouts.append(VocabularyLayout.from_dict(dict(facts["layout"])))
    drawn = [
        {one.name: one.value for one in result.metrics if one.name.startswith("mix/drawn/")}
        for result in results
    ]
    filled = [int((one.positions_BL >= 0).sum()) for one in batches]
    assert drawn[1] == drawn[0]
    assert layouts[1].plain == layouts[0] == plain.layout
    assert filled[1] < filled[0]
    codes = [
        layout.codes(batch.tokens_BL[layout.is_speech(batch.tokens_BL)])
        for layout, batch in zip(layouts, batches, strict=True)
    ]
    assert np.bincount(codes[1]).tolist() == np.bincount(codes[0]).tolist()
