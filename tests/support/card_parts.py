"""A card in parts: its metadata, its text and its blocks of code."""

import re

import yaml
from huggingface_hub import ModelCard


def front_matter(card):
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def split_fences(body):
    """The text outside blocks of code, and (language, content) of each, by Markdown's own rule: a block ends
    with a line of at least as many ticks and nothing else."""
    outside, blocks, open_block = [], [], None
    for line in body.split("\n"):
        ticks = re.fullmatch(r" {0,3}(`{3,})([^`]*)", line)
        if open_block is None and ticks:
            open_block = (len(ticks[1]), ticks[2], [])
        elif open_block is None:
            outside.append(line)
        elif ticks and len(ticks[1]) >= open_block[0] and not ticks[2].strip():
            blocks.append((open_block[1], "\n".join(open_block[2])))
            open_block = None
        else:
            open_block[2].append(line)
    assert open_block is None
    return "\n".join(outside), blocks


def without_folds(body):
    """The text without our own HTML: the lines that fold a part of the card."""
    return re.sub(r"^(<!-- [A-Z].*? -->|</?details>|<summary>[A-Za-z, ]+</summary>)$", "", body, flags=re.M)


def fold(card, title):
    """The text of a part that is folded."""
    return card.partition(f"<summary>{title}</summary>\n\n")[2].partition("\n\n</details>")[0]


def front_matter_end(card):
    return card[ModelCard(card).content.index("\n---\n", 4) + 5 :]
