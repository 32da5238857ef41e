"""A tiny teacher in a folder: the first file that most commands need."""

from abd_hub import DataSpec, create_student, save_timm_folder

DIGITS = tuple("0123456789")


def save_teacher(folder, labels=DIGITS):
    """A tiny classifier of the embedded digits, as timm writes it."""
    spec = DataSpec(3, 8, 8, labels)
    args = {"base_width": 4}
    made = create_student("wrn_10_1", spec, (0.3,) * 3, (0.4,) * 3, seed=3, model_args=args).eval()
    save_timm_folder(made, folder)
    return folder
