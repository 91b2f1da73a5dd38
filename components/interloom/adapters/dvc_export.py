"""The public face of the store: ``.dvc`` files, so that ``dvc pull`` works without our catalog."""

import json
import re
from pathlib import Path

from interloom.core.artifacts import Manifest, tree_md5
from interloom.core.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def dvc_file(manifest: Manifest, name: str) -> str:
    """The text of ``NAME.dvc``: an output folder ``NAME`` that holds the artifact's shards.

    Raises:
        ConfigError: The name cannot be a folder's.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"an export needs a name of letters, digits, '.', '_' and '-', got {name!r}"
        )
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


def export_dvc(manifest: Manifest, name: str, folder: Path, *, remote: Path) -> Path:
    """Write ``NAME.dvc`` into ``folder``, and DVC's settings if it has none.

    Args:
        manifest: Of the artifact.
        name: Of the folder that ``dvc pull`` will make.
        folder: Where to write; made if need be. If it has no ``.dvc`` folder it becomes a
            repository without version control whose remote ``interloom`` is the store.
        remote: The store's root.

    Returns:
        The path of the file.

    Raises:
        ConfigError: The name cannot be a folder's, or nothing can be written there.
    """
    text = dvc_file(manifest, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _make_repository(folder, remote)
        path = folder / f"{name}.dvc"
        path.write_text(text)
    except OSError as error:
        raise ConfigError(f"cannot export to {folder}: {error.strerror}") from error
    return path


def _make_repository(folder: Path, remote: Path) -> None:
    """A DVC repository without version control, that checks every byte it fetches."""
    inside = folder / ".dvc"
    if inside.is_dir():
        return
    inside.mkdir()
    (inside / "config").write_text(
        "[core]\n"
        "    no_scm = True\n"
        "    remote = interloom\n"
        "    analytics = false\n"
        "['remote \"interloom\"']\n"
        f"    url = {remote.absolute()}\n"
        "    verify = true\n"
    )
