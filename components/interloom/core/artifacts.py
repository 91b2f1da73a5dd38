"""Artifacts: immutable sets of shards, addressed by the sha256 of their manifest.

A manifest holds content only: no time, host, path of this machine, run, attempt, stage key,
image, cost or worker count. Those are rows of the catalog.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from interloom.core.errors import DataError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

UNRECORDED = "unrecorded"  # the consent of recordings of which none was named

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_PART = 255  # bytes of a file's name


class ArtifactKind(StrEnum):
    """What an artifact holds. Models are the kinds that end in ``_model``."""

    SPEECH_CORPUS = "speech_corpus"
    TEXT_CORPUS = "text_corpus"
    DIALOGUE_CORPUS = "dialogue_corpus"
    TASKS = "tasks"
    SPOKEN_TASKS = "spoken_tasks"
    INGEST_REPORT = "ingest_report"
    EXTERNAL = "external"  # the address and version of data that stays where it is
    TEXT_TOKENIZER = "text_tokenizer"
    SPEECH_TOKENS = "speech_tokens"
    INTERLEAVED = "interleaved"
    PACKED_ROWS = "packed_rows"
    SPOKEN_DIALOGUES = "spoken_dialogues"
    EVALUATION = "evaluation"
    TOKENIZER_MODEL = "tokenizer_model"
    DECODER_MODEL = "decoder_model"
    TEXT_TO_TOKEN_MODEL = "text_to_token_model"  # noqa: S105 - no password
    BASE_MODEL = "base_model"  # of text, to start from
    LANGUAGE_MODEL = "language_model"
    CHAT_MODEL = "chat_model"

    @property
    def is_model(self) -> bool:
        """Whether it holds weights."""
        return self.value.endswith("_model")


@dataclass(frozen=True, slots=True, order=True)
class ArtifactRef:
    """The address of an artifact: its kind and the sha256 of its manifest."""

    kind: ArtifactKind
    id: str

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.id):
            raise ValueError(f"an artifact id is 64 hexadecimal digits, got {self.id!r}")

    def __str__(self) -> str:
        return f"{self.kind}:{self.id[:12]}"


@dataclass(frozen=True, slots=True)
class Shard:
    """One immutable file of an artifact.

    Attributes:
        path: Relative, with forward slashes, inside the artifact.
        sha256: Ours, checked on every verified read.
        md5: The name of the object in DVC's remote layout.
        num_bytes: Size.
        counts: What it holds: ``rows``, ``samples``, ``speech_tokens``, ``text_tokens``, ``spans``.
    """

    path: str
    sha256: str
    md5: str
    num_bytes: int
    counts: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if self.path.startswith("/") or "\\" in self.path or {"", ".", ".."} & set(parts):
            raise DataError(f"shard path {self.path!r} must be relative and stay in its artifact")
        if any(len(part.encode()) > _MAX_PART for part in parts):
            raise DataError(f"each part of shard path {self.path[:32]!r}... has at most 255 bytes")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The canonical list of an artifact's shards.

    Attributes:
        kind: What the artifact holds.
        shards: In order of path.
        parents: The artifacts it was made from.
        licences: SPDX tags of everything in it, sorted.
        consents: What those who are heard in anything that went in agreed to, sorted; empty where
            nobody is heard.
        facts: How it was made, as far as that changes its meaning: frame rate, vocabulary digest,
            tokenizer or text-to-token id, seed, precision, engine.
    """

    kind: ArtifactKind
    shards: tuple[Shard, ...]
    parents: tuple[ArtifactRef, ...] = ()
    licences: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    consents: tuple[str, ...] = ()

    @property
    def ref(self) -> ArtifactRef:
        """The address that follows from the content."""
        return ArtifactRef(self.kind, hashlib.sha256(self.to_json()).hexdigest())

    def shard(self, path: str) -> Shard:
        """The shard at ``path``.

        Raises:
            DataError: There is none; the message lists those there are.
        """
        for shard in self.shards:
            if shard.path == path:
                return shard
        held = ", ".join(shard.path for shard in self.shards[:8])
        raise DataError(f"{self.ref} has no shard {path!r}; it holds: {held}")

    def shards_under(self, prefix: str) -> tuple[Shard, ...]:
        """The shards whose path starts with ``prefix``, in order."""
        return tuple(shard for shard in self.shards if shard.path.startswith(prefix))

    def count(self, name: str) -> int:
        """The sum of one count over all shards."""
        return sum(shard.counts.get(name, 0) for shard in self.shards)

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8; consents only where there are some."""
        heard = {"consents": sorted(self.consents)} if self.consents else {}
        return canonical_json(
            heard
            | {
                "facts": dict(self.facts),
                "kind": self.kind.value,
                "licences": sorted(self.licences),
                "parents": sorted(f"{parent.kind}:{parent.id}" for parent in self.parents),
                "shards": [
                    {
                        "counts": dict(shard.counts),
                        "md5": shard.md5,
                        "num_bytes": shard.num_bytes,
                        "path": shard.path,
                        "sha256": shard.sha256,
                    }
                    for shard in sorted(self.shards, key=lambda shard: shard.path)
                ],
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Read what ``to_json`` wrote.

        Raises:
            DataError: The bytes are not a manifest.
        """
        try:
            body = json.loads(data)
            return cls(
                kind=ArtifactKind(body["kind"]),
                shards=tuple(Shard(**shard) for shard in body["shards"]),
                parents=tuple(parse_ref(parent) for parent in body["parents"]),
                licences=tuple(body["licences"]),
                facts=body["facts"],
                consents=tuple(body.get("consents", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a manifest: {error}") from error


def parse_ref(text: str) -> ArtifactRef:
    """Read ``kind:id``.

    Raises:
        ValueError: It is not of that form.
    """
    kind, _, artifact_id = text.partition(":")
    return ArtifactRef(ArtifactKind(kind), artifact_id)


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def tree_json(shards: tuple[Shard, ...]) -> bytes:
    """DVC's ``.dir`` object for these shards; its md5 with ``.dir`` names a folder in DVC."""
    entries = [
        {"md5": shard.md5, "relpath": shard.path}
        for shard in sorted(shards, key=lambda shard: tuple(shard.path.split("/")))
    ]
    return json.dumps(entries, sort_keys=True).encode()


def tree_md5(shards: tuple[Shard, ...]) -> str:
    """What DVC calls a folder that holds these shards: an md5 and ``.dir``."""
    digest = hashlib.md5(tree_json(shards), usedforsecurity=False).hexdigest()
    return f"{digest}.dir"
