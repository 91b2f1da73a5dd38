"""What code a stage's result depends on: its module, all of ours that it imports, the lock file."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from interloom.core.errors import MissingError

# Third parties whose version can change a result, whatever the lock file says.
_NUMERIC = (
    "deepspeed",
    "espeakng-loader",
    "numpy",
    "pyarrow",
    "safetensors",
    "soundfile",
    "soxr",
    "tokenizers",
    "torch",
)
_DATA = frozenset({".json", ".txt", ".toml", ".tsv", ".csv"})


@dataclass(frozen=True, slots=True)
class Closure:
    """The modules that a module reaches by imports at any level, functions included.

    Attributes:
        modules: Ours, sorted: those of the packages that were asked for.
        external: Top-level names of all others, sorted.
    """

    modules: tuple[str, ...]
    external: tuple[str, ...]


def closure(module: str, *extra: str) -> Closure:
    """Walk the imports of ``module`` and of ``extra`` modules, without importing any."""
    tops = {name.partition(".")[0] for name in (module, *extra)} | {"interloom"}
    pending = [module, *extra]
    ours: set[str] = set()
    external: set[str] = set()
    while pending:
        name = pending.pop()
        if name in ours:
            continue
        ours.add(name)
        pending += _packages_above(name)
        for imported in _imports(_source(name)):
            if imported.partition(".")[0] in tops:
                pending += _as_modules(imported)
            else:
                external.add(imported.partition(".")[0])
    return Closure(tuple(sorted(ours)), tuple(sorted(external)))


_STEADY: ContextVar[dict[tuple[str, ...], str] | None] = ContextVar("steady", default=None)


@contextmanager
def steady_code() -> Iterator[None]:
    """Within the block, or the outermost of several, each digest of code is computed once."""
    if _STEADY.get() is not None:
        yield
        return
    token = _STEADY.set({})
    try:
        yield
    finally:
        _STEADY.reset(token)


def code_digest(module: str, *extra: str) -> str:
    """The sha256 of the closure's files, the data beside them, the lock file and numeric packages.

    Raises:
        MissingError: The lock file is not beside the package.
    """
    known = _STEADY.get()
    if known is None:
        return _code_digest(module, *extra)
    if (module, *extra) not in known:
        known[module, *extra] = _code_digest(module, *extra)
    return known[module, *extra]


def _code_digest(module: str, *extra: str) -> str:
    digest = hashlib.sha256()
    for name in closure(module, *extra).modules:
        for path in _files(name):
            digest.update(f"{name}:{path.name}:{_file_digest(path)}\n".encode())
    digest.update(f"lock:{_file_digest(lock_file())}\n".encode())
    digest.update(f"python:{sys.version_info[:2]}:{platform.machine()}\n".encode())
    digest.update("\n".join(_numeric_versions()).encode())
    return digest.hexdigest()


def lock_file() -> Path:
    """``constraints.txt``: in the wheel's package, or at the root of the repository.

    Raises:
        MissingError: In neither.
    """
    package = _root("interloom")
    for path in (package / "constraints.txt", package.parent.parent / "constraints.txt"):
        if path.is_file():
            return path
    raise MissingError(
        f"constraints.txt is neither in {package} nor in {package.parent.parent}; "
        "it is part of every stage key: install from a wheel or from the repository"
    )


@cache
def _numeric_versions() -> tuple[str, ...]:
    versions = []
    for name in _NUMERIC:
        try:
            versions.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} is absent")
    return tuple(versions)


@cache
def _root(top: str) -> Path:
    """The folder of a top-level package, or the file of a top-level module."""
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        raise MissingError(f"the package {top!r} is not installed")
    origin = Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin


def _path(name: str) -> Path | None:
    """The file of one of our modules; None if ``name`` is not a module."""
    top, *inner = name.split(".")
    root = _root(top)
    if root.is_file():
        return None if inner else root
    folder = root.joinpath(*inner)
    if (folder / "__init__.py").is_file():
        return folder / "__init__.py"
    file = folder.with_suffix(".py")
    return file if inner and file.is_file() else None


def _source(name: str) -> Path:
    path = _path(name)
    if path is None:
        raise MissingError(f"there is no module {name!r}")
    return path


def _files(name: str) -> Iterator[Path]:
    """A module's file; for a package also the data files in its folder."""
    path = _source(name)
    yield path
    if path.name == "__init__.py" and path != _root("interloom") / "__init__.py":
        yield from sorted(file for file in path.parent.iterdir() if file.suffix in _DATA)


def _packages_above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _as_modules(imported: str) -> list[str]:
    """``a.b.c`` is a module, or the name ``c`` of the module ``a.b``."""
    if _path(imported) is not None:
        return [imported]
    above = imported.rpartition(".")[0]
    return [above] if above and _path(above) is not None else []


def _imports(path: Path) -> frozenset[str]:
    """Every dotted name that a file imports, at any level."""
    return _imports_of(path, path.stat().st_mtime_ns)


@cache
def _imports_of(path: Path, _modified_ns: int) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def _file_digest(path: Path) -> str:
    return _file_digest_of(path, path.stat().st_mtime_ns)


@cache
def _file_digest_of(path: Path, _modified_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
