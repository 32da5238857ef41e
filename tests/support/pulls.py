"""Teachers that a test commits to its own Hub and pulls from there."""

from abd_hub import DataSpec, create_student, save_timm_folder

DIGITS = tuple("0123456789")


def save_teacher(folder, seed=3, width=4):
    spec = DataSpec(3, 8, 8, DIGITS)
    args = {"base_width": width}
    made = create_student("wrn_10_1", spec, (0.3,) * 3, (0.4,) * 3, seed=seed, model_args=args).eval()
    save_timm_folder(made, folder)
    return folder


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(pulled, local):
    """The same weights and, to the bit, the same logits."""
    return (pulled.get("logits"), pulled.get("sha256")) == (local["logits"], local["sha256"])
