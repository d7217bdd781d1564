"""Certificates that a connection would fail with are a line at the start, which names the configuration's key."""

from dataclasses import replace

import pytest
from tls import DAY, Authority

from secp_spu.errors import ConfigError

PARTIES = ["alice", "bob", "carol"]


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ours")


def _refusal(files, party="bob"):
    with pytest.raises(ConfigError, match=r"^cluster\.tls\.(ca|certificate|key): [^\n]+$") as error:
        files.check(party, PARTIES)
    return str(error.value)


def test_a_good_one_passes_whatever_the_machine_is_called(authority):
    authority.certify("bob").check("bob", PARTIES)
    authority.certify("bob", ["other.example.org", "bob"]).check("bob", PARTIES)


def test_an_expired_one_and_one_of_tomorrow(authority):
    message = _refusal(authority.certify("bob", end=-DAY / 24))
    assert message.startswith(f"cluster.tls.certificate: {authority.folder / 'bob.pem'} expired at 20")
    message = _refusal(authority.certify("bob", begin=DAY, end=2 * DAY))
    assert message.startswith(f"cluster.tls.certificate: {authority.folder / 'bob.pem'} is not valid before 20")


def test_an_expired_authority(tmp_path):
    assert "cluster.tls.ca: " in _refusal(Authority(tmp_path / "old", end=-DAY).certify("bob"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "names no party, but this party is bob: "),
        (["bob.example.org"], "names no party, but this party is bob: "),
        (["carol"], "names carol, but this party is bob: "),
        (["bob", "carol"], "names bob and carol, so nobody could tell them apart"),
    ],
)
def test_it_names_this_party_and_no_other(authority, names, message):
    """The common name `bob` alone is not enough: clients look at the alternative names."""
    assert message in _refusal(authority.certify("bob", names))


def test_a_key_with_a_passphrase(authority):
    message = _refusal(authority.certify("bob", password=b"secret"))
    assert message.startswith(f"cluster.tls.key: {authority.folder / 'bob.key'} is protected by a passphrase")


def test_key_and_certificate_that_do_not_match(authority):
    bob, carol = authority.certify("bob"), authority.certify("carol")
    message = _refusal(replace(bob, key=carol.key))
    assert message.startswith(f"cluster.tls.key: {carol.key} is not the key of cluster.tls.certificate")


@pytest.mark.parametrize("key", ["ca", "certificate", "key"])
def test_a_file_that_is_something_else(authority, key, tmp_path):
    files, other = authority.certify("bob"), tmp_path / "other"
    other.write_text("-----BEGIN NOTHING-----\n")
    assert _refusal(replace(files, **{key: other})).startswith(f"cluster.tls.{key}: {other} is no ")


@pytest.mark.parametrize("key", ["ca", "certificate", "key"])
def test_a_file_that_cannot_be_read(authority, key, tmp_path):
    files = replace(authority.certify("bob"), **{key: tmp_path})
    assert _refusal(files) == f"cluster.tls.{key}: {tmp_path}: Is a directory"


def test_another_authority_and_one_between(tmp_path, authority):
    bob, theirs = authority.certify("bob"), Authority(tmp_path / "theirs")
    assert "is signed by " in _refusal(replace(bob, ca=theirs.folder / "ca.pem"))
    between = Authority(tmp_path / "between", above=theirs)
    bob = between.certify("bob")
    assert "is an intermediate authority, signed by " in _refusal(bob)
    assert "one that another stands between cannot be used" in _refusal(replace(bob, ca=theirs.folder / "ca.pem"))


def test_an_authority_that_is_none(tmp_path):
    assert "is no certificate of an authority" in _refusal(Authority(tmp_path / "x", is_authority=False).certify("bob"))


def test_a_new_authority_beside_the_old_one(tmp_path, authority):
    bob, new = authority.certify("bob"), Authority(tmp_path / "new")
    both = tmp_path / "both.pem"
    both.write_bytes((new.folder / "ca.pem").read_bytes() + bob.ca.read_bytes())
    replace(bob, ca=both).check("bob", PARTIES)
