"""``deploy``: what a Prefect server offers."""

from pathlib import Path
from typing import Annotated

import typer

from interloom_flows.cli import screen


def deploy(
    diff: Annotated[
        bool, typer.Option("--diff", help="Show what would change, and change nothing.")
    ] = False,
    file: Annotated[Path, typer.Option("--file", help="What shall be on the server.")] = Path(
        "prefect.yaml"
    ),
) -> None:
    """Bring the Prefect server of PREFECT_API_URL to what prefect.yaml says."""
    from interloom.config.environment import environment
    from interloom.config.settings import load_settings
    from interloom.core.errors import ConfigError
    from interloom_flows.prefect_home import prefect_api

    settings = load_settings()
    url = settings.prefect_api_url or environment().get("PREFECT_API_URL")
    if not url:
        raise ConfigError("no Prefect server is named; set PREFECT_API_URL to the server's address")
    with prefect_api(settings.home, url):
        from interloom_flows.deploying import deploy as changes_of
        from interloom_flows.deployments import load_deployments

        wanted = load_deployments(file)
        root = file.absolute().parent
        changes = list(changes_of(wanted, root, applies=False))
        for change in changes:
            screen.out().print(f"{'would change' if diff else 'changes'} {change}", markup=False)
        if not changes:
            screen.out().print("The server is as it shall be: nothing to change.")
        elif not diff:
            done = sum(1 for _ in changes_of(wanted, root, applies=True))
            screen.out().print(f"{done} changes made.")
