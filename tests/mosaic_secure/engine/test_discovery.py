from __future__ import annotations

import pytest

from mosaic_secure.engine.discovery import DiscoveryError, discover
from mosaic_secure.engine.inprocess import InProcessGrid


def grid(*parties: str) -> InProcessGrid:
    nodes = {
        1000 + i: {"party": party, "role": "authority" if party == "authority" else "client"}
        for i, party in enumerate(parties)
    }
    return InProcessGrid(nodes, "tiny_app:app", workers=0)


def test_parties_are_found_by_name_whatever_their_node_ids():
    nodes = discover(grid("client-1", "authority", "client-0"), 3, version="1")
    assert list(nodes) == ["authority", "client-0", "client-1"]
    assert nodes["client-0"].node_id == 1002
    assert nodes["authority"].role == "authority"
    assert nodes["client-1"].identity == b"k" * 32


@pytest.mark.parametrize(
    ("parties", "expected", "version", "says"),
    [
        (("client-0", "client-0"), 2, "1", "two nodes say"),
        (("client-0",), 2, "1", "1 of 2 nodes"),
        (("client-0",), 1, "2", "runs version 1"),
        (("broken",), 1, "1", "error came instead"),
    ],
)
def test_a_missing_double_or_foreign_party_is_named(parties, expected, version, says):
    with pytest.raises(DiscoveryError, match=says):
        discover(grid(*parties), expected, version=version, timeout=0.3)
