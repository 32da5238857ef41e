"""The part of the tab "Distil" that sends a visitor's finished run to the Hub."""

from __future__ import annotations

import gradio as gr

from abd_hub import InputError, push_to_hub
from abd_hub_app.distil_queue import DistilQueue
from abd_hub_app.distil_shown import told
from abd_hub_app.inputs import TokenInput, session_of

# Gradio has no setting for it on a password: the browser is not to keep the token either.
_NOT_REMEMBERED = """() => {
  const fields = document.querySelectorAll("#push-token input");
  fields.forEach((field) => field.setAttribute("autocomplete", "off"));
}"""


class Push:
    """The fields, the button, and what it does."""

    def __init__(self, queue: DistilQueue) -> None:
        self.queue = queue

    def build(self) -> None:
        """Puts the parts on the page."""
        with gr.Accordion("Push it to the Hub", open=False, elem_id="distil-push"):
            gr.HTML(
                '<p class="abd-note">The token goes to this server for this one push, and is kept nowhere; '
                "use a fine-grained one for this repository alone, over https.</p>"
            )
            repo = gr.Textbox(label="Repository", placeholder="org/name", max_length=200, elem_id="push-repo")
            token = TokenInput(
                label="Token",
                type="password",
                max_length=500,
                elem_id="push-token",
            )
            private = gr.Checkbox(True, label="Private", elem_id="push-private")
            send = gr.Button("Push", elem_id="push-start")
            outcome = gr.HTML("", elem_id="push-outcome")

        token.focus(None, js=_NOT_REMEMBERED)
        send.click(
            self.push,
            [repo, private, token],
            [token, outcome],
            api_name="push",
            api_description=self.push.__doc__,
            concurrency_limit=2,
            concurrency_id="push",
            show_progress="minimal",
            show_progress_on=outcome,
        )

    def push(self, repo_id: str, private: bool, token: str, request: gr.Request) -> tuple[str, str]:
        """Push your finished run to the Hub with a token of your own, which is kept nowhere.

        Args:
            repo_id: org/name; the repository is made if there is none.
            private: make it private.
            token: of the Hub, with write access to the repository.
            request: whose run this is.

        Returns:
            An empty token, and what was done, or why not, as HTML.
        """
        run = self.queue.result(session_of(request))
        if run is None:
            return "", told("Not pushed", "There is no finished run of yours; distil one first.", "fooled")
        if not token:
            return "", told("Not pushed", "token: it is empty; give one with write access.", "fooled")

        try:
            done = push_to_hub(run, repo_id.strip(), private=private, token=token)
        except InputError as error:
            # The folder's place on the server is no visitor's business.
            return "", told("Not pushed", str(error).replace(f"{run.parent}/", ""), "fooled")
        except Exception as error:  # whatever it says could quote the request, and the token with it
            return "", told("Not pushed", f"the push failed ({type(error).__name__}); try again", "fooled")
        return "", told("Pushed", f"{done.url} at commit {done.commit}", "steady")
