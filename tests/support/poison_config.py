"""The configuration of a poisoned teacher of the embedded digits that trains for seconds."""

from abd_hub import (
    FastTeacherRecipe,
    NetworkOptions,
    PoisonConfig,
    PoisonOptions,
    TeacherTrainerOptions,
    TrainingDataOptions,
)

PATCH = {"size": 2, "margin": 0}

NARROW = NetworkOptions(architecture="wrn_10_1", model_args={"base_width": 4})

QUIET = TeacherTrainerOptions(progress=False, checkpoint_every=1)

SHORT = FastTeacherRecipe(epochs=2, batch_size=64, crop_padding=0, flip=False)


def config(folder, recipe=SHORT, seed=0, **poison):
    poison = {"trigger": "badnet_sq", "options": PATCH, "target": 3, **poison}
    return PoisonConfig(
        output_dir=str(folder),
        data=TrainingDataOptions(dataset="digits"),
        network=NARROW,
        poison=PoisonOptions(**poison),
        recipe=recipe,
        trainer=QUIET,
        seed=seed,
    )
