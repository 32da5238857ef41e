"""Makes a cleaner copy of a classifier: inspects it, purifies what is flagged, and inspects the copy."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from abd_hub.core import registry
from abd_hub.core.inspections import Inspection, InspectionReport
from abd_hub.core.purifications import Purification, PurificationReport
from abd_hub.core.records import ModelRef
from abd_hub.models.classifier import Classifier, weights_sha256
from abd_hub.runs.inspect import check_images, default_images, inspect_model


def purify_model(
    classifier: Classifier,
    *,
    images: Tensor | None = None,
    purification: Purification | None = None,
    inspection: Inspection | None = None,
    report: InspectionReport | None = None,
    force: bool = False,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> tuple[Classifier, PurificationReport]:
    """Makes a cleaner copy of a classifier, which stays as it is.

    A purification that needs suspects leaves a classifier alone that the inspection does not flag.

    Args:
        classifier: any, from ``load_classifier`` or made by hand.
        images: (n, C, H, W), uint8 or float in [0, 1], without labels. By default patches of the two
            photographs that scikit-learn brings along.
        purification: settings; by default trigger unlearning.
        inspection: settings of the inspections before and after; by default trigger inversion.
        report: an inspection of this classifier, which then is not inspected before.
        force: purify also what is not flagged, from the leading class of each family of triggers.
        seed: of every draw.
        device: where to compute; by default where the classifier is. Afterwards it is back where it was.

    Returns:
        The frozen copy on the device of the classifier, with a ``ref`` of its own, or the classifier itself
        where nothing was changed; and the report.

    Raises:
        InputError: the classifier, the images or the report do not allow a purification.
    """
    chosen = registry.get("purifications", "trigger_unlearning")() if purification is None else purification
    home = classifier.mean.device
    place = home if device is None else torch.device(device)
    if images is not None:
        check_images(images, classifier.spec)
    shown = default_images(classifier.spec, seed, place) if images is None else images.to(place)

    settings = registry.get("inspections", "trigger_inversion")() if inspection is None else inspection

    def inspected(one: Classifier, by: Inspection) -> InspectionReport:
        return inspect_model(one, images=shown, inspection=by, seed=seed, device=place)

    found = inspected(classifier, settings) if report is None and chosen.needs_suspects else report
    if found is not None and chosen.needs_suspects and not found.flagged and not force:
        return classifier, left_alone(found)
    try:
        copy, done = chosen.purify(classifier.to(place), shown, found, seed)
    finally:
        classifier.to(home)
    if not done.changed:
        return classifier, dataclasses.replace(done, inspected=found)

    # The plug-ins copy the name and the hash of the classifier along with it.
    copy.ref = _ref_of(copy, classifier.ref)
    again = inspected(copy, settings.again(found)) if found is not None else None
    return copy.to(home), dataclasses.replace(done, inspected=found, reinspected=again)


def _ref_of(copy: Classifier, origin: ModelRef) -> ModelRef:
    """Returns the name of a copy and the hash over its tensors; no commit or scan of the Hub is about it."""
    name = origin.id.removeprefix("hf-hub:").partition("@")[0].rpartition("/")[2]
    return ModelRef(f"{name}-purified", origin.architecture, sha256=weights_sha256(copy.model))


def left_alone(report: InspectionReport) -> PurificationReport:
    """Returns the report on a classifier that an inspection did not flag."""
    detail = f"The inspection flags no class, so the classifier is left as it is: {report.detail}."
    return PurificationReport(name="none", changed=False, detail=detail, inspected=report)
