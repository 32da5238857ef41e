"""The record of a purification that never ran, and the folder of its copy."""

import dataclasses

from nets import MEAN, STD
from records import LABELS

from abd_hub import DataSpec, create_student, save_timm_folder
from abd_hub.core import files
from abd_hub.core.record_file import to_json
from abd_hub.core.records import ModelRef, PurifiedRecord


def inspection(flagged, detail="airplane stands out."):
    """What ``InspectionReport.to_json`` gives."""
    triggers = [
        {"label": 0, "family": "mask", "size": 1.2, "ordinary_size": 9.0, "success": 0.9},
        {"label": 2, "family": "additive", "size": 0.5, "ordinary_size": 0.7, "success": 0.4},
    ]
    return {
        "name": "trigger_inversion",
        "flagged": flagged,
        "suspects": [0] if flagged else [],
        "labels": list(LABELS),
        "detail": detail,
        "triggers": triggers,
        "seconds": 3.0,
    }


def purification(**changes):
    """What ``PurificationReport.to_json`` gives."""
    return {
        "name": "trigger_unlearning",
        "changed": True,
        "detail": "the triggers of airplane were unlearned",
        "agreement": 0.9812,
        "suspects": [0],
        "seconds": 5.0,
        "inspected": inspection(True),
        "reinspected": inspection(False, "no class stands out"),
        **changes,
    }


def purified_record(**changes):
    record = PurifiedRecord(
        model=ModelRef("my-copy", "wrn_10_1", None, "b" * 64),
        teacher=ModelRef("org/poisoned", "wrn_10_1", "c" * 40, "a" * 64),
        library="timm",
        purification=purification(),
        settings={"steps": 120, "learning_rate": 2e-4},
        images="patches of photographs",
        forced=False,
        seed=0,
        versions={"python": "3.12.3"},
        durations={"inspections": 6.0, "purification": 5.0},
        device="cpu (2 threads)",
        processes=1,
    )
    return dataclasses.replace(record, **changes)


def make_purified(folder, **changes):
    """A copy's folder as ``abd-hub purify`` leaves it, without the card and the work."""
    spec = DataSpec(3, 8, 8, LABELS)
    copy = create_student("wrn_10_1", spec, MEAN, STD, seed=1, model_args={"base_width": 4})
    ref = dataclasses.replace(save_timm_folder(copy, folder), id="my-copy")
    files.write_json(folder / "purification.json", to_json(purified_record(model=ref, **changes), "record"))
    (folder / "samples").mkdir()
    (folder / "samples" / "trigger_mask_0.png").write_bytes(b"")
    return folder
