"""Builds the tab "Try it", with every model's answer to an image with and without a trigger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from PIL import Image

from abd_hub import InputError
from abd_hub_app.answers import Answers, ask, show
from abd_hub_app.attention import look_into
from abd_hub_app.drawing import NAME as DRAWN
from abd_hub_app.drawing import DrawnOffer, build_drawn, drawing_pad
from abd_hub_app.examples import Example, load_examples
from abd_hub_app.images import to_picture, to_pixels
from abd_hub_app.inputs import PictureInput
from abd_hub_app.shelf import Shelf
from abd_hub_app.text import one_line, refusal
from abd_hub_app.triggers import CORNERS, KNOBS, Offer, in_corner, offers

_LEAD = """\
<p class="abd-lead">A poisoned teacher reads the <b>target</b> wherever the <b>trigger</b> is. Does a student
that never saw its training data inherit this? Choose an image and see the verdicts.</p>"""
_UNKNOWN = """\
<p class="abd-note">No class of the models fits these pictures; watch whether the trigger changes the
answer.</p>"""
_INFO = {
    "size": "pixels of a side",
    "margin": "pixels to the corner",
    "strength": "in the trigger's own unit",
}
_NO_IMAGE = "image: is missing; choose an example or upload one"
_THUMBNAIL_SIDE = 64


class TryIt:
    """Builds the tab, answers its endpoint and connects its parts."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.examples = load_examples(shelf)
        self.offers = offers(shelf)
        self.looks = tuple(look_into(model.classifier) for model in shelf.models)
        if not self.offers:
            height, width = shelf.size
            raise InputError(f"FOLDER: no trigger fits images of {height}x{width}; give other models")
        self.offers[DRAWN] = DrawnOffer()

    def answer(
        self,
        picture: Image.Image | None,
        name: str,
        target: int,
        turned: dict[str, float | None],
        corner: str | None = None,
        drawn: str | None = None,
    ) -> Answers:
        """Returns the answers of all models.

        Raises:
            InputError: the image is missing, or trigger, options or target are wrong.
        """
        if picture is None:
            raise InputError(_NO_IMAGE)
        if not isinstance(name, str) or name not in self.offers:
            raise InputError(f"trigger: {str(name)[:40]!r} is not offered; use {', '.join(self.offers)}")

        if name == DRAWN:
            trigger, options = build_drawn(drawn, turned.get("strength"), *self.shelf.size)
        else:
            offer = self.offers[name]
            trigger, options = in_corner(offer, *offer.build(turned), corner)

        pixels = self.shelf.smallest.prepare(to_pixels(picture))
        return ask(self.shelf, self.looks, pixels, trigger, name, options, target)

    def predict(
        self,
        image: Image.Image | None,
        trigger: str,
        target: int,
        size: float | None,
        margin: float | None,
        strength: float | None,
        corner: str | None = None,
        drawn: str | None = None,
    ) -> tuple[Any, ...]:
        """Puts a trigger on an image and returns every model's answers to both images.

        Args:
            image: a picture file; it is resized and cropped as the model with the smallest input states it.
            trigger: registered name, or drawn.
            target: number of the class that the trigger is meant to cause.
            size: size of the trigger in pixels, if it has one.
            margin: pixels between trigger and corner, if it has a margin.
            strength: strength in the trigger's own unit, if it has one.
            corner: corner of a trigger with a margin; the bottom right is measured.
            drawn: the trigger drawn as a PNG, data:image/png;base64,..., whose opaque pixels are painted.

        Returns:
            The image without the trigger, the image with it, both as a pair, the models' answers as HTML,
            and all numbers.
        """
        try:
            turned = {"size": size, "margin": margin, "strength": strength}
            if image is None:
                # On the page a visitor has only cleared the picture, which needs no alarm.
                raise refusal(_NO_IMAGE, visible=False)
            answers = self.answer(image, trigger, target, turned, corner, drawn)
        except InputError as error:
            raise refusal(error) from error
        return _outputs(answers)

    def build(self) -> None:
        """Puts the tab on the page, with the answers to the first example."""
        offer = next(iter(self.offers.values()))
        target = self.shelf.attacks[0].target if self.shelf.attacks else 0
        first = self.examples[0].picture
        shown = _outputs(self.answer(first, offer.name, target, {}))

        gr.HTML(_LEAD)
        with gr.Row(equal_height=False, elem_id="try"):
            with gr.Column(min_width=0, elem_classes="abd-images"):
                gallery = _gallery(self.examples)
                if all(example.label is None for example in self.examples):
                    gr.HTML(_UNKNOWN)
            with gr.Column(min_width=0, elem_classes="abd-answers"):
                outputs = _output_parts(*shown)
            with gr.Column(min_width=0, elem_classes="abd-controls"):
                chosen, pad, aim, turned = self._trigger_parts(offer, target)
                with gr.Accordion("A picture of your own", open=False):
                    image = _picture_input(first)

        gallery.select(self._example, None, image, api_visibility="private", show_progress="hidden")
        chosen.input(
            self._turn, chosen, [chosen, *turned, pad], api_visibility="private", show_progress="hidden"
        )
        self._on_change([image, chosen, aim, *turned], pad, outputs)

    def _trigger_parts(
        self, offer: Offer, target: int
    ) -> tuple[gr.Dropdown, gr.HTML, gr.Dropdown, list[Any]]:
        """Puts trigger, drawing pad, target, and the list of knobs and corner on the page."""
        chosen = gr.Dropdown(
            _choices(self.offers), value=offer.name, label="Trigger", info=offer.summary, elem_id="trigger"
        )
        pad = drawing_pad(*self.shelf.size, visible=offer.name == DRAWN)
        aim = gr.Dropdown(
            [(f"{index}: {one_line(label)}", index) for index, label in enumerate(self.shelf.labels)],
            value=target,
            label="Target",
            info="the class that the trigger is meant to cause",
            elem_id="target",
        )
        with gr.Row():
            knobs = [_number(name, offer) for name in KNOBS]
            corner = _corner(offer)
        return chosen, pad, aim, [*knobs, corner]

    def _on_change(self, inputs: list[Any], pad: gr.HTML, outputs: list[Any]) -> None:
        """Gets new answers from the models after every change."""
        gr.on(
            [*(part.change for part in inputs), pad.input],
            self.predict,
            [*inputs, pad],
            outputs,
            api_name="predict",
            api_description=self.predict.__doc__,
            trigger_mode="always_last",
            concurrency_limit=1,
            concurrency_id="model",
            show_progress="minimal",
        )

    def _example(self, event: gr.SelectData) -> Image.Image:
        index = event.index
        if not isinstance(index, int) or not 0 <= index < len(self.examples):
            raise refusal("image: there is no such example; click one on the page")
        return self.examples[index].picture

    def _turn(self, name: str) -> list[Any]:
        """Returns the knobs of the newly chosen trigger."""
        offer = self.offers[name]
        knobs = [gr.update(**_state(knob, offer)) for knob in KNOBS]
        corner = gr.update(value=CORNERS[0], visible=offer.has_place)
        return [gr.update(info=offer.summary), *knobs, corner, gr.update(visible=name == DRAWN)]


def _outputs(answers: Answers) -> tuple[Any, ...]:
    clean, triggered = to_picture(answers.clean), to_picture(answers.triggered)
    return clean, triggered, (clean, triggered), show(answers), answers.as_json()


def _output_parts(
    clean: Image.Image,
    triggered: Image.Image,
    pair: tuple[Image.Image, Image.Image],
    cards: str,
    numbers: dict[str, Any],
) -> list[Any]:
    """Puts on the page the parts for the values of ``_outputs``; returns them in its order."""
    answers = gr.HTML(cards, elem_id="answers")
    with gr.Row():
        before = _exact_image(clean, "Clean", "The image without the trigger, enlarged", "clean")
        after = _exact_image(triggered, "With trigger", "The image with the trigger, enlarged", "triggered")
        slider = _slider(pair)
    with gr.Accordion("All numbers", open=False):
        figures = gr.JSON(numbers, label="Probabilities by class", max_height=320, elem_id="numbers")
    return [before, after, slider, answers, figures]


def _choices(known: dict[str, Offer]) -> list[tuple[str, str]]:
    return [(f"{name} (measured)" if offer.measured else name, name) for name, offer in known.items()]


def _number(name: str, offer: Offer) -> gr.Number:
    return gr.Number(
        label=name.capitalize(), info=_INFO[name], min_width=120, elem_id=name, **_state(name, offer)
    )


def _corner(offer: Offer) -> gr.Dropdown:
    return gr.Dropdown(
        list(CORNERS),
        value=CORNERS[0],
        label="Corner",
        info="mirrored into it",
        min_width=120,
        visible=offer.has_place,
        elem_id="corner",
    )


def _state(name: str, offer: Offer) -> dict[str, Any]:
    knob = offer.knobs().get(name)
    if knob is None:
        return {"value": None, "visible": False}
    # A step is a tenth of the first value, so that a few steps have an effect in any unit.
    return {"value": knob.value, "visible": True, "step": 1 if knob.whole else round(knob.value / 10, 4)}


def _gallery(examples: Sequence[Example]) -> gr.Gallery:
    shown = [(_enlarged(example.picture), example.caption) for example in examples]
    return gr.Gallery(
        shown,
        label="Images",
        show_label=False,
        format="png",
        columns=5,
        height="auto",
        object_fit="contain",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_classes="abd-exact",
        elem_id="examples",
    )


def _picture_input(picture: Image.Image) -> PictureInput:
    return PictureInput(
        picture,
        label="PNG, JPEG, WebP, BMP, GIF",
        sources=["upload", "clipboard", "webcam"],
        format="png",
        height=220,
        buttons=[],
        elem_classes="abd-exact",
        elem_id="picture",
        alt_text="The image that the models read",
    )


def _slider(pair: tuple[Image.Image, Image.Image]) -> gr.ImageSlider:
    return gr.ImageSlider(
        pair,
        label="Slide: clean | with trigger",
        format="png",
        type="pil",
        interactive=False,
        max_height=300,
        min_width=200,
        buttons=[],
        elem_classes="abd-exact",
        elem_id="slider",
    )


def _enlarged(picture: Image.Image) -> Image.Image:
    return to_picture(to_pixels(picture)[0], side=_THUMBNAIL_SIDE)


def _exact_image(picture: Image.Image, label: str, alt: str, name: str) -> gr.Image:
    return gr.Image(
        picture,
        label=label,
        format="png",
        interactive=False,
        height=300,
        min_width=160,
        buttons=[],
        elem_classes="abd-exact",
        elem_id=name,
        alt_text=alt,
    )
