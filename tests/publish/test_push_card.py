"""Two cards, one here and one on the Hub: own text and added metadata stay, tokens never leave."""

import pytest
from hub_server import WRITE
from huggingface_hub import ModelCard
from pushes import NAME, change_record, push, refused

from abd_hub.publish.own_parts import FREE_BEGINS, free_text, is_untouched

pytestmark = pytest.mark.hub_client


def test_own_text_and_license_of_both_cards_stay(server, worker, folder):
    push(worker, folder, "--license", "mit")
    repo = server.repo(NAME)
    own = f"{FREE_BEGINS}\nWritten on the Hub.\n"
    repo.commit({"README.md": repo.files["README.md"].replace(f"{FREE_BEGINS}\n".encode(), own.encode())})
    change_record(folder, rounds=7)
    push(worker, folder)
    card = repo.files["README.md"].decode()
    assert free_text(card) == "Written on the Hub." and "7 rounds" in card
    assert ModelCard(card).data.license == "mit"
    assert worker.ask(command=["card", str(folder)])["code"] == 0
    file = folder / "README.md"
    file.write_text(file.read_text().replace(f"{FREE_BEGINS}\n", f"{FREE_BEGINS}\nWritten here.\n"))
    line = refused(worker, folder)
    assert "your own text differs" in line and str(file) in line and NAME in line
    assert free_text(repo.files["README.md"].decode()) == "Written on the Hub."
    push(worker, folder, "--force")
    assert free_text(repo.files["README.md"].decode()) == "Written here."
    push(worker, folder)


def test_metadata_that_was_added_on_the_hub_stays(server, worker, folder):
    push(worker, folder)
    repo = server.repo(NAME)
    added = "license: mit\nlanguage:\n- en\nextra_gated_prompt: |-\n  Say who you are.\n\n  Please.\n"
    repo.commit({"README.md": repo.files["README.md"].replace(b"---\n", b"---\n" + added.encode(), 1)})
    change_record(folder, rounds=7)
    push(worker, folder)
    card = repo.files["README.md"].decode()
    data = ModelCard(card).data
    assert (data.license, data.language) == ("mit", ["en"])
    assert data.to_dict()["extra_gated_prompt"] == "Say who you are.\n\nPlease."
    assert "7 rounds" in card and is_untouched(card)
    repo.commit({"README.md": card.replace("timm", "other", 1).encode()})
    assert "was edited outside" in refused(worker, folder)


def test_a_token_in_the_own_text_stays_here(server, worker, folder):
    assert worker.ask(command=["card", str(folder)])["code"] == 0
    file = folder / "README.md"
    made = file.read_text()
    for secret in ("hf_" + "a" * 34, "hf_oauth_" + "b" * 34, WRITE):
        file.write_text(made.replace(f"{FREE_BEGINS}\n", f"{FREE_BEGINS}\nmy key: {secret}\n"))
        line = refused(worker, folder)
        assert "seems to hold a token" in line and secret not in line
    assert server.repos == {}
    file.unlink()


def test_metadata_that_the_hub_refuses(server, worker, folder):
    push(worker, folder)
    server.clear()
    for name in (NAME, "acme/new"):
        line = refused(worker, folder, "--license", "nonsense", name=name)
        assert '"license" must be one of' in line and "correct the license" in line
    assert ("model", "acme/new") not in server.repos
    assert server.seen("preupload", "upload", "commit", "create") == []
