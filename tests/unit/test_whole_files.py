"""Files that are there whole or not at all."""

from pathlib import Path

import pytest

from interloom.core.files import written_whole


def test_a_file_has_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows"

    with written_whole(path) as partial:
        partial.write_text("half")
        assert not path.exists()

    assert path.read_text() == "half"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "rows"

    with written_whole(path) as first:
        first.write_text("of the pod that was deleted by force")
        with written_whole(path) as second:
            second.write_text("of the one in its place")
        assert path.read_text() == "of the one in its place"

    assert path.read_text() == "of the pod that was deleted by force"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("before")

    def fail() -> None:
        with written_whole(path) as partial:
            partial.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()

    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
