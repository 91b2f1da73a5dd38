"""The words everything else is written in. Standard library only.

recording: one audio file. utterance: a stretch of speech with one id. sample: one audio sample.
example: one training row before packing. frame: one step of the encoder. code: an index into a
codebook. token: an id in the language model's vocabulary, text or speech. span: a half-open run.
row: a fixed-length training row packed from examples. step: one optimizer step. artifact: shards
and their manifest, immutable; its id is the sha256 of the manifest. stage: request to result.
"""
