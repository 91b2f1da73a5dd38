"""Which tokens may come next in an answer, so that it always keeps its template."""

import numpy as np
from numpy.typing import NDArray

from interloom.config.dialogue import AnswerConfig
from interloom.vocabulary.layout import Ids, Marker, VocabularyLayout

Mask = NDArray[np.bool_]


class AnswerGrammar:
    """The tokens allowed after what has been generated. Legend: T tokens so far, V vocabulary.

    Text-guided: 13 text, 26 speech, in turns; speech in a text slot, or the end, closes the text,
    and from then on there is only speech until the end. Speech-only: speech until the closing
    wrapper.
    """

    def __init__(self, layout: VocabularyLayout, config: AnswerConfig) -> None:
        ids_V = np.arange(layout.size, dtype=np.int32)
        self._layout = layout
        self._config = config
        self._text_V: Mask = layout.is_text(ids_V)
        self._speech_V: Mask = layout.is_speech(ids_V)
        end = Marker.USER if config.is_text_guided else Marker.AUDIO_END
        self.end_id = layout.marker(end)
        self._end_V: Mask = ids_V == self.end_id
        self._speech_or_end_V: Mask = self._speech_V | self._end_V

    def allowed(self, generated_T: Ids) -> Mask:
        """Mask of shape (V,); at least one token is allowed.

        Args:
            generated_T: The answer so far, each token of it allowed in its place.
        """
        if not self._config.is_text_guided:
            return self._speech_or_end_V if len(generated_T) else self._speech_V
        template = self._config.template
        slots_T = np.arange(len(generated_T)) % (template.text_chunk + template.speech_chunk)
        is_speech_T = self._layout.is_speech(generated_T)
        if (is_speech_T & (slots_T < template.text_chunk)).any():
            return self._speech_or_end_V
        slot = len(generated_T) % (template.text_chunk + template.speech_chunk)
        if slot < template.text_chunk:
            return self._text_slot(slot, is_first=not len(generated_T))
        may_end = slot > template.text_chunk
        return self._speech_or_end_V if may_end else self._speech_V

    def _text_slot(self, slot: int, *, is_first: bool) -> Mask:
        """Text goes on, or its end shows by speech; the end itself only after a speech chunk."""
        if is_first:
            return self._text_V
        allowed_V: Mask = self._text_V | self._speech_V
        return allowed_V | self._end_V if slot == 0 else allowed_V
