"""What the parties of a cluster compare before anything is shared: configurations, versions, and what their files hold.

Every party states facts about itself, and all parties look for differences in all of them, so that all come to the same
result. A party states facts about the files that it has: the model owner and the data owner those of the model, a party
that only computes none. Facts are seen by all parties. They hold SHA-256 of the embedding tables and of the tokenizer,
by which a party can find out which public model they are of, if it has that model; and nothing of the data owner's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from typing import Literal, TypeAlias, TypeGuard

from secp_spu.config import Config
from secp_spu.errors import ConfigError
from secp_spu.model import describe_config, fingerprint_json, fingerprint_tables
from secp_spu.network.messages import SHOWN_CHARACTERS, shown
from secp_spu.protocol.waves import waves_digest
from secp_spu.trees import JsonObject

Purpose = Literal["tuning", "prediction"]
"""What the parties of a cluster come together for."""

PACKAGES = ("secp-spu", "spu", "jax", "jaxlib", "numpy", "flax", "secretflow", "ray")
"""Packages whose versions must be the same at all parties: they decide what a program computes and what crosses."""

OTHERS_NAMED = 8
"""How many more differences a message names after the first."""

_KINDS = {
    "configuration": ("configurations", "give all parties the same"),
    "versions": ("versions", "install the same at all parties"),
    "contents": (
        "model folders",
        "give the data owner what secp-spu embeddings writes from the model owner's folder",
    ),
}
"""Kinds of facts: what differs, and what to do about it."""

COSINES = "the table of cosines"
"""Name of the digest of what a party computes of opened angles."""

PartyFacts: TypeAlias = Mapping[str, JsonObject]
"""What a party says about itself: facts by name, by kind."""


def facts_of(config: Config, party: str, purpose: Purpose) -> PartyFacts:
    """What a party says about itself, as JSON that all parties may see.

    Args:
        config: of the party.
        party: its name.
        purpose: what the parties come together for.
    Returns: `configuration`: what the configurations must have in common; `versions`: of packages, Python and cosines;
        `contents`: of the model's files that this party has, what config.json says, and SHA-256 of the tokenizer and,
        unless they are the model owner's secret, of the embedding tables.
    Raises: ConfigError without a cluster; CheckpointError for a model folder that cannot be read.
    """
    if config.cluster is None:
        raise ConfigError("cluster: is missing")
    return {
        "configuration": config.agreed() | {"what is to be done": purpose},
        "versions": _versions(),
        "contents": _contents(config) if config.cluster.roles(party) else {},
    }


def require_agreement(facts_by_party: Mapping[str, object], party: str) -> None:
    """Refuse a cluster whose parties differ.

    Args:
        facts_by_party: what each party's `facts_of` returned, by name; nothing is taken for granted of the others'.
        party: whose facts are named first in a message.
    Raises: ConfigError naming the first difference, its parties and all other things that differ.
    """
    known = {name: facts for name, facts in facts_by_party.items() if _is_well_formed(facts)}
    if strangers := sorted(facts_by_party.keys() - known.keys()):
        raise ConfigError(
            f"{strangers[0]} states no facts as this version of secp-spu does: install the same version at all parties"
        )
    names = [party, *sorted(name for name in known if name != party)]
    for one, other in combinations(names, 2):
        differences = list(_differences(known[one], known[other]))
        if not differences:
            continue
        (kind, key), *more = differences
        what, fix = _KINDS[kind]
        ours, theirs = (shown(known[name][kind].get(key)) for name in (one, other))
        also = f" (and so do {', '.join(_named(*place) for place in more[:OTHERS_NAMED])})" if more else ""
        raise ConfigError(
            f"the parties' {what} differ: {_named(kind, key)} is {ours} at {one}, but {theirs} at {other}{also}; {fix}"
        )


def _is_well_formed(facts: object) -> TypeGuard[PartyFacts]:
    """Whether it is what `facts_of` returns, as far as a comparison needs."""
    return isinstance(facts, Mapping) and all(
        isinstance(facts.get(kind), Mapping) and all(isinstance(key, str) for key in facts[kind]) for kind in _KINDS
    )


def _differences(ours: PartyFacts, theirs: PartyFacts) -> Iterator[tuple[str, str]]:
    """Kind and name of each fact that two parties do not share; of their files, only of those that both have."""
    for kind in _KINDS:
        mine, others = ours[kind], theirs[kind]
        keys = mine.keys() & others.keys() if kind == "contents" else mine.keys() | others.keys()
        yield from ((kind, key) for key in sorted(keys) if mine.get(key) != others.get(key))


def _named(kind: str, key: str) -> str:
    """A fact's name in a message; another party may have sent it."""
    name = key if key.isprintable() and len(key) <= SHOWN_CHARACTERS else shown(key)
    return f"the version of {name}" if kind == "versions" else name


def _versions() -> JsonObject:
    found: JsonObject = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found | {COSINES: waves_digest()}


def _contents(config: Config) -> JsonObject:
    """Facts about an owner's model folder."""
    folder = config.model.folder
    found: JsonObject = {f"{key} of config.json": value for key, value in describe_config(folder).items()}
    if (folder / "tokenizer.json").exists():
        found["tokenizer.json"] = fingerprint_json(folder / "tokenizer.json")
    if config.model.embedding == "data_owner":
        found |= {f"embedding table `{name}`": digest for name, digest in fingerprint_tables(folder).items()}
    return found
