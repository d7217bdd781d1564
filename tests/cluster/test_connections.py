"""Where a cluster's servers are, and who may connect to them."""

import pytest
from small import PARTIES

pytestmark = pytest.mark.cluster


def test_a_run_in_order_ends_in_order(watched):
    assert watched.statuses == dict.fromkeys(PARTIES, 0)
    assert (watched.out / "report.json").exists()


def test_who_has_a_certificate_of_the_authority_may_connect_and_nobody_else(watched):
    bob = watched.addresses["bob"]
    for server in (bob.control, bob.compute):
        assert watched.handshakes[server, "ours"], server
        assert not watched.handshakes[server, "theirs"], server
        assert not watched.handshakes[server, "none"], server


def test_every_server_is_where_it_should_be_and_no_proxy_is_asked(watched):
    """All of a cluster's servers, Ray's too, are on 127.0.0.1, but where bob says that he listens elsewhere."""
    for name, servers in watched.servers.items():
        address = watched.addresses[name]
        wanted = {place.rpartition(":")[2] for place in (address.control, address.compute)}
        assert wanted < {port for _, port in servers}
        assert len(servers) > 8  # Ray's
    everywhere = {(h, port) for servers in watched.servers.values() for h, port in servers if h != "127.0.0.1"}
    bob = watched.addresses["bob"]
    assert {port for _, port in everywhere} == {place.rpartition(":")[2] for place in (bob.control, bob.compute)}
    assert everywhere <= watched.servers["bob"]
