"""The public face of the store: ``.dvc`` files, so that ``dvc pull`` works without our catalog."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from interloom.config.s3 import S3Settings
from interloom.core.artifacts import ArtifactKind, ArtifactRef, Manifest, parse_ref, tree_md5
from interloom.core.errors import ConfigError, DataError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_NAME = 128
# What tells a version of the source: dvc takes the first that the server gives.
VERSIONS = ("etag", "md5", "checksum", "version_id")
_ARTIFACT = re.compile(r'^  artifact: "(\w+:[0-9a-f]{64})"$', re.MULTILINE)


def checked_name(name: str) -> str:
    """A name that can be a folder's, on any machine.

    Raises:
        ConfigError: It cannot.
    """
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME or ".." in name:
        shown = name if len(name) <= _MAX_NAME else f"{name[:32]}... of {len(name)} characters"
        raise ConfigError(
            f"a name is up to {_MAX_NAME} letters, digits, '.', '_' and '-', "
            f"without '..', got {shown!r}"
        )
    return name


def dvc_file(manifest: Manifest, name: str) -> str:
    """The text of ``NAME.dvc``: an output folder ``NAME`` that holds the artifact's shards.

    Raises:
        ConfigError: The name cannot be a folder's.
    """
    checked_name(name)
    num_bytes = sum(shard.num_bytes for shard in manifest.shards)
    licences = ", ".join(manifest.licences) or "none stated"
    return (
        f"desc: {json.dumps(f'Interloom artifact {manifest.kind}:{manifest.ref.id}')}\n"
        "meta:\n"
        f"  artifact: {json.dumps(f'{manifest.kind}:{manifest.ref.id}')}\n"
        f"  licences: {json.dumps(licences)}\n"
        "outs:\n"
        f"- md5: {tree_md5(manifest.shards)}\n"
        f"  size: {num_bytes}\n"
        f"  nfiles: {len(manifest.shards)}\n"
        "  hash: md5\n"
        f"  path: {json.dumps(name)}\n"
    )


def external_dvc_file(manifest: Manifest, name: str) -> str:
    """The text of ``NAME.dvc`` for such an artifact: ``dvc update NAME.dvc`` fetches it.

    Raises:
        ConfigError: The name cannot be a folder's.
    """
    checked_name(name)
    facts = {key: str(value) for key, value in manifest.facts.items()}
    version = "".join(
        f"  {key}: '{facts[key]}'\n" if key in VERSIONS else f"  {key}: {facts[key]}\n"
        for key in ("size", "nfiles", *VERSIONS)
        if key in facts
    )
    return (
        f"desc: 'Interloom artifact {manifest.kind}:{manifest.ref.id}'\n"
        "frozen: true\n"
        "deps:\n"
        f"- path: '{facts['url']}'\n"
        f"{version}"
        "  hash: md5\n"
        "outs:\n"
        f"- path: {name}\n"
        "  hash: md5\n"
    )


def read_dvc_file(path: Path) -> ArtifactRef:
    """The artifact that an exported ``.dvc`` file stands for.

    Raises:
        DataError: The file was not written by ``dvc_file``, or cannot be read.
    """
    try:
        found = _ARTIFACT.search(path.read_text())
        if found is not None:
            return parse_ref(found[1])
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a .dvc file: {error}") from error
    raise DataError(
        f"{path} names no Interloom artifact; expected a file that interloom data export wrote"
    )


def remote_options(url: str, s3: S3Settings) -> Mapping[str, str]:
    """What DVC must know to read a store as its remote; credentials are not among it.

    Args:
        url: A folder, or ``s3://bucket/prefix``.
        s3: How S3 is reached. DVC takes the credentials from ``AWS_ACCESS_KEY_ID`` and
            ``AWS_SECRET_ACCESS_KEY``.
    """
    options = {"url": url, "verify": "true"}
    if url.startswith("s3://"):
        options |= {"endpointurl": s3.endpoint, "region": s3.region}
        if s3.ca_file is not None:
            options["ssl_verify"] = str(s3.ca_file.absolute())
    return options


def export_dvc(manifest: Manifest, name: str, folder: Path, *, remote: Mapping[str, str]) -> Path:
    """Write ``NAME.dvc`` into ``folder``, and DVC's settings if it has none.

    Args:
        manifest: Of the artifact.
        name: Of the folder that ``dvc pull`` will make.
        folder: Where to write; made if need be. If it has no ``.dvc`` folder it becomes a
            repository without version control whose remote ``interloom`` is the store.
        remote: As ``remote_options`` gives them.

    Returns:
        The path of the file.

    Raises:
        ConfigError: The name cannot be a folder's, or nothing can be written there.
    """
    text = (external_dvc_file if manifest.kind is ArtifactKind.EXTERNAL else dvc_file)(
        manifest, name
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        make_repository(folder, remote)
        path = folder / f"{name}.dvc"
        path.write_text(text)
    except OSError as error:
        raise ConfigError(f"cannot export to {folder}: {error.strerror}") from error
    return path


def make_repository(folder: Path, remote: Mapping[str, str] | None = None) -> None:
    """Make a folder a DVC repository without version control, unless it is a repository.

    Args:
        folder: Exists.
        remote: Of its remote ``interloom``, if it is to have one.
    """
    inside = folder / ".dvc"
    if inside.is_dir():
        return
    inside.mkdir()
    lines = ["[core]", "    no_scm = True", "    analytics = false"]
    if remote is not None:
        lines += ["    remote = interloom", "['remote \"interloom\"']"]
        lines += [f"    {option} = {value}" for option, value in remote.items()]
    (inside / "config").write_text("\n".join(lines) + "\n")
