"""training.labels: the one list of labels."""

from pathlib import Path

import pytest

from training.errors import UserError
from training.labels import LABELS_FILE, Labels, load_labels


def test_outputs_are_ten_categories_one_flag_three_voices_in_order(labels: Labels) -> None:
    """The order of the ids is the order of the model's outputs, so it must not drift."""
    assert len(labels.category_ids) == 10
    assert labels.context_ids == ["minor_involved"]
    assert labels.voice_ids == ["direct", "testimony", "commentary"]
    assert labels.ids == [*labels.category_ids, "minor_involved", "direct", "testimony", "commentary"]


def test_every_category_can_be_shown_to_people(labels: Labels) -> None:
    """GET /labels promises a name, a definition, the law and a help line for each category."""
    for category in labels.categories:
        assert category.name and category.definition and category.law and category.help
    assert {"3018", "119", "17", "pharos"} <= labels.help_lines.keys()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('help: ["3018", "119"]', 'help: ["9999"]', "9999"),
        ("- id: racism", "- id: sexism", "stands twice"),
        ("version: 1", "version: 1\ncolour: red", "colour"),
    ],
    ids=["unknown help line", "repeated id", "unknown key"],
)
def test_a_wrong_list_is_refused_by_name(tmp_path: Path, old: str, new: str, expected: str) -> None:
    """A slip in the list would rename outputs silently."""
    changed = tmp_path / "labels.yaml"
    changed.write_text(LABELS_FILE.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError, match=expected):
        load_labels(changed)
