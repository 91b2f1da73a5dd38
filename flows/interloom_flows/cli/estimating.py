"""What a pre-training takes, on paper, and what its mixture draws: the second half of a plan."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from interloom_flows.cli import screen

if TYPE_CHECKING:
    from interloom.config.recipe import Recipe
    from interloom.language_model.budget import Budget

PEAK_TFLOPS = 989.0  # bf16, dense, of an H100 or H200
MFU = 0.45
EXPECTED_SPEECH = {"text_then_speech": 0.77}  # of the tokens of interleaved rows: spec section 7.4
EXPECTED_SPEECH_OF_SPANS = 0.62  # section 4


def show_budget(
    recipe: "Recipe",
    drawn: Mapping[str, float] | None,
    *,
    peak_tflops: float,
    mfu: float,
) -> None:
    """Parameters, operations, memory by ZeRO stage, GPU-hours and storage of ``pretrain``.

    How much of the rows is speech counts where it is patched: as drawn if the ``mix`` stage has
    run, else as the papers expect it: 62 % of all that is not plain text, 77 % for P2's policy.
    """
    from interloom.language_model.budget import pretraining_budget
    from interloom.vocabulary.layout import VocabularyLayout

    vocab_size = VocabularyLayout(
        recipe.ingest.text_vocab_size,
        recipe.mixture.speech_units or recipe.tokenizer.quantizer.codebook_size,
        text_tokenizer="",
        tokenizer="",
    ).size
    speech_share = _speech_share(recipe, drawn)
    row_length = recipe.mixture.expected_row_length(speech_share)
    budget = pretraining_budget(
        recipe.pretrain,
        vocab_size,
        row_length=row_length,
        stored_tokens=recipe.mixture.total_tokens,
        speech_share=speech_share,
    )
    shown = screen.table("Pre-training on paper", "", ">")
    facts = {"tokens of a row": f"{row_length:,}", "vocabulary": f"{vocab_size:,}"}
    for name, value in (_facts(recipe, budget, peak_tflops, mfu) | facts).items():
        shown.add_row(name, value)
    screen.out().print(shown)
    _show_memory(recipe, budget)


def _speech_share(recipe: "Recipe", drawn: Mapping[str, float] | None) -> float:
    """Part of the tokens that are speech codes."""
    from interloom.config.mixture import Share

    if drawn is not None:
        prefix = "mix/drawn/modality/"
        total = sum(value for name, value in drawn.items() if name.startswith(prefix))
        return drawn.get(f"{prefix}speech", 0.0) / max(1.0, total)
    text = recipe.mixture.text
    budget = text.budget if text is not None else None
    expected = EXPECTED_SPEECH.get(recipe.interleave.policy.kind, EXPECTED_SPEECH_OF_SPANS)
    return expected * (1 - (budget.share if isinstance(budget, Share) else 0.0))


def show_asked(
    recipe: "Recipe", drawn: Mapping[str, float] | None, before: Mapping[str, float] | None = None
) -> None:
    """Tokens by source: asked and drawn, or what would be asked of sizes that are known.

    Args:
        recipe: Its mixture.
        drawn: Results of the ``mix`` stage by name, if it has run with these inputs and settings.
        before: Those of its last run with others: they tell how large the sources are.
    """
    if drawn is not None:
        _show_drawn(drawn)
        return
    sizes = {
        name: (before or {}).get(f"mix/size/{name}", source.expected_tokens)
        for name, source in recipe.mixture.sources().items()
    }
    if missing := [name for name, size in sizes.items() if size is None]:
        screen.put(
            f"Tokens by source are known once the mix stage has run, or with expected_tokens for "
            f"{', '.join(missing)}."
        )
        return
    known = {name: round(size) for name, size in sizes.items() if size is not None}
    _show_wanted(recipe, known, "as in the last run" if before else "as expected")


def _show_wanted(recipe: "Recipe", sizes: Mapping[str, int], whence: str) -> None:
    """What would be asked, and so drawn to within a document."""
    from interloom.mixture.plan import plan_tokens

    title = f"Tokens by source, sizes {whence}"
    shown = screen.table(title, "source", ">size", ">asked", ">share", ">epochs")
    for name, tokens in plan_tokens(recipe.mixture, sizes).items():
        shown.add_row(
            name,
            number(sizes[name]),
            number(tokens),
            f"{tokens / recipe.mixture.total_tokens:.1%}",
            f"{tokens / max(1, sizes[name]):.2f}",
        )
    screen.out().print(shown)


def _show_drawn(drawn: Mapping[str, float]) -> None:
    """What the mix stage asked for and drew, by source, modality and licence."""
    shown = screen.table("Tokens of the mixture", "", ">asked", ">drawn", ">share", ">epochs")
    prefix = "mix/drawn/"
    total = sum(drawn[name] for name in drawn if name.startswith(f"{prefix}modality/"))
    for name, tokens in drawn.items():
        if name.startswith(prefix):
            what = name.removeprefix(prefix)
            asked, epochs = drawn.get(f"mix/asked/{what}"), drawn.get(f"mix/epochs/{what}")
            shown.add_row(
                what.replace("/", " "),
                "" if asked is None else number(asked),
                number(tokens),
                f"{tokens / max(1, total):.1%}",
                "" if epochs is None else f"{epochs:.2f}",
            )
    screen.out().print(shown)


def _facts(recipe: "Recipe", budget: "Budget", peak_tflops: float, mfu: float) -> dict[str, str]:
    train = recipe.pretrain.train
    hours = budget.gpu_hours(peak_flops_per_s=peak_tflops * 1e12, mfu=mfu)
    return {
        "parameters": number(budget.parameters),
        "of them in the tables of tokens": number(budget.embedding_parameters),
        "tokens trained on": number(budget.tokens),
        "tokens a step": number(budget.tokens / train.num_steps),
        "steps": f"{train.num_steps:,}",
        "FLOPs": f"{budget.flops:.3g}",
        f"GPU-hours at {mfu:.0%} of {peak_tflops:g} TFLOP/s": f"{hours:,.1f}",
        f"hours on {budget.num_gpus} ranks": f"{hours / budget.num_gpus:,.1f}",
        "packed rows": screen.size(round(budget.rows_bytes)),
        f"checkpoints, {train.keep_checkpoints} kept": screen.size(
            train.keep_checkpoints * budget.checkpoint_bytes
        ),
    }


def _show_memory(recipe: "Recipe", budget: "Budget") -> None:
    """One row a ZeRO stage; the recipe's own is marked."""
    parts = ("weights", "gradients", "moments", "activations", "loss", "total")
    title = f"Memory of each of {budget.num_gpus} ranks"
    shown = screen.table(title, "ZeRO", *(f">{part}" for part in parts))
    for stage, memory in budget.memory.items():
        mark = " (this)" if stage == recipe.pretrain.train.zero_stage else ""
        shown.add_row(
            f"{stage}{mark}", *(screen.size(round(getattr(memory, part))) for part in parts)
        )
    screen.out().print(shown)


def number(value: float) -> str:
    """A count as a person says it."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:,.0f}"
