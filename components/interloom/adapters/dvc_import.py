"""Data that stays where it is: its address and its version, as ``dvc import-url`` finds them."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from interloom.adapters.dvc_export import VERSIONS, make_repository
from interloom.config.environment import environment
from interloom.config.s3 import S3Settings
from interloom.core.artifacts import ArtifactKind, ArtifactRef, canonical_json
from interloom.core.errors import ConfigError, DataError, MissingError, TransientError
from interloom.ports.store import ArtifactStore

SHARD = "source.json"
_DEPENDENCY = re.compile(r"^deps:\n((?:[- ] .*\n)+)", re.MULTILINE)
_FIELD = re.compile(r"^[- ] (\w+): '?([^'\n]*)'?$", re.MULTILINE)
_TIMEOUT_S = 600.0


def register_url(store: ArtifactStore, url: str, s3: S3Settings, *, licence: str) -> ArtifactRef:
    """Commit an artifact that holds an address and the version of what is there; copies nothing.

    Args:
        store: Takes the artifact: one small shard.
        url: A path of this machine, or a URL that DVC can read.
        s3: How ``s3://`` addresses are reached.
        licence: SPDX tag of what is there.

    Raises:
        ConfigError: The URL holds credentials.
        MissingError: There is nothing, or DVC is not installed.
        TransientError: DVC does not come to an end.
    """
    found = look_at(url, s3)
    with store.draft(ArtifactKind.EXTERNAL) as draft:
        with draft.shard(SHARD) as shard:
            shard.path.write_bytes(canonical_json(dict(found)))
            shard.count(files=int(found.get("nfiles", "1")))
        return draft.commit(licences=[licence], facts=found)


def look_at(url: str, s3: S3Settings) -> Mapping[str, str]:
    """Address, size and version of what is at a URL, as DVC sees them."""
    where = plain_address(url)
    command = ("import-url", "-q", "--no-download", *_s3_flags(where, s3), where, "data")
    with tempfile.TemporaryDirectory(prefix="interloom-dvc-") as folder:
        repository = Path(folder)
        make_repository(repository)
        _run(command, where, folder, s3)
        text = (repository / "data.dvc").read_text()
    found = _DEPENDENCY.search(text)
    fields = dict(_FIELD.findall(found[1])) if found is not None else {}
    if not any(fields.get(name) for name in VERSIONS):
        raise DataError(
            f"{where} does not tell its version: expected one of {', '.join(VERSIONS)}; "
            "a copy of it can be taken in with interloom ingest"
        )
    kept = ("size", "nfiles", *VERSIONS)
    return {"url": where} | {name: fields[name] for name in kept if fields.get(name)}


def plain_address(url: str) -> str:
    """The address as it may be kept: whole, or refused.

    Raises:
        ConfigError: It holds a user, a password or a query, in which signatures come.
    """
    if "://" not in url:
        return str(Path(url).absolute())
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"the address {parts.scheme}://{parts.hostname}/... holds credentials or options, "
            "which would be kept for ever; give the plain address, and keys by the environment"
        )
    return url


def _run(arguments: Sequence[str], where: str, folder: str, s3: S3Settings) -> None:
    """Run DVC in a throw-away folder, with a time-out."""
    program = Path(sys.executable).with_name("dvc")
    if not program.is_file():
        raise MissingError("DVC is not installed; pip install 'interloom[data]'")
    try:
        done = subprocess.run(
            [str(program), *arguments],
            cwd=folder,
            env=environment() | {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"} | _keys(s3),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TransientError(f"dvc {arguments[0]} did not end within {_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = said[0].removeprefix("ERROR: ") if said else f"exit code {done.returncode}"
        raise MissingError(f"DVC cannot read {where}: {reason}")


def _s3_flags(url: str, s3: S3Settings) -> tuple[str, ...]:
    """Where DVC finds S3."""
    if not url.startswith("s3://"):
        return ()
    options = [f"endpointurl={s3.endpoint}", f"region={s3.region}"]
    if s3.ca_file is not None:
        options.append(f"ssl_verify={s3.ca_file.absolute()}")
    return ("--fs-config", *options, "--")


def _keys(s3: S3Settings) -> dict[str, str]:
    """The credentials as DVC takes them; in its environment only."""
    if s3.access_key is None or s3.secret_key is None:
        return {}
    return {
        "AWS_ACCESS_KEY_ID": s3.access_key.get_secret_value(),
        "AWS_SECRET_ACCESS_KEY": s3.secret_key.get_secret_value(),
    }
