"""This module makes the model card of a purified copy, which claims nothing that was not measured."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import ModelCardData

from abd_hub.core.records import PurifiedRecord
from abd_hub.publish import plugin_facts
from abd_hub.publish.card import check_names, hub_id
from abd_hub.publish.card_results import result_rows
from abd_hub.publish.card_snippets import snippets, transformers_snippet
from abd_hub.publish.cleaning import cleaning, trigger_pictures
from abd_hub.publish.front_matter import TAG
from abd_hub.publish.own_parts import sealed
from abd_hub.publish.templates import render


def render_purified_card(
    record: PurifiedRecord,
    labels: Sequence[str],
    pictures: Sequence[tuple[str, str]] = (),
    *,
    license_id: str | None = None,
    repo_id: str | None = None,
    channels: int = 3,
) -> str:
    """Returns README.md of a purified copy's folder; the same input gives the same card.

    Args:
        record: the record of the purification.
        labels: label names in order.
        pictures: (file relative to the card, caption) of each picture.
        license_id: the Hub's name of the license; None leaves the license out.
        repo_id: the copy's repository on the Hub; None shows how to load the folder.
        channels: the channels of the copy's input.

    Raises:
        InputError: repo_id is not of the form ``owner/name``, license_id is no name of a license, or a field
            of the report is missing or has the wrong type.
    """
    check_names(repo_id, license_id)
    if record.library == "transformers":
        programs = transformers_snippet(repo_id, channels)
    else:
        programs = snippets(record.model.architecture, repo_id, channels)
    text = render(
        "purified",
        record=record,
        pictures=pictures,
        labels=labels,
        programs=programs,
        citations=list(dict.fromkeys(plugin_facts.cleaning_citations(record.purification))),
        cleaned=cleaning(record.purification, labels),
        results=list(result_rows({"copy": record.report}, controlled=False)) if record.report else [],
    )
    return sealed(_card_data(record, license_id).to_yaml(), text)


def purified_pictures(record: PurifiedRecord, labels: Sequence[str]) -> list[tuple[str, str]]:
    """Returns (file, caption) of every picture that the purification may write."""
    return list(trigger_pictures(record.purification, labels))


def _card_data(record: PurifiedRecord, license_id: str | None) -> ModelCardData:
    library = "transformers" if record.library == "transformers" else "timm"
    return ModelCardData(
        library_name=library,
        pipeline_tag="image-classification",
        tags=["image-classification", library, "purified", TAG],
        base_model=hub_id(record.teacher),
        license=license_id,
    )
