"""A student's folder as a run leaves it."""

import dataclasses

from nets import MEAN, STD
from records import LABELS, make_record

from abd_hub import DataSpec, create_student, save_timm_folder
from abd_hub.core import files
from abd_hub.core.record_file import record_to_json


def make_folder(folder, labels=LABELS):
    """A student's folder as a run leaves it, without the run."""
    spec = DataSpec(3, 8, 8, labels)
    student = create_student("wrn_10_1", spec, MEAN, STD, seed=0, model_args={"base_width": 4})
    ref = dataclasses.replace(save_timm_folder(student, folder), id="my-run")
    record = dataclasses.replace(make_record(), student=ref)
    files.write_json(folder / "metrics.json", record_to_json(record))
    (folder / "samples").mkdir()
    for name in ("curves", "verdicts_badnets_0"):
        (folder / "samples" / f"{name}.png").write_bytes(b"")
    return folder
