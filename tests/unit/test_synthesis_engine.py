"""The engine's parts: products, pages, choices, loops and limits."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from interloom.config.text_to_token import TextToTokenConfig
from interloom.core.errors import DataError
from interloom.testing import toy_speech
from interloom.text.bpe import TextTokenizer
from interloom.text_to_token.choosing import choose
from interloom.text_to_token.decoding import TorchEngine
from interloom.text_to_token.fitting import make_model, make_prompter
from interloom.text_to_token.guards import has_loop
from interloom.text_to_token.jobs import Decoded, Job, LoopRule, Sampling
from interloom.text_to_token.looping import LoopWatch
from interloom.text_to_token.model import TextToTokenModel
from interloom.text_to_token.pages import PAGE, Pages
from interloom.text_to_token.pieces import read_spoken
from interloom.text_to_token.products import Weight
from interloom.text_to_token.replaying import Recorder, Recording, Replays
from interloom.vocabulary.layout import VocabularyLayout

ROWS = [toy_speech.token_row(index, num_words=2 + index % 7) for index in range(40)]
TOKENIZER = TextTokenizer.train([row["text"] for row in ROWS], vocab_size=280)
LAYOUT = VocabularyLayout(TOKENIZER.vocab_size, toy_speech.CODEBOOK_SIZE, "a" * 64, "b" * 64)
PROMPTER = make_prompter(read_spoken(ROWS), LAYOUT, TOKENIZER)
CONFIG = TextToTokenConfig(width=64, num_layers=2, num_heads=2, dropout=0.0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def engine(
    model: TextToTokenModel, num_slots: int, recorder: Recorder | None = None
) -> TorchEngine:
    return TorchEngine(
        model, num_slots=num_slots, speech_offset=LAYOUT.speech_offset, recorder=recorder
    )


class Rerun:
    """A recorder for any device: to play is to compute again, from the same places to the same."""

    def __init__(self) -> None:
        self.num_recordings = 0

    def __call__(self, compute: Callable[[], Tensor]) -> Recording:
        self.num_recordings += 1
        output = compute().clone()
        return Recording(lambda: output.copy_(compute()), output)


def many_jobs() -> list[Job]:
    """Spans of one to five pages, greedy and sampled."""
    rng = np.random.default_rng(3)
    limits = [7, 150, 30, 60, 90, 12, 40, 140, 20, 5, 70, 33]
    return [
        Job(
            PROMPTER.prompt([1 + n, 2, 3], "speaker-0"),
            limit,
            rng.random(limit + 1),
            Sampling(float(n % 2), 1.0),
        )
        for n, limit in enumerate(limits)
    ]


def unending_model() -> TextToTokenModel:
    model = make_model(PROMPTER, CONFIG, seed=0)
    with torch.no_grad():
        model.head.weight[-1] = 0
    return model


def test_recorded_steps_give_the_same_codes_from_few_recordings() -> None:
    model, rerun = unending_model(), Rerun()

    plain = engine(model, num_slots=4).decode(many_jobs())
    played = engine(model, num_slots=4, recorder=rerun).decode(many_jobs())

    assert [one.codes.tolist() for one in played] == [one.codes.tolist() for one in plain]
    assert sum(len(one.codes) for one in plain) > 300
    assert 3 <= rerun.num_recordings <= 12  # of 1, 2 and 4 pages a slot, and 0 to 4 further ones


def test_a_recording_is_made_once_for_each_set_of_shapes() -> None:
    rerun = Rerun()
    replays = Replays(lambda given: given[0] + given[1].sum(), rerun, torch.device("cpu"))
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([3.0])

    first = replays([one, two]).tolist()
    again = replays([two.expand(2), two]).tolist()
    other = replays([two, two]).tolist()

    assert (first, again, other) == ([4.0, 5.0], [6.0, 6.0], [6.0])
    assert (replays.num_recordings, rerun.num_recordings) == (2, 2)
    assert (one.tolist(), two.tolist()) == ([1.0, 2.0], [3.0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_give_the_codes_of_the_steps_that_they_recorded() -> None:
    model = unending_model().cuda()

    graphs = engine(model, num_slots=4).decode(many_jobs())
    steps = engine(model, num_slots=4, recorder=Rerun()).decode(many_jobs())

    assert [one.codes.tolist() for one in graphs] == [one.codes.tolist() for one in steps]


@pytest.mark.parametrize(("rows", "size"), [(1, 48), (7, 48), (32, 128), (65, 96)])
def test_a_row_of_a_product_depends_on_no_other_row_nor_on_its_place(rows: int, size: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight = Weight(torch.randn(size * 2, size, generator=generator), num_rows=rows)
    x, other = (torch.randn(rows, n, generator=generator) for n in (size, size * 2))
    turned = torch.arange(rows).flip(0)

    for made, again in (
        (weight.times(x), weight.times(x[turned])),
        (weight.times(x, "swish"), weight.times(x[turned], "swish")),
        (weight.times_with(x, other, "add"), weight.times_with(x[turned], other[turned], "add")),
        (weight.times_with(x, other, "mul"), weight.times_with(x[turned], other[turned], "mul")),
    ):
        assert torch.equal(made[turned], again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # laid out anew, and not
def test_products_are_those_of_plain_layers(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    matrix, bias = (torch.randn(*size, generator=generator).to(dtype) for size in ((6, 4), (6,)))
    x, other = (torch.randn(3, n, generator=generator).to(dtype) for n in (4, 6))
    weight, plain = Weight(matrix, num_rows=3, bias_O=bias), x @ matrix.T + bias

    torch.testing.assert_close(weight.times(x), plain)
    torch.testing.assert_close(weight.times(x, "swish"), plain * plain.sigmoid())
    torch.testing.assert_close(weight.times_with(x, other, "add"), other + plain)
    torch.testing.assert_close(weight.times_with(x, other, "mul"), other * plain)


def test_pages_are_taken_lowest_first_and_given_back() -> None:
    pages = Pages(num_slots=2, num_positions=3 * PAGE)

    pages.reach(1, PAGE)
    pages.reach(0, 3 * PAGE - 1)

    assert pages.table.T.tolist() == [[0, 3, 4], [1, 2, -1]]
    assert pages.owner[:5].tolist() == [0, 1, 1, 0, 0]
    assert pages.start[:5].tolist() == [0, 0, PAGE, PAGE, 2 * PAGE]
    pages.release(1)
    pages.release(0)
    assert pages.num_used == 2
    pages.reach(0, PAGE)
    assert pages.table[:, 0].tolist() == [0, 2, -1]


def test_sampling_follows_the_probabilities_within_the_nucleus() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    logits = torch.tensor(probabilities).log().repeat(4000, 1)
    draws: NDArray[np.float64] = np.random.Generator(np.random.Philox(key=1)).random(4000)

    chosen = choose(logits, draws, np.full(4000, 1.0), np.full(4000, 0.9))

    share = np.bincount(chosen, minlength=4) / 4000
    np.testing.assert_allclose(share, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], atol=0.02)


def test_temperature_zero_takes_the_best() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 1.0, 1.0]])

    chosen = choose(logits, np.array([0.9, 0.9]), np.zeros(2), np.full(2, 0.5))

    assert chosen.tolist() == [1, 0]


def test_a_nucleus_of_many_outputs_is_the_same_as_after_a_full_sort() -> None:
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(1)) * 0.1
    draws = np.linspace(0.0, 0.999, 6)
    ranked = logits.double().softmax(-1).sort(descending=True)
    reached = ranked.values.cumsum(-1).numpy()
    mass = [row[np.argmax(row >= 0.95)] for row in reached]
    expected = [
        int(ranked.indices[at, np.argmax(reached[at] >= draws[at] * mass[at])]) for at in range(6)
    ]

    chosen = choose(logits, draws, np.ones(6), np.full(6, 0.95))

    assert chosen.tolist() == expected


def test_outputs_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="outputs are not finite, so its weights are broken"):
        choose(torch.tensor([[0.0, torch.nan]]), np.zeros(1), np.zeros(1), np.ones(1))


def test_a_span_that_never_ends_is_cut_off_at_its_limit() -> None:
    model = make_model(PROMPTER, CONFIG, seed=0)
    with torch.no_grad():
        model.norm.weight.fill_(0)  # all outputs alike: the first one is taken
    prompt = PROMPTER.prompt([1, 2], "speaker-0")

    [one] = engine(model, num_slots=2).decode([Job(prompt, 5, np.zeros(6))])

    assert isinstance(one, Decoded)
    assert (one.codes.tolist(), one.ended) == ([0] * 5, False)


def test_a_span_that_loops_is_ended_where_the_loop_is_first_seen() -> None:
    rule, chance, rng = LoopRule(run=3, period=2), Sampling(1.0, 1.0), np.random.default_rng(1)
    jobs = [
        Job(PROMPTER.prompt([1 + n, 2], "speaker-0"), 40, rng.random(41), chance) for n in range(12)
    ]
    speaker = engine(make_model(PROMPTER, CONFIG, seed=0), num_slots=4)

    ended = speaker.decode([dataclasses.replace(job, loop=rule) for job in jobs])

    loops = 0
    for whole, short in zip(speaker.decode(jobs), ended, strict=True):
        codes = whole.codes
        seen = [at for at in range(41) if has_loop(codes[:at], run=rule.run, period=rule.period)]
        assert short.codes.tolist() == codes[: seen[0] if seen else None].tolist()
        assert short.ended == (whole.ended and not seen)
        loops += bool(seen) and seen[0] < len(codes)
    assert loops > 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 3), st.integers(4, 9))
def test_a_loop_is_seen_when_the_guard_would_see_it(
    codes: list[int], period: int, run: int
) -> None:
    watch = LoopWatch(num_slots=1, longest_cycle=3)
    watch.begin(0, LoopRule(run, period))
    row = np.array([codes], np.int32)

    for made in range(1, len(codes) + 1):
        guard = has_loop(row[0, :made], run=run, period=period)
        assert bool(watch.see(row, np.array([made]))[0]) == guard
        if guard:
            break
