"""What a flow run that is told to end does with its jobs."""

import signal

import pytest
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_API_URL, temporary_settings

from interloom_flows.pools import is_moving

pytestmark = pytest.mark.slow
RUN_ID = "0f1e2d3c-0000-4000-8000-000000000000"


def test_an_error_of_a_stage_ends_its_jobs() -> None:
    assert not is_moving(ValueError("a stage failed"))


def test_jobs_go_on_while_no_server_can_say_whether_the_run_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", RUN_ID)

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        assert is_moving(TerminationSignal(signal=signal.SIGTERM))
