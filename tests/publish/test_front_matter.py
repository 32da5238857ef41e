"""Front matter: a person's lines stay as they are, and what cannot be read is no metadata."""

import pytest

from abd_hub.publish.front_matter import front_matter, join_card, license_of, split_card, tags

CARD = """---
# a comment of somebody's
license: "mit"  # and another
language:
- en
tags: [abd-hub, mine]
---

# Text

---
not: front matter
---
"""


def test_lines_come_back_to_the_letter():
    lines, body = split_card(CARD)
    assert list(lines) == ["", "license", "language", "tags"]
    assert lines["language"] == "language:\n- en\n"
    assert body.startswith("\n# Text")
    assert join_card(lines, body) == CARD


def test_data():
    assert front_matter(CARD) == {"license": "mit", "language": ["en"], "tags": ["abd-hub", "mine"]}
    assert tags(CARD) == ["abd-hub", "mine"]
    assert license_of(CARD) == "mit"


@pytest.mark.parametrize(
    "card",
    ["", "# Text\n", "---\n---\n", "---\n- a\n---\n", "---\na: [\n---\n", "--\na: b\n---\n", "---\na: b\n"],
)
def test_no_metadata(card):
    assert front_matter(card) == {} and tags(card) == [] and license_of(card) is None


def test_the_end_of_the_card_may_end_the_front_matter():
    assert split_card("---\nlicense: mit\n---") == ({"license": "license: mit\n"}, "")
    assert split_card("---\n---\nText\n---\n") == ({}, "Text\n---\n")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("license: apache-2.0", "apache-2.0"),
        ("license: 'openrail++'", "openrail++"),
        ("license: [mit]", None),
        ("license: My own", None),
        ("license: &a [*a]", None),
        ("license:", None),
        ("license_name: mit", None),
    ],
)
def test_a_license_is_a_name_of_the_hub(line, found):
    # The rest may be broken: the license is kept all the same.
    assert license_of(f"---\nbroken: [\n{line}\n---\n") == found


def test_tags_that_are_no_list():
    assert tags("---\ntags: abd-hub\n---\n") == []
