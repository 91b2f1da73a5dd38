"""``data``: published data sets and models, and the store that holds them."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interloom_flows.cli import screen
from interloom_flows.cli.services import opened

if TYPE_CHECKING:
    from interloom.bootstrap import Services
    from interloom.ports.catalog import DatasetVersion
    from interloom.ports.store import ArtifactStore
    from interloom_flows.data.copies import Copied

app = typer.Typer(
    help="Data sets and models: show, name, check, heal, copy, export, clean up.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_DAMAGED = 65  # as for data that breaks its contract

NameArgument = Annotated[
    str,
    typer.Argument(metavar="NAME[@VERSION]", help="As data list shows it; @ALIAS works too."),
]
NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME[@VERSION]...]", help="All that is published, if none is named."),
]
StoreOption = Annotated[
    str,
    typer.Option(metavar="STORE", help="A folder, or s3://bucket/prefix; a DVC remote will do."),
]


@app.command("list")
def list_() -> None:
    """List published data sets and models, newest first."""
    with opened() as services:
        versions = services.catalog.datasets()
    if not versions:
        screen.out().print("Nothing is published yet. Start with: interloom run starter")
        return
    shown = screen.table("", "name", ">version", "kind", ">size", "id")
    for version in versions:
        shown.add_row(
            version.name,
            str(version.version),
            version.ref.kind.value,
            screen.size(version.num_bytes),
            version.ref.id[:12],
        )
    screen.out().print(shown)


@app.command("show")
def show(name: NameArgument) -> None:
    """Show one data set or model: its shards, counts, licences, consents, facts and checks."""
    from interloom.corpora.permission import consents_of
    from interloom_flows.planning import dataset_named

    with opened() as services:
        version = dataset_named(services.catalog, name)
        manifest = services.store.manifest(version.ref)
        checks = services.catalog.checks(version.ref)
        aliases = {one.alias: one.version for one in services.catalog.aliases(version.name)}
    held = sorted(alias for alias, at in aliases.items() if at == version.version)
    lines: Mapping[str, object] = {
        "id": version.ref.id,
        "kind": version.ref.kind.value,
        "aliases": ", ".join(held) or "none",
        "published": version.published_at[:19].replace("T", " "),
        "size": screen.size(version.num_bytes),
        "licences": ", ".join(version.licences) or "none given",
        **(
            {"consent of the speakers": ", ".join(heard)}
            if (heard := consents_of(manifest))
            else {}
        ),
        "made from": ", ".join(str(parent) for parent in manifest.parents) or "nothing",
        **{
            f"number of {key.replace('_', ' ')}": f"{value:,}"
            for key, value in version.counts.items()
        },
        **manifest.facts,
    }
    screen.put(f"{version.name}, version {version.version}")
    _say_all(f"  {key}: {value}" for key, value in lines.items())
    _say_all(f"  shard {one.path}: {screen.size(one.num_bytes)}" for one in manifest.shards)
    for check in checks:
        verdict = "holds" if check.success else "DOES NOT HOLD"
        screen.put(f"  check {check.expectation}: {verdict}, {check.observed}")


@app.command("diff")
def diff(first: NameArgument, second: NameArgument) -> None:
    """Compare two data sets or models: shards, counts, licences, facts."""
    from interloom_flows.data.changes import describe_changes
    from interloom_flows.planning import dataset_named

    with opened() as services:
        was, now = (
            services.catalog.manifest(dataset_named(services.catalog, name).ref)
            for name in (first, second)
        )
    lines = list(describe_changes(was, now))
    _say_all(lines or ["They are the same."])


@app.command("tag")
def tag(
    name: NameArgument,
    alias: Annotated[
        str | None, typer.Argument(metavar="[ALIAS]", help="Such as production.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away.")] = False,
) -> None:
    """Give a version an alias, or show the aliases of a name; an alias keeps data from gc."""
    from interloom.core.errors import ConfigError
    from interloom_flows.planning import dataset_named

    with opened() as services:
        version = dataset_named(services.catalog, name)
        if alias is None:
            for one in services.catalog.aliases(version.name):
                what = f"version {one.version}" if one.version is not None else "taken away"
                screen.put(f"{one.at[:16].replace('T', ' ')}  {one.alias}: {what}, by {one.who}")
            return
        if not alias.replace("-", "").replace("_", "").isalnum() or alias[0].isdigit():
            raise ConfigError(
                "an alias has letters, digits, '-' and '_', and begins with a letter; "
                f"got {alias!r}"
            )
        services.catalog.tag(version.name, alias, None if remove else version.version, _user())
    verb = "is no longer an alias of" if remove else "now stands for"
    screen.put(f"{version.name}@{alias} {verb} version {version.version}")


@app.command("rows")
def rows(
    name: NameArgument,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A new folder.")],
    form: Annotated[
        str, typer.Option("--as", help="megatron (.bin and .idx), webdataset or parquet.")
    ] = "parquet",
) -> None:
    """Write packed rows for other programs: Megatron files, WebDataset shards or Parquet."""
    from interloom.config.overrides import nearest
    from interloom.core.artifacts import ArtifactKind
    from interloom.core.errors import ConfigError
    from interloom.mixture.exporting import RowFormat, export_rows
    from interloom_flows.planning import dataset_named

    forms = [one.value for one in RowFormat]
    if form not in forms:
        raise ConfigError(
            f"rows are written as {', '.join(forms)}, not {form!r}{nearest(form, forms)}"
        )
    with opened() as services:
        version = dataset_named(services.catalog, name)
        if version.ref.kind is not ArtifactKind.PACKED_ROWS:
            raise ConfigError(f"{name} is a {version.ref.kind}, not {ArtifactKind.PACKED_ROWS}")
        paths = export_rows(services.store, version.ref, to, RowFormat(form))
    for path in paths:
        screen.put(str(path))


@app.command("export")
def export(
    name: NameArgument,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder for NAME.dvc.")],
) -> None:
    """Write a .dvc file, so that dvc pull fetches the data without Interloom."""
    from interloom.adapters.dvc_export import export_dvc, remote_options
    from interloom_flows.planning import dataset_named

    with opened() as services:
        version = dataset_named(services.catalog, name)
        path = export_dvc(
            services.store.manifest(version.ref),
            version.name.replace("/", "-"),
            to,
            remote=remote_options(services.store.url, services.settings.s3),
        )
        needs_keys = services.store.url.startswith("s3://")
    if version.ref.kind.value == "external":
        screen.put(f"{path}; fetch it: cd {to} && dvc update {path.name}")
        return
    keys = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, then " if needs_keys else ""
    screen.put(f"{path}; fetch it: {keys}cd {to} && dvc pull")


@app.command("import-url")
def import_url(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="A path, or what DVC reads: s3://, https://, ...")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="Publish it under this name.")],
    licence: Annotated[
        str, typer.Option(metavar="SPDX", help="Of what is there.")
    ] = "LicenseRef-unknown",
) -> None:
    """Publish data that stays where it is: its address and version are kept, nothing is copied."""
    from interloom.adapters.dvc_export import checked_name
    from interloom_flows.data.copies import register

    with opened() as services, screen.err().status(f"Asking for the version of {name}"):
        version = register(services, url, checked_name(name), licence=licence)
        facts = services.catalog.facts(version.ref)
    screen.put(f"{version.name}@{version.version}: {facts['url']}, {facts.get('size', '?')} bytes")
    screen.put(
        f"fetch it: interloom data export {version.name} --to DIR && cd DIR && dvc update *.dvc"
    )


@app.command("verify")
def verify(
    names: NamesArgument = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Hash a sample of the bytes instead of all.")
    ] = False,
) -> None:
    """Read what the store holds and name every object that is missing or damaged."""
    from interloom_flows.data.wholeness import check

    num_damaged = num_checked = 0
    with opened() as services:
        versions = _versions(services, names)
        checked = check(services.catalog, services.store, versions, every_byte=not sample)
        for one in checked:
            num_checked += 1
            num_damaged += bool(one.damages)
            _say_all(
                f"{one.version.name}@{one.version.version}: {damage}" for damage in one.damages
            )
    if num_damaged:
        screen.put(
            f"{num_damaged} of {num_checked} artifacts are damaged; mend: interloom data heal"
        )
        raise typer.Exit(_DAMAGED)
    screen.put(f"{num_checked} artifacts are whole.")


@app.command("heal")
def heal(
    names: NamesArgument = None,
    from_: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="STORE", help="Where copies are; may be given repeatedly."),
    ] = None,
) -> None:
    """Write anew what is missing or damaged, from this machine's cache or from other stores."""
    from interloom_flows.data.wholeness import check
    from interloom_flows.data.wholeness import heal as mend

    num_left = 0
    with opened() as services:
        sources = [_other_store(services, url) for url in from_ or []]
        checked = list(check(services.catalog, services.store, _versions(services, names)))
        for one in mend(services.catalog, services.store, checked, sources):
            label = f"{one.version.name}@{one.version.version}"
            _say_all(f"{label}: healed {damage}" for damage in one.mended)
            if one.remaining:
                num_left += 1
                screen.put(f"{label}: still damaged: {one.remaining}")
    if num_left:
        raise typer.Exit(_DAMAGED)
    screen.put(f"{len(checked)} artifacts are whole.")


@app.command("push")
def push(
    to: StoreOption,
    names: NamesArgument = None,
    parents: Annotated[
        bool, typer.Option("--parents", help="What they were made from, too.")
    ] = False,
) -> None:
    """Copy data sets and models into another store; what it has is not sent again."""
    from interloom_flows.data.copies import push as copy

    with opened() as services:
        target = _other_store(services, to)
        copied = copy(services, _versions(services, names), target, parents=parents)
    _show_copied(copied, to)


@app.command("pull")
def pull(
    what: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION]|FILE.dvc", help="A .dvc file: see data export.")
    ],
    from_: Annotated[str, typer.Option("--from", metavar="STORE", help="Where it is.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="To publish what a .dvc file names under.")
    ] = None,
) -> None:
    """Copy a data set or model from another store into this one; publish it if it is new."""
    from interloom.adapters.dvc_export import checked_name, read_dvc_file
    from interloom_flows.data.copies import pull_known, pull_new
    from interloom_flows.planning import dataset_named

    with opened() as services:
        source = _other_store(services, from_)
        if not what.endswith(".dvc"):
            version = dataset_named(services.catalog, what)
            _show_copied(pull_known(services, [version], source), services.store.url)
            return
        file = Path(what)
        under = checked_name(name or file.stem)
        copied, version = pull_new(services, read_dvc_file(file), under, source)
        _show_copied([copied], services.store.url)
        screen.put(f"published as {version.name}@{version.version}")


@app.command("gc")
def gc(
    keep: Annotated[int, typer.Option(help="Newest versions of each name to keep.", min=1)] = 1,
    older_than_h: Annotated[
        float, typer.Option("--older-than-hours", help="Leave alone what is younger.", min=0.0)
    ] = 24.0,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Also artifacts that this catalog does not know.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Really remove it.")] = False,
) -> None:
    """Show what no live version is or was made from, and with --remove, remove it."""
    from interloom.stages.leasing import alone
    from interloom_flows.data.garbage import describe, find_garbage, remove_garbage

    grace_s = older_than_h * 3600
    with ExitStack() as stack:
        services = stack.enter_context(opened())
        catalog, store = services.catalog, services.store
        if remove:
            stack.enter_context(alone(catalog, ttl_s=services.settings.lease_ttl_s))
        found = find_garbage(catalog, store, keep=keep, grace_s=grace_s, unknown=unknown)
        _say_all(f"not needed: {line}" for line in describe(found.artifacts, catalog))
        if found.unknown and not unknown:
            screen.put(
                f"left alone: {len(found.unknown)} artifacts of another catalog; see --unknown"
            )
        screen.put(
            f"{found.num_needed} artifacts are needed; {len(found.manifests)} are not, with "
            f"{len(found.objects)} objects, {screen.size(found.num_bytes)} in all"
        )
        if not remove:
            screen.put("Nothing was removed. To remove it: the same command with --remove")
            return
        freed = remove_garbage(catalog, store, found, grace_s=grace_s, who=_user())
    screen.put(f"{screen.size(freed)} freed.")


def _versions(services: "Services", names: Sequence[str] | None) -> "Sequence[DatasetVersion]":
    """Those that are named, or all."""
    from interloom_flows.planning import dataset_named

    if not names:
        return services.catalog.datasets()
    return [dataset_named(services.catalog, name) for name in names]


def _other_store(services: "Services", url: str) -> "ArtifactStore":
    """A store beside the installation's own.

    Raises:
        ConfigError: It is the same.
    """
    from interloom.bootstrap import open_store
    from interloom.core.errors import ConfigError

    store = open_store(services.settings, url)
    if store.url == services.store.url:
        raise ConfigError(f"{url} is this installation's own store; name another one")
    return store


def _show_copied(copied: "Sequence[Copied]", where: str) -> None:
    for one in copied:
        what = (
            f"{one.num_shards} shards, {screen.size(one.num_bytes)}"
            if one.num_shards
            else "was there already"
        )
        screen.put(f"{one.ref}: {what}")
    screen.put(f"{len(copied)} artifacts are whole in {where}")


def _say_all(lines: Iterable[str]) -> None:
    for line in lines:
        screen.put(line)


def _user() -> str:
    import getpass

    return getpass.getuser()
