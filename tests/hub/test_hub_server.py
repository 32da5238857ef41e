"""The tests' own Hub against huggingface_hub itself: what later tests take for granted."""

import os
from pathlib import Path

import pytest
from hub_server import NOTHING, READ, WRITE, HubServer
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

BYTES = bytes(range(256)) * 40

pytestmark = pytest.mark.hub_client


@pytest.fixture(scope="module")
def running():
    with HubServer() as server:
        yield server


@pytest.fixture
def server(running):
    running.forget()
    return running


def api(server, token=WRITE):
    return HfApi(endpoint=server.url, token=token)


def add(path, data):
    return CommitOperationAdd(path, data)


@pytest.fixture(autouse=True)
def plain_transfers(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_create_commit_list_and_download(server, tmp_path, kind):
    hub = api(server)
    sdk = {"space_sdk": "gradio"} if kind == "space" else {}
    hub.create_repo("acme/bugs", repo_type=kind, private=True, **sdk)
    files = [add("README.md", b"# bugs\n"), add("data/part.parquet", BYTES)]
    done = hub.create_commit("acme/bugs", files, commit_message="first", repo_type=kind)
    assert hub.repo_info("acme/bugs", repo_type=kind).sha == done.oid
    assert hub.repo_info("acme/bugs", repo_type=kind).private
    listed = hub.list_repo_files("acme/bugs", repo_type=kind)
    assert sorted(listed) == [".gitattributes", "README.md", "data/part.parquet"]
    sizes = {f.path: f.size for f in hub.list_repo_tree("acme/bugs", path_in_repo="data", repo_type=kind)}
    assert sizes == {"data/part.parquet": len(BYTES)}
    got = hub.hf_hub_download("acme/bugs", "data/part.parquet", repo_type=kind, cache_dir=tmp_path)
    assert Path(got).read_bytes() == BYTES
    assert {request.host for request in server.requests} == {f"127.0.0.1:{server.port}"}


def test_old_commits_branches_and_pull_requests_stay(server, tmp_path):
    hub = api(server)
    repo = server.repo("acme/bugs")
    first = repo.commit({"config.json": b"1", "gone.txt": b"x"})
    hub.create_branch("acme/bugs", branch="side/one", revision=first)
    changes = [add("config.json", b"2"), CommitOperationDelete("gone.txt")]
    second = hub.create_commit("acme/bugs", changes, commit_message="second").oid
    asked = hub.create_commit("acme/bugs", [add("config.json", b"3")], commit_message="pr", create_pr=True)
    for revision, content in ((first, b"1"), ("side/one", b"1"), (second, b"2"), ("refs/pr/1", b"3")):
        path = hub.hf_hub_download("acme/bugs", "config.json", revision=revision, cache_dir=tmp_path)
        assert Path(path).read_bytes() == content
    assert [entry.commit_id for entry in hub.list_repo_commits("acme/bugs")][:2] == [second, first]
    assert asked.pr_url.endswith("/discussions/1") and repo.files["config.json"] == b"2"
    assert "gone.txt" not in repo.files
    with pytest.raises(RevisionNotFoundError):
        hub.model_info("acme/bugs", revision="nowhere")
    with pytest.raises(HfHubHTTPError, match="412"):
        hub.create_commit("acme/bugs", [add("a", b"1")], commit_message="late", parent_commit=first)


def test_rights(server):
    server.repo("acme/secret", private=True)
    server.repo("acme/open")
    for token in (READ, WRITE):
        assert api(server, token).model_info("acme/secret").private
    for token in (NOTHING, False):
        assert not api(server, token).model_info("acme/open").private
        with pytest.raises(RepositoryNotFoundError):
            api(server, token).model_info("acme/secret")
    for token, status in ((READ, "403"), (NOTHING, "403"), (False, "401")):
        with pytest.raises(HfHubHTTPError, match=status):
            api(server, token).create_repo("acme/new")
    with pytest.raises(HfHubHTTPError, match="403"):
        api(server, WRITE).create_repo("others/new")
    with pytest.raises(HfHubHTTPError, match="409"):
        api(server, WRITE).create_repo("acme/open")
    assert api(server, READ).whoami()["auth"]["accessToken"]["role"] == "read"
    with pytest.raises((HfHubHTTPError, LocalTokenNotFoundError, ValueError)):
        api(server, "hf_unknown").whoami()


def test_faults_are_used_up(server, tmp_path):
    hub = api(server)
    repo = server.repo("acme/bugs")
    repo.commit({"model.safetensors": BYTES})
    server.fail("info", 503, times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="503"):
            hub.model_info("acme/bugs")
    repo.flag("model.safetensors", "suspicious")
    status = hub.model_info("acme/bugs", securityStatus=True).security_repo_status
    assert status["filesWithIssues"] == [{"path": "model.safetensors", "level": "suspicious"}]
    server.corrupt("model.safetensors")
    path = hub.hf_hub_download("acme/bugs", "model.safetensors", cache_dir=tmp_path)
    assert Path(path).read_bytes() == BYTES[:-1] + bytes([BYTES[-1] ^ 1])


def test_a_cut_download_is_resumed(server, tmp_path):
    """The client keeps whole pieces of 10 MiB."""
    long = os.urandom(1024) * (11 * 1024)
    server.repo("acme/bugs").commit({"model.safetensors": long})
    server.cut("resolve", after=10 * 2**20 + 5000)
    path = api(server).hf_hub_download("acme/bugs", "model.safetensors", cache_dir=tmp_path)
    assert Path(path).read_bytes() == long
    assert [request.range for request in server.seen("resolve")] == [None, f"bytes={10 * 2**20}-"]


def test_large_files_may_come_from_another_host_without_the_token(server, tmp_path):
    server.redirects = True
    server.repo("acme/bugs", private=True).commit({"model.safetensors": BYTES})
    try:
        path = api(server, READ).hf_hub_download("acme/bugs", "model.safetensors", cache_dir=tmp_path)
    finally:
        server.redirects = False
    assert Path(path).read_bytes() == BYTES
    (fetched,) = server.seen("storage")
    assert fetched.host == f"localhost:{server.port}" and fetched.token is None
    assert server.seen("head")[0].token == READ


@pytest.mark.parametrize("later", [False, True])
def test_a_cut_upload_is_tried_again(server, later):
    hub = api(server)
    repo = server.repo("acme/bugs")
    server.cut("upload", after=100, later=later)
    hub.create_commit("acme/bugs", [add("model.safetensors", BYTES)], commit_message="weights")
    assert repo.files["model.safetensors"] == BYTES
    assert len(server.seen("upload")) == 2


def test_an_upload_with_another_hash_is_refused(server):
    from huggingface_hub.utils import get_session

    answer = get_session().put(f"{server.url}/storage/{'0' * 64}", content=BYTES)
    assert answer.status_code == 422 and not server.large.get("0" * 64)
