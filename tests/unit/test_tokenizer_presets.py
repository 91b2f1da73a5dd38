import tomllib

import pytest
import torch

from interloom.config.recipe import recipe_of
from interloom.config.speech_tokenizer import RATES_HZ, SIZES, p1_tokenizer
from interloom.core.errors import ConfigError
from interloom.speech_tokenizer.model import TokenizerModel
from interloom_flows.cli.application import run_command


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_every_size_has_every_rate(size: str, rate_hz: str) -> None:
    config = p1_tokenizer(size, rate_hz)

    assert 16_000 / config.encoder.samples_per_token == float(rate_hz)
    assert config.quantizer.codebook_size == {"12.5": 16_384, "6.25": 65_536}.get(rate_hz, 4096)
    assert config.encoder.quantize_after_layer * 2 == config.encoder.num_layers


def test_at_the_lowest_rate_the_second_position_table_is_rounded_up() -> None:
    with torch.device("meta"):
        encoder = TokenizerModel(p1_tokenizer("tiny", "6.25"), 300).encoder

    assert encoder.embed_positions2.weight.shape == (188, 384)
    assert encoder.codebook.weight.shape == (65_536, 384)


@pytest.mark.parametrize(
    ("size", "rate_hz", "message"),
    [
        ("huge", "12.5", "the sizes of Whisper are tiny, .*, got 'huge'"),
        ("tiny", "10", r"pooled to 50, 25, 12\.5, 6\.25 Hz; got '10'"),
    ],
)
def test_what_there_is_not_is_refused(size: str, rate_hz: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        p1_tokenizer(size, rate_hz)


def test_the_command_prints_a_complete_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["preset", "base", "25"]) == 0

    recipe = recipe_of(tomllib.loads(capsys.readouterr().out))
    assert recipe.name == "tokenizer-base-25hz"
    assert recipe.tokenizer == p1_tokenizer("base", "25")
