"""``respeak``: a span of an interleaved row, synthesised again and made audible."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interloom.core.errors import DataError
from interloom_flows.cli import screen
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from interloom.core.artifacts import ArtifactRef
    from interloom.ports.store import ArtifactStore
    from interloom.text_to_token.spans import Codes


def respeak(
    row: Annotated[
        str, typer.Argument(metavar="ROW", help="The id of a row: that of its document.")
    ],
    span: Annotated[
        int | None,
        typer.Option("--span", help="Its number in the row; the first spoken one by default."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The WAV file to write.")] = Path(
        "span.wav"
    ),
    run: Annotated[
        str,
        typer.Option("--run", metavar="RUN", help="Whose rows: a run, a recipe's name, or last."),
    ] = "last",
    is_kept: Annotated[
        bool, typer.Option("--kept", help="Only play what stands in the row, as for recordings.")
    ] = False,
) -> None:
    """Speak a span of an interleaved row again, alone, and compare it with the row.

    The same model, settings, seed and span give the same speech tokens.
    """
    with opened() as services:
        from interloom_flows.results import find_run, summarise

        names = ("interleaved", "decoder")
        outputs = summarise(services.catalog, find_run(services.catalog, run, names)).outputs
        from interloom.interleaving.respeaking import find_span
        from interloom.interleaving.respeaking import respeak as speak_again

        kept = find_span(services.store, outputs["interleaved"], row, span)
        screen.say(f"{kept.span['span_id']}: {kept.text}")
        codes = kept.codes
        if not is_kept:
            result = speak_again(services.store, kept)
            if result.reason:
                raise DataError(
                    f"{kept.text!r} cannot be spoken: {result.explanation}; in the row it is "
                    f"{kept.span['outcome']!r}"
                )
            codes = result.codes
        _play(services.store, outputs["decoder"], codes, out)
    screen.put(f"{out}: {len(codes)} tokens")
    if codes.tolist() != kept.codes.tolist():
        raise DataError(
            f"the tokens are not those of the row, which holds {len(kept.codes)}: it was made by "
            f"{kept.row['engine']!r} in {kept.row['precision']}, or on another kind of machine"
        )
    screen.say("the same tokens as in the row")


def _play(store: "ArtifactStore", decoder: "ArtifactRef", codes: "Codes", out: Path) -> None:
    """Write codes as sound.

    Raises:
        DataError: There are none.
    """
    from interloom.audio.files import write_wav
    from interloom.speech_decoder.runtime import load_speech_decoder

    if not codes.size:
        raise DataError("the span stayed text, so the row holds no speech of it")
    voice = load_speech_decoder(store, decoder)
    write_wav(out, voice.decode(codes), sample_rate_hz=voice.sample_rate_hz)
