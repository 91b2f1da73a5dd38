"""Model and data cards, written from lineage: nothing in them is told by hand."""

from collections.abc import Iterator, Sequence

from interloom.core.artifacts import ArtifactRef
from interloom.corpora.permission import consents_of
from interloom.ports.catalog import Catalog, Metric
from interloom_flows.tracing import ArtifactLineage, Made, artifact_lineage

_MOST_RESULTS = 60


def card(catalog: Catalog, artifact: ArtifactRef, *, currency: str) -> str:
    """The card of a model or data set, in Markdown.

    Args:
        catalog: Knows its lineage.
        artifact: What the card is of.
        currency: Of the prices in the catalog.

    Raises:
        MissingError: It is not published.
    """
    held = artifact_lineage(catalog, artifact)
    parts = [
        _heading(held),
        _licences(catalog, held),
        _consents(catalog, held),
        _sources(catalog, held),
        _mixture(catalog, held),
        _making(catalog, held, currency),
        _results(catalog.results(held.subject.run.run_id)),
        _checks(catalog, held),
        _use(held),
    ]
    written = [list(part) for part in parts]
    return "\n".join("\n".join(part) + "\n" for part in written if part)


def _heading(held: ArtifactLineage) -> Iterator[str]:
    subject = held.subject
    kind = "Model" if subject.artifact.kind.is_model else "Data"
    yield f"# {kind} card: {_name(subject)}"
    yield ""
    yield f"- what: {subject.artifact.kind.value.replace('_', ' ')}"
    yield f"- id: `{subject.artifact.id}` (sha256 of its manifest)"
    yield f"- named: {', '.join(subject.names) or 'it has no name'}"
    at = (subject.run.ended_at or subject.run.started_at)[:16].replace("T", " ")
    yield f"- made: {at} UTC"
    yield f"- by: stage `{subject.run.job}` of recipe `{subject.run.recipe}`"
    yield f"- run: `{subject.run.run_id}`, code `{subject.run.code_digest[:12] or 'none'}`"


def _licences(catalog: Catalog, held: ArtifactLineage) -> Iterator[str]:
    """The licences of everything that went in, whatever later manifests say."""
    by_licence: dict[str, list[str]] = {}
    for made in (*held.ancestors, held.subject):
        for version in catalog.names([made.artifact])[:1]:
            for tag in version.licences:
                by_licence.setdefault(tag, []).append(version.name)
    yield "## Licences"
    yield ""
    for tag, names in sorted(by_licence.items()):
        yield f"- {tag}: {', '.join(sorted(set(names)))}"
    if not by_licence:
        yield "No licence is recorded of anything that went in."


def _consents(catalog: Catalog, held: ArtifactLineage) -> Iterator[str]:
    """What the speakers of everything that went in agreed to."""
    by_consent: dict[str, list[str]] = {}
    for made in (*held.ancestors, held.subject):
        for tag in consents_of(catalog.manifest(made.artifact)):
            by_consent.setdefault(tag, []).append(_name(made).rpartition("@")[0] or _name(made))
    yield "## Consent of the speakers"
    yield ""
    for tag, names in sorted(by_consent.items()):
        yield f"- {tag}: {', '.join(sorted(set(names)))}"
    if not by_consent:
        yield "Nobody is heard in anything that went in."


def _sources(catalog: Catalog, held: ArtifactLineage) -> Iterator[str]:
    roots = [made for made in held.ancestors if made.artifact.kind.value.endswith("_corpus")]
    if not roots:
        return
    yield "## Data it was made from"
    yield ""
    yield "| corpus | version | rows | hours of speech |"
    yield "| --- | --- | --- | --- |"
    for made in roots:
        for version in catalog.names([made.artifact])[:1]:
            hours = version.counts.get("samples", 0) / 16_000 / 3600
            rows = version.counts.get("rows", 0)
            yield f"| {version.name} | {version.version} | {rows:,} | {hours:.2f} |"


def _mixture(catalog: Catalog, held: ArtifactLineage) -> Iterator[str]:
    runs = dict.fromkeys(made.run.run_id for made in (*held.ancestors, held.subject))
    components = [part for run_id in runs for part in catalog.mixture(run_id)]
    if not components:
        return
    yield "## Mixture"
    yield ""
    yield "| source | tokens asked | tokens drawn | passes |"
    yield "| --- | --- | --- | --- |"
    for part in components:
        yield (
            f"| {part.source} | {part.tokens_asked:,} | {part.tokens_drawn:,} | {part.epochs:.2f} |"
        )


def _making(catalog: Catalog, held: ArtifactLineage, currency: str) -> Iterator[str]:
    run = held.subject.run
    yield "## How it was made"
    yield ""
    for point in catalog.checkpoints(held.subject.artifact)[:1]:
        yield f"- trained for {point.step:,} optimizer steps"
    machine = run.numeric_class.strip("|").replace("|", ", ") or "not recorded"
    yield f"- machine: {machine}; {run.num_ranks} ranks of {run.threads_per_rank} threads"
    yield f"- this stage: {run.usage.wall_s:.0f} s, {run.usage.gpu_hours:.2f} GPU-hours"
    yield (
        f"- with all that it was made from: {held.cpu_hours:.2f} processor hours, "
        f"{held.gpu_hours:.2f} GPU-hours, {held.price:.2f} {currency}"
    )


def _results(results: Sequence[Metric]) -> Iterator[str]:
    if not results:
        return
    yield "## Results"
    yield ""
    yield "| result | value |"
    yield "| --- | --- |"
    for metric in results[:_MOST_RESULTS]:
        yield f"| {metric.name} | {metric.value:.4g} |"
    if len(results) > _MOST_RESULTS:
        yield f"| and {len(results) - _MOST_RESULTS} more | |"


def _checks(catalog: Catalog, held: ArtifactLineage) -> Iterator[str]:
    artifact = held.subject.artifact
    checks, verdicts = catalog.checks(artifact), catalog.verifications(artifact)
    yield "## Checks"
    yield ""
    for check in checks:
        verdict = "holds" if check.success else "does not hold"
        yield f"- {check.suite}: {check.expectation}: {verdict}, {check.observed}"
    for verified in verdicts:
        yield f"- made again at {verified.at[:16]}: {verified.verdict}: {verified.detail}"
    if not checks and not verdicts:
        yield "None yet. Make it again and compare: `interloom verify NAME@VERSION`."


def _use(held: ArtifactLineage) -> Iterator[str]:
    named = [made for made in held.descendants if made.names]
    if not named:
        return
    yield "## Used by"
    yield ""
    for made in named:
        yield f"- {_name(made)} ({made.artifact.kind.value.replace('_', ' ')})"


def _name(made: Made) -> str:
    return made.names[0] if made.names else str(made.artifact)
