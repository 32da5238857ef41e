"""Pushes through random sequences of faults leave the repository in one of its two whole states."""

import pytest
from hub_campaign import Campaign


@pytest.fixture
def campaign(server, worker, pushing_home, tmp_path):
    return Campaign(tmp_path, 7, server, worker, pushing_home)


@pytest.mark.hub_client
def test_a_repository_is_whole_after_each(campaign):
    for number in range(3):
        assert campaign.push(number).why == ""


def test_half_a_repository_is_found(campaign, server, monkeypatch):
    """A server that takes only a part of a commit."""
    whole = server._commit

    async def half(repo, commit, parts, request):
        answer = await whole(repo, commit, parts, request)
        repo.commit({"config.json": None})
        return answer

    monkeypatch.setattr(server, "_commit", half)
    monkeypatch.setattr(campaign, "_draw", lambda *_: [])
    assert "config.json is not as it was sent" in campaign.push(3).why
