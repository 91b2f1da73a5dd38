"""A fine-tuned language model writes down what is said, and must know when to stop.

A plain model that does not end runs on to the limit, and its word error rate passes 100 % (spec
section 7.6).
"""

import numpy as np

from interloom.evaluation.choice import ChosenSet
from interloom.evaluation.error_rate import measure_errors
from interloom.evaluation.measures import Findings, Judging, share_right
from interloom.evaluation.round_trips import transcripts
from interloom.language_model.runtime import LanguageModel
from interloom.language_model.sampling import Sampling
from interloom.mixture.sources import transcription
from interloom.text.bpe import TextTokenizer
from interloom.vocabulary.layout import Ids, Marker


def measure_transcription(
    chosen: ChosenSet, model: LanguageModel, text: TextTokenizer, judging: Judging
) -> Findings:
    """Held-out speech, written down greedily; nothing keeps the model to text, or makes it end."""
    layout = model.layout
    end = layout.marker(Marker.DOCUMENT_END)

    def asked(codes: list[int]) -> Ids:
        audio = layout.wrap_audio(np.array(codes, np.int32))
        return transcription("", audio, (), layout, licence="").ids_T[:-1]

    sampling = Sampling(max_new_tokens=judging.config.max_transcript_text, stop_ids=(end,))
    made = model.generate([asked(row["codes"]) for row in chosen.items], sampling)
    said = [row["text"] for row in chosen.items]
    heard = [text.decode(ids[layout.is_text(ids)].tolist()) for ids in made]
    name, ended = "transcription", [end in ids for ids in made]
    return Findings(
        (
            measure_errors(f"{name}/wer", (said, heard), chosen, chosen.items, judging),
            share_right(f"{name}/ended", chosen, chosen.items, ended, judging),
        ),
        (chosen,),
        {name: transcripts(said, heard)},
    )
