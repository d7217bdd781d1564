"""The examples in docstrings of what users call compute what they say."""

import doctest
from importlib import import_module

import pytest

MODULES = ("secp_spu.api", "secp_spu.runtime.base", "secp_spu.runtime.local", "secp_spu.protocol.cosine")


@pytest.mark.slow("examples in docstrings print what they say; some run under MPC")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(import_module(name))
    assert found.attempted
    assert not found.failed
