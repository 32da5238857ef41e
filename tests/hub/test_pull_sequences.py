"""Pulls through random faults give a whole model or none, and leave no half file in the cache."""

import pytest
from hub_campaign import Campaign
from pulls import read

pytestmark = pytest.mark.hub_client


def test_a_model_is_whole_or_absent_after_each(server, worker, cache, tmp_path):
    campaign = Campaign(tmp_path, 7, server, worker, cache)
    for number in range(3):
        assert campaign.pull(number).why == ""


def test_a_damaged_file_that_must_come_again_from_a_strange_server(server, worker, cache, tmp_path):
    """The client refuses that in words of its own; 283 draws such faults."""
    outcome = Campaign(tmp_path, 0, server, worker, cache).pull(283)
    assert outcome.why == "" and outcome.ended == "refused"


def test_damage_without_a_stated_hash_is_no_part_of_the_cache(server, worker, teacher):
    """Without a hash, damage shows only where a file is no JSON any more."""
    repo = server.repo("acme/unstated")
    repo.names_blobs = False
    repo.commit(read(teacher))
    server.corrupt("config.json", times=2)
    assert "arrived damaged: it is no JSON, and the Hub states no hash" in worker.refuses("acme/unstated")
    assert "logits" in worker.load("acme/unstated")
