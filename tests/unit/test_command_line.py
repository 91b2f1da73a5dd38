"""The command line: exit codes, and one clear line for each mistake."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import interloom
from interloom.core.errors import (
    ConfigError,
    DataError,
    InterloomError,
    LeaseLostError,
    MissingError,
    TransientError,
)
from interloom_flows.cli.outcome import conclude, exit_code_of
from interloom_flows.cli.screen import duration, size

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run"], 2, "Missing argument 'RECIPE'; see interloom --help"),
        (["frob"], 2, "No such command 'frob'"),
        (["plan", "starter", "--frob"], 2, "No such option: --frob"),
        (["runs", "--limit", "0"], 2, "Invalid value for '--limit'"),
        (["plan", "startr"], 69, "recipe 'startr' is not known; did you mean starter?"),
        (["plan", "mine.toml"], 69, "recipe mine.toml: there is no such file"),
        (["plan", "starter", "--set", "sed=1"], 64, "unknown key sed; did you mean seed?"),
        (["plan", "starter", "--set", "seed"], 64, "--set needs section.key=value, got 'seed'"),
        (["plan", "starter", "--set", "seed=-1"], 64, "seed: input should be greater than or"),
        (["plan", "starter", "--only", "mixx"], 64, "no stage 'mixx'; did you mean mix?"),
        (["runs", "0000"], 69, "no run begins with '0000'"),
        (["lineage"], 69, "no run is complete yet; start one with: interloom run starter"),
        (["diff", "a", "b"], 69, "no run begins with 'a'"),
        (["speak", "hello"], 69, "no run is complete yet that made decoder, text_to_token"),
        (["rebuild", "d"], 69, "no run is complete yet that made interleaved, text_tokenizer"),
        (["respeak", "d"], 69, "no run is complete yet that made decoder, interleaved"),
        (["rebuild"], 64, "name one ROW, or ask for --all of them"),
        (["rebuild", "d", "--all"], 64, "name one ROW, or ask for --all of them"),
        (["readmit"], 69, "no run is complete yet that made interleaved"),
        (["tokenize", "nothing.wav"], 69, "nothing.wav: there is no such file"),
        (["tokenize", "."], 64, "expected a recording, got a folder"),
        (["chat", "hello", "--audio", "x.wav"], 64, "give QUESTION or --audio, not both"),
        (["chat", "--audio", "x.wav"], 69, "x.wav: there is no such file"),
        (["data", "show", "mine"], 69, "mine"),
        (["data", "show", "mine@x"], 69, "no dataset is called 'mine'"),
        (["ingest", "text", "nowhere", "--name", "n"], 69, "there is no nowhere"),
        (["ingest", "text", "nowhere", "--name", "a b"], 64, "a name is up to 128 letters"),
        (["ingest", "text", "nowhere", "--name", "../up"], 64, "a name is up to 128 letters"),
        (["ingest", "text", "nowhere", "--name", "n" * 300], 64, "... of 300 characters"),
        (["ingest", "speech", ".", "--name", "n", "--consent", ""], 64, "--consent: String should"),
    ],
)
def test_a_mistake_is_one_line_with_an_exit_code(
    command: Command, arguments: list[str], code: int, message: str
) -> None:
    got, out, err = command(*arguments)

    assert (got, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("interloom: ")


def test_a_setting_that_cannot_be_read_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOOM_LEASE_TTL_S", "soon")

    code, _, err = command("runs")

    assert code == 64
    assert "INTERLOOM_LEASE_TTL_S" in err


KUBECONFIG = """{apiVersion: v1, kind: Config, current-context: x,
contexts: [{name: x, context: {cluster: x, user: x}}],
clusters: [{name: x, cluster: {server: "https://127.0.0.1:1"}}], users: [{name: x, user: {}}]}"""


@pytest.mark.parametrize(
    ("kubeconfig", "code", "message"),
    [
        (None, 64, "no cluster is known"),
        (KUBECONFIG, 75, "no API server answers at https://127.0.0.1:1"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_before_any_server_is_started(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kubeconfig: str | None,
    code: int,
    message: str,
) -> None:
    if kubeconfig is not None:
        (tmp_path / "kubeconfig").write_text(kubeconfig)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("INTERLOOM_LAUNCHER", "jobs")
    profile = Path(interloom.__file__).parents[2] / "infra/base/cluster-profile.json"
    monkeypatch.setenv("INTERLOOM_CLUSTER_PROFILE", str(profile))

    got, _, err = command("run", "smoke")

    assert got == code
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "home/prefect").exists()


def test_the_version_is_shown(command: Command) -> None:
    assert command("--version") == (0, "interloom 0.1.0\n", "")


def test_help_lists_every_verb(command: Command) -> None:
    code, out, _ = command("--help")

    verbs = "run plan evaluate runs lineage diff mixtures tokenize speak chat"
    verbs += " dashboard doctor ingest data"
    assert code == 0
    assert all(f"  {verb} " in out for verb in verbs.split())


@pytest.mark.parametrize("verb", ["run", "plan", "chat", "speak", "ingest", "data", "doctor"])
def test_every_verb_explains_itself(command: Command, verb: str) -> None:
    code, out, err = command(verb, "--help")

    assert (code, err) == (0, "")
    assert f"interloom {verb}" in out


def test_a_new_home_has_nothing_and_says_how_to_begin(command: Command) -> None:
    assert command("runs") == (0, "No run yet. Start one with: interloom run starter\n", "")
    assert "Start with: interloom run starter" in command("data", "list")[1]


def test_a_plan_shows_every_stage_and_writes_no_run(command: Command) -> None:
    code, out, _ = command("plan", "smoke")

    assert code == 0
    assert "12 of 12 stages would run" in out
    assert "evaluate" in out
    assert "No run yet" in command("runs")[1]


def test_doctor_says_what_this_machine_has(command: Command) -> None:
    code, out, err = command("doctor")

    assert (code, err) == (0, "")
    assert "processor cores" in out
    assert "torch" in out


def test_text_of_ones_own_is_taken_in_shown_and_exported(command: Command, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The cat sat on the mat.\n")

    taken = command("ingest", "text", "a.txt", "--name", "mine", "--licence", "CC0-1.0")

    assert taken[0] == 0
    assert "mine@1: 1 rows taken, 0 refused" in taken[1]
    assert "licences: CC0-1.0" in command("data", "show", "mine@1")[1]
    assert command("data", "export", "mine", "--to", "out")[0] == 0
    assert (tmp_path / "out" / "mine.dvc").is_file()


def test_a_busy_port_is_named_with_another_to_try(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        code, _, err = command("dashboard", "--port", str(port))

    assert code == 64
    assert f"port {port} of 127.0.0.1 cannot be used" in err
    assert "interloom dashboard --port" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 64),
        (DataError("x"), 65),
        (MissingError("x"), 69),
        (TransientError("x"), 75),
        (LeaseLostError("x"), 75),
        (InterloomError("x"), 1),
    ],
)
def test_each_class_of_error_has_its_exit_code(error: InterloomError, code: int) -> None:
    assert exit_code_of(error) == code


def test_a_bug_is_one_line_and_leaves_its_traceback_in_a_log(tmp_path: Path) -> None:
    said: list[str] = []

    def broken() -> int:
        raise ZeroDivisionError("of course")

    assert conclude(broken, said.append, tmp_path) == 1
    (log,) = (tmp_path / "logs").iterdir()
    assert said == [f"interloom: this is a bug: ZeroDivisionError: of course; see {log}"]
    assert "in broken" in log.read_text()


def test_an_interrupt_says_that_the_run_can_go_on(tmp_path: Path) -> None:
    said: list[str] = []

    def interrupted() -> int:
        raise KeyboardInterrupt

    assert conclude(interrupted, said.append, tmp_path) == 130
    assert "run the same command again and it goes on" in said[0]


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    said: list[str] = []

    def cut() -> int:
        raise BrokenPipeError

    assert conclude(cut, said.append, tmp_path) == 0
    assert said == []


def test_seconds_and_bytes_are_said_in_words() -> None:
    assert [duration(s) for s in (None, 7.4, 600, 9000)] == ["?", "7 s", "10 min", "2.5 h"]
    assert [size(n) for n in (12, 1500, 2_500_000, 3_000_000_000)] == [
        "12 B",
        "1.5 kB",
        "2.5 MB",
        "3.0 GB",
    ]
