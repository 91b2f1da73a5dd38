"""The evaluation as an artifact: ``report.json``, ``scores.json``, sounds and ``examples.json``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interloom.audio.files import write_wav
from interloom.config.evaluation import EvaluationConfig
from interloom.evaluation.measures import Findings
from interloom.evaluation.pairing import SCORES, scores_to_json
from interloom.ports.store import ArtifactDraft
from interloom.text.normalise import NORMALISER

REPORT, EXAMPLES = "report.json", "examples.json"


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """One WAV file to listen to.

    Attributes:
        file: Its name.
        title: What it is, in words.
        text: What is said in it.
        heard: What the tokenizer's head reads in it.
        waveform: 16 kHz mono.
        sample_rate_hz: Of the waveform.
    """

    file: str
    title: str
    text: str
    heard: str
    waveform: NDArray[np.float32]
    sample_rate_hz: int


def write_report(
    draft: ArtifactDraft,
    findings: Findings,
    config: EvaluationConfig,
    models: Mapping[str, str],
    sounds: Sequence[Sound] = (),
) -> None:
    """Write the shards: what was found by which models, and what there is to listen to."""
    with draft.shard(REPORT) as shard:
        shard.path.write_text(_json(_report(findings, config, models)))
    with draft.shard(SCORES) as shard:
        shard.path.write_text(scores_to_json(findings.measures))
    described = []
    for sound in sounds:
        with draft.shard(sound.file) as shard:
            write_wav(shard.path, sound.waveform, sample_rate_hz=sound.sample_rate_hz)
            shard.count(samples=len(sound.waveform))
        described.append(
            {
                "path": sound.file,
                "title": sound.title,
                "text": sound.text,
                "heard": sound.heard,
                "seconds": round(len(sound.waveform) / sound.sample_rate_hz, 2),
            }
        )
    with draft.shard(EXAMPLES) as shard:
        shard.path.write_text(_json(described))


def _report(
    findings: Findings, config: EvaluationConfig, models: Mapping[str, str]
) -> dict[str, Any]:
    """All numbers with their intervals, what they were measured on and by which normaliser."""
    return {
        "confidence": config.confidence,
        "details": dict(findings.details),
        "measures": {one.name: one.estimate.to_dict() for one in findings.measures},
        "models": dict(models),
        "normaliser": NORMALISER,
        "sets": {one.name: one.to_dict() for one in findings.sets},
    }


def _json(body: object) -> str:
    return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
