"""The section `cluster` of a configuration: who the parties are, where they are, and what each allows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from secp_spu.config.section import OWN, OWNERS, Count, Role, Section, for_party, locate, own_file
from secp_spu.errors import ConfigError


def _check_address(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.-]+:[0-9]{1,5}", value):
        raise ValueError(
            f"is {value!r}, but must be host:port, such as 10.0.0.1:9100; a host has letters, digits, . and - alone"
        )
    if not 0 < port_of(value) < 65536:
        raise ValueError(f"is {value!r}, but a port is a number from 1 to 65535")
    return value


Address = Annotated[
    str,
    AfterValidator(_check_address),
    WithJsonSchema({"type": "string", "format": "host:port", "pattern": "^[A-Za-z0-9.-]+:[0-9]{1,5}$"}),
]


ServerKey = Literal["control", "compute"]


SERVERS: tuple[ServerKey, ...] = get_args(ServerKey)
"""What a party listens with."""


class ListenSection(Section):
    """Addresses for a party behind Docker, NAT or a cloud's gateway, which the others reach at other addresses."""

    control: Address | None = Field(
        default=None,
        description="The address where SecretFlow listens, such as `0.0.0.0:9100` for all addresses of the machine. "
        "By default the party listens where the others reach it.",
    )
    compute: Address | None = Field(
        default=None,
        description="The address where SPU listens, such as `0.0.0.0:9110` for all addresses of the machine. "
        "By default the party listens where the others reach it.",
    )


class AddressSection(Section):
    """Where the other parties reach a party. NAME stands for the party's name."""

    control: Address = Field(
        description="The address at which the other parties reach SecretFlow, such as `10.0.0.1:9100`. "
        "Owners' shares come in here, opened logits go out, and the parties tell each other what all may know.",
    )
    compute: Address | None = Field(
        default=None,
        description="The address at which the compute parties reach SPU, such as `10.0.0.1:9110`. "
        "A compute party needs it; other parties have none.",
    )
    listen: Annotated[ListenSection, OWN] = Field(
        default=ListenSection(),
        description="Where the party listens, if not at these addresses. Only the party itself needs it.",
    )

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
    """PEM files. `{party}` in a path stands for the name of the party that reads the file.

    Each party has one certificate, for SecretFlow and SPU, as client and as server. The party's name is among the DNS
    names of its subject alternative names; names of machines need not be there. Both sides of a connection show their
    certificates, and a certificate that the authority has not signed is refused.

    On the control port a party is recognised by its certificate, and a message counts only as the message of the party
    whose certificate came with it. On the compute port SPU's link only checks that the authority has signed the
    certificate: any party, and anybody else who has a certificate of this authority, could stand in for another party.
    """

    ca: Path = Field(
        description="The certificate of the authority that signs the parties' certificates. "
        "The authority signs them directly, and signs no others.",
    )
    certificate: Path = Field(description="The certificate of this party, such as `tls/{party}.pem`.")
    key: Path = Field(
        description="The private key of this party, without a passphrase, such as `tls/{party}.key`. "
        "It is the party's secret.",
    )

    @field_validator("ca", "certificate", "key", mode="before")
    @classmethod
    def _find(cls, value: str, info: ValidationInfo) -> Path:
        if (info.context or {}).get("party") is None and isinstance(value, str) and value:
            return Path(value)  # a simulation or an audit, which open no connection
        return locate(for_party(value, info), info)


LIMITS_FILE = "~/.local/state/secp-spu/limits.json"
"""Where a model owner's counts are kept unless `cluster.limits.file` says otherwise."""


class LimitsSection(Section):
    """Limits for all runs of the model owner together. A day is a day of UTC.

    The model owner's own process counts before it takes part in what it counts, and refuses what would exceed a limit.
    Other parties cannot change the limits. What a failed run has counted stays counted.
    """

    generations_a_day: int | None = Field(
        default=None,
        ge=0,
        description="Number of generations of tuning that may begin in a day. By default there is no limit.",
    )
    evaluations_a_day: int | None = Field(
        default=None,
        ge=0,
        description="Number of evaluations in a day: a prompt of tuning on a set of texts is one evaluation. "
        "A generation evaluates every candidate on the training texts and, as `tuning.validate_every` says, two "
        "finalists on the validation texts. A gradient optimizer has one candidate, and its backward pass is not "
        "counted: limit its steps by `generations_a_day`. "
        "At the end two prompts are evaluated on the validation texts. Before and after tuning one prompt is evaluated "
        "on the test texts. By default there is no limit.",
    )
    texts_a_day: int | None = Field(
        default=None,
        ge=0,
        description="Number of texts in a day whose logits are opened, in tuning and in prediction. "
        "A text counts once for each prompt before it. By default there is no limit.",
    )
    predictions_a_day: int | None = Field(
        default=None,
        ge=0,
        description="Number of texts that `secp-spu predict` may label in a day. By default there is no limit.",
    )
    file: Path = Field(
        default=Path(LIMITS_FILE),
        validate_default=True,
        description="The file where the counts are kept from run to run. "
        "All configurations that name the same file share the limits. `{party}` stands for the party's name, and `~` "
        "for the home folder.",
    )

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
    """The roles of the parties. Without `addresses` SecretFlow simulates them on this machine, which protects nothing.

    A party's name begins with a lower-case letter and has lower-case letters, digits and _ only.
    """

    data_owner: str = Field(
        description="The name of the party that has the texts. It alone sees prompts, losses, labels and logits.",
    )
    model_owner: str = Field(description="The name of the party that has the weights.")
    compute: list[str] = Field(
        min_length=2,
        description="The names of the parties that hold the shares, in alphabetical order. "
        "The order gives SPU's ranks. An owner may be a compute party.",
    )
    dealer: str | None = Field(
        default=None,
        description="The name of the party that deals the correlations, with `correlations: dealt`. "
        "It is no owner and no compute party.",
    )
    addresses: dict[str, AddressSection] | None = Field(
        default=None,
        description="The addresses of every party, by the party's name. "
        "Without them SecretFlow simulates all parties on this machine.",
    )
    tls: Annotated[TlsSection | None, OWN] = Field(
        default=None,
        description="The certificates of the connections between the parties. "
        "Without them whoever sees the network sees all shares, hence all secrets. All parties have this section, or "
        "none has it.",
    )
    plain_text: bool = Field(
        default=False,
        description="Whether the parties may connect without certificates. "
        "It must be true for `addresses` without `tls`, also if all addresses are on this machine. Set it only if "
        "everybody who can reach the ports is trusted: in plain text nobody is recognised, and who can connect can be "
        "any party.",
    )
    start_seconds: Count = Field(
        default=120, description="Seconds for which a party waits for the other parties to start."
    )
    timeout_seconds: Count = Field(
        default=300,
        description="Seconds for which a party waits for a message. It must be longer than any operation takes.",
    )
    limits: Annotated[LimitsSection | None, OWN] = Field(
        default=None,
        description="What the model owner gives away in a day at most. Only the model owner needs this section. "
        "Without it there is no limit.",
    )
    log: Annotated[Path | None, OWN] = Field(
        default=None,
        description="The file in which this party logs what others ask of it, one line of JSON for each event. "
        "It says which programs ran, how much was opened to whom, and how many bytes were sent; it holds no secret "
        "value. `{party}` stands for the party's name, and `~` for the home folder. By default there is no log.",
    )

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
