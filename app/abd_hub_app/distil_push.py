"""Builds the part of the tab "Distill" that pushes a visitor's finished run to the Hub."""

from __future__ import annotations

import gradio as gr

from abd_hub import InputError, push_to_hub
from abd_hub_app.distil_shown import told
from abd_hub_app.inputs import TokenInput, session_of
from abd_hub_app.run_queue import RunQueue

# The browser must not keep the token either, and Gradio has no setting for this on a password.
_NOT_REMEMBERED = """() => {
  const fields = document.querySelectorAll("#push-token input");
  fields.forEach((field) => field.setAttribute("autocomplete", "off"));
}"""


class Push:
    """Builds the fields and the button, and pushes."""

    def __init__(self, queue: RunQueue) -> None:
        self.queue = queue

    def build(self) -> None:
        """Puts the fields, the button and the outcome on the page."""
        with gr.Accordion("Push it to the Hub", open=False, elem_id="distil-push"):
            gr.HTML(
                '<p class="abd-note">This server uses the token for this one push and keeps it nowhere. '
                "Use a fine-grained token for this repository alone, and a page with https.</p>"
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
        """Pushes your finished run to the Hub with your own token, which is kept nowhere.

        Args:
            repo_id: org/name; a missing repository is created.
            private: make the repository private.
            token: token of the Hub with write access to the repository.
            request: identifies the visitor.

        Returns:
            An empty token, and the outcome as HTML.
        """
        job = self.queue.result(session_of(request))
        if job is None:
            return "", told("Not pushed", "There is no finished run of yours; distill one first.", "fooled")
        if not token:
            return "", told("Not pushed", "token: is empty; give one with write access.", "fooled")

        try:
            done = push_to_hub(job.run, repo_id.strip(), private=private, token=token)
        except InputError as error:
            # Visitors see no path of the server.
            return "", told("Not pushed", str(error).replace(f"{job.folder}/", ""), "fooled")
        except Exception as error:  # its text could quote the request with the token
            return "", told("Not pushed", f"the push failed ({type(error).__name__}); try again", "fooled")
        return "", told("Pushed", f"{done.url} at commit {done.commit}", "steady")
