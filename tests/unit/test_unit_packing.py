"""Rows of so many units: tokens of text and patches of speech."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interloom.config.mixture import MixtureConfig, Units
from interloom.core.artifacts import ArtifactKind, ArtifactRef
from interloom.core.errors import ConfigError
from interloom.mixture.packing import num_units
from interloom.mixture.plan import all_documents
from interloom.mixture.rows import INDEX, load_rows
from interloom.mixture.spooling import CutRule, spool
from interloom.mixture.writing import RowCounts, write_rows
from interloom.testing.rows import LAYOUT, counting_examples, store_counting_rows
from interloom.testing.store import MemoryStore
from interloom_flows.recipes import load_recipe


def rule(row_length: int, units: Units | None) -> CutRule:
    return CutRule(row_length, LAYOUT, refuses_unfit=True, units=units)


def packed(
    store: MemoryStore, folder: Path, row_length: int, units: Units
) -> tuple[ArtifactRef, RowCounts]:
    own = rule(row_length, units)
    sources = {
        name: spool(name, counting_examples(60, is_speech=name == "speech"), own, folder)
        for name in ("text", "speech")
    }
    draws = all_documents({name: len(held.lengths_D) for name, held in sources.items()})
    with store.draft(ArtifactKind.PACKED_ROWS) as draft:
        counts = write_rows(draft, sources, draws, row_length=row_length, layout=LAYOUT)
        ref = draft.commit(facts={"layout": LAYOUT.to_dict(), "vocabulary": LAYOUT.digest})
    return ref, counts


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_units_are_tokens_and_patches_of_runs(speech: list[bool], size: int) -> None:
    expected = room = 0
    for is_speech in speech:
        room = room - 1 if is_speech and room else (size - 1 if is_speech else 0)
        expected += not is_speech or room == size - 1

    assert num_units(np.array(speech, np.bool_), size) == expected


def test_a_row_holds_its_units_and_no_more_tokens_than_it_may(tmp_path: Path) -> None:
    store = MemoryStore()

    ref, counts = packed(store, tmp_path, 72, Units(per_row=48, speech_tokens=4))

    rows = load_rows(store, ref)
    held = [rows.tokens(row) for row in range(rows.num_rows)]
    units = [num_units(ids >= LAYOUT.speech_offset, 4) for ids in held]
    assert max(units) <= 48
    assert 48 < max(map(len, held)) <= 72
    assert sum(map(len, held)) == counts.tokens.total()
    assert 0.95 < counts.fill <= 1
    assert rows.batch([0]).tokens_BL.shape[1] == len(held[0])
    assert rows.batch([0, 1]).tokens_BL.shape[1] == max(len(held[0]), len(held[1]))


def test_rows_of_tokens_say_nothing_of_units(tmp_path: Path) -> None:
    store = MemoryStore()

    ref = store_counting_rows(store, tmp_path)

    index = json.loads(store.local_path(store.manifest(ref).shard(INDEX)).read_text())
    assert "row_units" not in index
    assert load_rows(store, ref).batch([0]).tokens_BL.shape[1] == 48


def test_units_that_fit_no_row_or_no_patch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"row_length must be at least units\.per_row = 300"):
        MixtureConfig(row_length=256, units=Units(per_row=300))

    changes = ["mixture.units={per_row=128, speech_tokens=4}", "pretrain.patches.kind=static"]
    with pytest.raises(ConfigError, match=r"must be pretrain\.patches\.size = 2, got 4"):
        load_recipe("starter", changes)
