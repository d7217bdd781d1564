"""The section `cluster` of a configuration: who the parties are, where they are, and what each allows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from secp_spu.config.section import OWNERS, Count, Located, Role, Section, locate, own_file
from secp_spu.errors import ConfigError


def _check_address(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.-]+:[0-9]{1,5}", value):
        raise ValueError(
            f"is {value!r}, but must be host:port, such as 10.0.0.1:9100; a host has letters, digits, . and - alone"
        )
    if not 0 < port_of(value) < 65536:
        raise ValueError(f"is {value!r}, but a port is a number from 1 to 65535")
    return value


Address = Annotated[str, AfterValidator(_check_address)]


ServerKey = Literal["control", "compute"]


SERVERS: tuple[ServerKey, ...] = get_args(ServerKey)
"""What a party listens with."""


class ListenSection(Section):
    """Where a party listens, if the others reach it at another address: behind Docker, NAT or a cloud's public address.

    Attributes:
        control: `host:port`, such as 0.0.0.0:9100 for all of the machine's addresses; by default the address itself.
        compute: the same.
    """

    control: Address | None = None
    compute: Address | None = None


class AddressSection(Section):
    """Where a party can be reached by the others.

    Attributes:
        control: `host:port` of SecretFlow: owners' shares in, opened logits out, what all may know.
        compute: `host:port` of SPU: what the compute parties send each other; none for a party that is none.
        listen: where the party listens, if that is not there. Only the party itself needs it.
    """

    control: Address
    compute: Address | None = None
    listen: ListenSection = ListenSection()

    def bound(self, key: ServerKey) -> str | None:
        """`host:port` where the party itself listens; None where it has no such server."""
        address: str | None = getattr(self, key)
        return (getattr(self.listen, key) or address) if address else None

    def listens_apart(self, key: ServerKey) -> bool:
        """Is the address where the party listens another than the one at which it is reached?"""
        return getattr(self.listen, key) is not None

    @model_validator(mode="after")
    def _check(self) -> AddressSection:
        for key in ("control", "compute"):
            if (getattr(self, key) or "").startswith("0.0.0.0:"):
                raise ValueError(
                    f"{key}: is {getattr(self, key)}, at which nobody can be reached: write the machine's address, and "
                    f"listen: {{{key}: {getattr(self, key)}}} beside it"
                )
        if self.listen.compute and not self.compute:
            raise ValueError("listen.compute: is set, but compute is not: the other parties could not reach it")
        if self.compute not in (None, self.control) and self.bound("control") == self.bound("compute"):
            raise ValueError(
                f"listen: {self.bound('control')} stands there twice; every server needs a port of its own"
            )
        return self


class TlsSection(Section):
    """Certificates, in PEM files; `{party}` in a path stands for the name of the party that reads it.

    Each party has one certificate, for SecretFlow and SPU, as client and as server. It has the party's name among the
    DNS names of its subject alternative names; names of machines need not be there. Every connection shows both sides'
    certificates, and one that the authority has not signed is refused.

    On the control port a party is known by its certificate: it is the one that is spoken to, and its messages are taken
    as its own and as nobody else's. On the compute port SPU's link asks no more than that the authority has signed the
    certificate: any party, and anybody else who has one of this authority, could stand in there for another.

    Attributes:
        ca: of the authority that signs the parties' certificates, directly, and theirs alone.
        certificate: this party's.
        key: this party's private key, without a passphrase.
    """

    ca: Located
    certificate: Located
    key: Located

    @field_validator("ca", "certificate", "key", mode="before")
    @classmethod
    def _find(cls, value: str, info: ValidationInfo) -> Path:
        party = (info.context or {}).get("party")
        if party is None and isinstance(value, str) and value:
            return Path(value)  # a simulation or an audit, which open no connection
        return locate(value.replace("{party}", party) if isinstance(value, str) and party else value, info)


LIMITS_FILE = "~/.local/state/secp-spu/limits.json"
"""Where a model owner's counts are kept unless `cluster.limits.file` says otherwise."""


Limit = Annotated[int, Field(ge=0)]


class LimitsSection(Section):
    """What the model owner gives away in a day (UTC) at most. It is the model owner's alone, and binds all its runs.

    The model owner's own process counts, before it takes part in what it counts, and refuses what would go beyond.
    Other parties need not have this section, and cannot change it. What a run counted that failed stays counted.

    Attributes:
        generations_a_day: generations of tuning that begin.
        evaluations_a_day: prompts of tuning on a set of texts: a generation evaluates every candidate on the training
            texts and two finalists on the validation texts; at the end two prompts are evaluated on the validation
            texts; before and after tuning one prompt is evaluated on the test texts.
        texts_a_day: sequences, of a prompt and a text each, whose logits are opened, in tuning and in prediction.
        predictions_a_day: texts that `secp-spu predict` labels.
        file: where the counts are kept from run to run. All configurations that name the same file share the limits.
    """

    generations_a_day: Limit | None = None
    evaluations_a_day: Limit | None = None
    texts_a_day: Limit | None = None
    predictions_a_day: Limit | None = None
    file: Annotated[Path, Field(validate_default=True)] = Path(LIMITS_FILE)

    @field_validator("file", mode="before")
    @classmethod
    def _find(cls, value: str | Path, info: ValidationInfo) -> Path:
        given = str(value) if isinstance(value, Path) else value
        if "model_owner" not in (info.context or {}).get("roles", OWNERS) and isinstance(given, str) and given:
            return Path(given)  # another party's
        return own_file(given, info)

    @model_validator(mode="after")
    def _check(self) -> LimitsSection:
        if not self.by_name:
            raise ValueError(f"cluster.limits: names no limit: set one of {', '.join(LIMITED)}, or leave it out")
        return self

    @property
    def by_name(self) -> dict[str, int]:
        """The limits that are set."""
        found = {key: getattr(self, key) for key in LIMITED}
        return {key: value for key, value in found.items() if value is not None}


LIMITED = tuple(key for key in LimitsSection.model_fields if key.endswith("_a_day"))
"""Keys of limits."""


class ClusterSection(Section):
    """SecretFlow's parties, by name. Without `addresses` they are simulated on this machine, which protects nothing.

    Attributes:
        data_owner: the party that has the texts; it alone sees prompts, losses, labels and logits.
        model_owner: the party that has the weights.
        compute: the parties that hold the shares, in the order of their names, which are SPU's ranks.
        dealer: the party that deals the correlations, with `correlations: dealt`: no owner, and no compute party.
        addresses: of every party.
        tls: certificates. Without them whoever sees the network sees all shares, hence all secrets.
        plain_text: must be true for addresses without `tls`, this machine's too: say so only where everybody who can
            reach the ports is trusted. In plain text nobody is recognised: who can connect can be any party.
        start_seconds: how long a party waits for the others to come up.
        timeout_seconds: how long a compute party waits for a message; longer than any operation takes.
        limits: what the model owner gives away in a day at most; no other party needs them.
        log: file of this party, to which it adds a line of JSON for each thing that others asked of it: programs, what
            was opened to whom, bytes. `{party}` in its path stands for the party's name. Without it there is no log.
    """

    data_owner: str
    model_owner: str
    compute: Annotated[list[str], Field(min_length=2)]
    dealer: str | None = None
    addresses: dict[str, AddressSection] | None = None
    tls: TlsSection | None = None
    plain_text: bool = False
    start_seconds: Count = 120
    timeout_seconds: Count = 300
    limits: LimitsSection | None = None
    log: Path | None = None

    @field_validator("log", mode="before")
    @classmethod
    def _find_log(cls, value: str | None, info: ValidationInfo) -> Path | None:
        return None if value is None else own_file(value, info)

    @property
    def everyone(self) -> list[str]:
        """All parties, each once."""
        named = [self.data_owner, self.model_owner, *self.compute, *([] if self.dealer is None else [self.dealer])]
        return sorted(set(named))

    def roles(self, party: str) -> set[Role]:
        """What a party owns."""
        owners: dict[Role, str] = {"data_owner": self.data_owner, "model_owner": self.model_owner}
        return {role for role, name in owners.items() if name == party}

    @model_validator(mode="after")
    def _check(self) -> ClusterSection:
        if bad := [name for name in self.everyone if not re.fullmatch(r"[a-z][a-z0-9_]*", name)]:
            raise ValueError(
                f"cluster: {bad[0]!r} is no name for a party: it begins with a lower-case letter, and has "
                "those, digits and _ alone"
            )
        if self.data_owner == self.model_owner:
            raise ValueError(
                f"cluster.model_owner: is {self.model_owner}, the data owner too: nothing would have to be kept secret"
            )
        if len(set(self.compute)) < len(self.compute):
            raise ValueError(f"cluster.compute: is {self.compute}, which names a party twice")
        if self.compute != sorted(self.compute):
            raise ValueError(
                f"cluster.compute: is {self.compute}, but SPU orders ranks by name: write {sorted(self.compute)}"
            )
        if self.dealer in {self.data_owner, self.model_owner, *self.compute}:
            raise ValueError(
                f"cluster.dealer: is {self.dealer}, who sees openings or owns secrets, but a dealer knows every mask: "
                "name another party"
            )
        if self.addresses is not None:
            self._check_addresses(self.addresses)
        elif self.limits or self.log:
            raise ValueError(
                f"cluster.{'limits' if self.limits else 'log'}: is there, but without cluster.addresses one process "
                "simulates all parties, which no party could limit or watch: leave it out"
            )
        return self

    def _check_addresses(self, addresses: dict[str, AddressSection]) -> None:
        if set(addresses) != set(self.everyone):
            missing, extra = set(self.everyone) - set(addresses), set(addresses) - set(self.everyone)
            wrong = f"lack {', '.join(sorted(missing))}" if missing else f"have {', '.join(sorted(extra))}, no party"
            raise ValueError(f"cluster.addresses: {wrong}; the parties are {', '.join(self.everyone)}")
        for name in self.compute:
            if addresses[name].compute is None:
                raise ValueError(f"cluster.addresses.{name}.compute: is missing, and {name} is a compute party")
        used = [address for a in addresses.values() for address in (a.control, a.compute) if address]
        if twice := [address for address in used if used.count(address) > 1]:
            raise ValueError(f"cluster.addresses: {twice[0]} stands there twice; every server needs a port of its own")

    def refuse_plain_text(self) -> None:
        """Raise ConfigError for a party that would open connections without certificates, and was not told to."""
        if self.addresses is not None and self.tls is None and not self.plain_text:
            raise ConfigError(
                "cluster.tls: is missing: without it who reaches the parties' ports can be any party, and who sees the "
                "network sees every secret; name certificates (scripts/make_test_ca.py makes some to try it with), or "
                "set cluster.plain_text: true if all who can reach the ports are trusted"
            )


def port_of(address: str) -> int:
    """The port of a `host:port`."""
    return int(address.rpartition(":")[2])
