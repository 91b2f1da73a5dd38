"""``interloom plan``: tokens by source, and pre-training on paper."""

from collections.abc import Callable
from pathlib import Path

import pytest

from interloom_flows.cli.application import run_command
from interloom_flows.cli.estimating import number, show_asked
from interloom_flows.recipes import load_recipe

Plan = Callable[..., str]


@pytest.fixture
def plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Plan:
    """Plans a recipe in a home of its own; gives what is printed."""
    monkeypatch.setenv("INTERLOOM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        assert run_command(["plan", *arguments]) == 0
        return capsys.readouterr().out

    return run


def _value(out: str, name: str) -> str:
    return next(line for line in out.splitlines() if line.startswith(name)).split()[-1]


def test_p1_is_planned_on_paper_before_its_corpora_are_there(plan: Plan) -> None:
    out = plan("p1-9b")

    assert "Cannot run yet: no dataset is called 'p1-speech'" in out
    assert "interleaved  734.00 B  654.50 B  65.5%    0.89" in out
    assert "parameters                          9.53 B" in out
    assert _value(out, "vocabulary") == "167,947"
    assert float(_value(out, "GPU-hours").replace(",", "")) == pytest.approx(38_150, rel=0.01)
    assert [line.split()[0] for line in out.splitlines()[-4:]] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("name", "parameters", "tokens", "hours"),
    [("lst-1b", "1.53 B", "129.84 B", 695.5), ("lst-7b", "7.32 B", "129.84 B", 3_181)],
)
def test_p2_is_planned_on_paper(
    plan: Plan, name: str, parameters: str, tokens: str, hours: float
) -> None:
    out = plan(name)

    assert f"parameters {parameters}" in " ".join(out.split())
    assert f"tokens trained on {tokens}" in " ".join(out.split())
    assert _value(out, "tokens of a row") == "5,072"
    assert _value(out, "vocabulary") == "32,512"
    assert float(_value(out, "GPU-hours").replace(",", "")) == pytest.approx(hours, rel=0.01)


def test_hours_hang_on_the_gpus(plan: Plan) -> None:
    fast, slow = (plan("p1-1.5b", "--mfu", mfu) for mfu in ("0.5", "0.25"))

    hours = [float(_value(out, "GPU-hours").replace(",", "")) for out in (fast, slow)]
    assert hours[1] == pytest.approx(2 * hours[0], rel=1e-3)


def test_a_mixture_that_cannot_be_is_explained(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_command(["plan", "p1-9b", "--set", "mixture.text.budget.share=0.99"])

    assert code == 64
    assert "that is" in (said := capsys.readouterr().err)
    assert "text 990000000000 (share 0.99), speech 31000000000 (1 epochs)" in said


def test_only_the_mixture_is_planned_when_asked_for(plan: Plan) -> None:
    out = plan("p1-9b", "--only", "mix")

    assert "Tokens by source, sizes as expected" in out
    assert "Pre-training on paper" not in out


def test_what_was_drawn_stands_beside_what_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    results = {
        "mix/asked/text": 300.0,
        "mix/drawn/text": 297.0,
        "mix/epochs/text": 0.5,
        "mix/drawn/modality/text": 600.0,
        "mix/drawn/modality/speech": 400.0,
        "mix/asked/licence/CC0-1.0": 1000.0,
        "mix/drawn/licence/CC0-1.0": 1000.0,
    }

    show_asked(load_recipe("starter"), results)

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["text", "300", "297", "29.7%", "0.50"] in lines
    assert ["modality", "speech", "400", "40.0%"] in lines
    assert ["licence", "CC0-1.0", "1,000", "1,000", "100.0%"] in lines


def test_sizes_of_the_last_run_tell_what_another_mixture_asks_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = load_recipe(
        "starter",
        ["mixture.total_tokens=1000", "mixture.text.budget.share=0.2", "mixture.text.max_epochs=1"],
    )
    sizes = {"text": 400, "speech": 100, "transcribe": 120, "speak": 120, "interleaved": 920}

    show_asked(recipe, None, {f"mix/size/{name}": float(size) for name, size in sizes.items()})

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["text", "400", "200", "20.0%", "0.50"] in lines
    assert ["interleaved", "920", "460", "46.0%", "0.50"] in lines


@pytest.mark.parametrize(
    ("value", "said"), [(999, "999"), (1.5e6, "1.50 M"), (9.53e9, "9.53 B"), (1e12, "1.00 T")]
)
def test_counts_are_said_in_units(value: float, said: str) -> None:
    assert number(value) == said
