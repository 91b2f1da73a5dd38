import pytest

from interloom.text.scripts import main_script


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Hello, Иван!", "latin"),
        ("привет, Siri", "cyrillic"),
        ("\uff46\uff55\uff4c\uff4c width", "latin"),
        ("naïve µ", "latin"),
        ("今日", "cjk"),
        ("12 - 3", ""),
    ],
)
def test_the_script_of_most_letters(text: str, script: str) -> None:
    assert main_script(text) == script
