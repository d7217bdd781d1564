"""A YAML file and KEY=VALUE settings in, one validated configuration for every command and party out."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import re
from collections.abc import Sequence, Set
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from secp_spu.errors import ConfigError
from secp_spu.files import write_whole
from secp_spu.protocol.series import LIMITS, TERMS

PACKAGE_PREFIX = "package:"


Role = Literal["data_owner", "model_owner"]
OWNERS: frozenset[Role] = frozenset({"data_owner", "model_owner"})


def _locate(value: str, info: ValidationInfo, *readers: Role) -> Path:
    """A path of the configuration: $VARIABLES replaced, `package:NAME/...` found, relative to the file's folder.

    Where none of its readers is, in a cluster, the path stays as it is written: the file is on another machine.
    """
    if readers and not (info.context or {}).get("roles", OWNERS) & set(readers) and isinstance(value, str) and value:
        return Path(value)
    path = _place(value, info)
    try:
        path.stat()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise ValueError(f"{path} does not exist" if missing else f"{path}: {error.strerror}") from error
    return path


def _place(value: str, info: ValidationInfo) -> Path:
    """Where a path of the configuration points, whether or not there is a file."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"is {value!r}, but must be a path; put it in quotes if YAML reads it as something else")
    text = re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda match: _variable(match.group(1) or match.group(2)), value)
    if text.startswith(PACKAGE_PREFIX):
        name, _, rest = text.removeprefix(PACKAGE_PREFIX).partition("/")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or spec.origin is None:
            raise ValueError(f"the Python package {name!r} is not installed: see 'Installing' in the README")
        return Path(spec.origin).parent / rest
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / text


def _variable(name: str) -> str:
    if name not in os.environ:
        raise ValueError(f"the environment variable {name} is not set: set it, or write the path itself")
    return os.environ[name]


OptimizerKind = Literal["cma", "sep-cma", "xnes", "de", "spsa", "random", "gauss-newton"]

LEAST_POPULATION: dict[OptimizerKind, int] = {"de": 7}
"""Of the optimizers that need more than the four candidates that all do."""

Located = Annotated[Path, Field(description="a path")]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSection(_Section):
    """The model owner's model.

    Attributes:
        folder: a Hugging Face folder, or `package:NAME/FOLDER` inside an installed Python package.
        head: "label_words": the language-model head's logits of a word for each label; "label_embeddings": similarity
            to a text that describes each label, for encoders without such a head.
        activation: of the feed-forward layers. "checkpoint": what it was made for; or "gelu", "gelu_tanh" (off by 5e-4
            at most and five times cheaper), "relu", "series" (GELU up to `activation_range`, much cheaper still) or
            "quadratic", which the checkpoint must have been adapted to.
        activation_range: of "series", the largest |x| before it; by default the checkpoint's. Beyond it a series is
            wrong, and there is no comparison that would catch it.
        activation_terms: of "series", how many: more take more correlations and are nearer to GELU; by default the
            checkpoint's, or 5.
        force_activation: take another activation than the checkpoint was adapted to.
        embedding: "data_owner": it has the embedding tables, and embeds its texts and prompts at home; "private": the
            tables stay with the model owner, and tokens are looked up under MPC, once a text. The data owner then needs
            config.json and tokenizer.json alone.
    """

    folder: Located
    head: Literal["label_words", "label_embeddings"] = "label_words"
    activation: Literal["checkpoint", "gelu", "gelu_tanh", "relu", "series", "quadratic"] = "checkpoint"
    activation_range: Annotated[float, Field(ge=LIMITS[0], le=LIMITS[1])] | None = None
    activation_terms: Annotated[int, Field(ge=TERMS[0], le=TERMS[1])] | None = None
    force_activation: bool = False
    embedding: Literal["data_owner", "private"] = "data_owner"

    @field_validator("folder", mode="before")
    @classmethod
    def _find(cls, value: str, info: ValidationInfo) -> Path:
        return _locate(value, info, "data_owner", "model_owner")

    @model_validator(mode="after")
    def _check(self) -> ModelSection:
        for key in ("activation_range", "activation_terms"):
            if getattr(self, key) is not None and self.activation != "series":
                raise ValueError(
                    f"model.{key}: is {getattr(self, key)}, but only series has one and model.activation is "
                    f"{self.activation}: leave it out, or set model.activation: series"
                )
        return self


class TaskSection(_Section):
    """The data owner's task.

    Attributes:
        pool: JSON lines with `label` and the template's fields; training and validation examples are drawn from it.
        test: the same, for accuracy only.
        template: what the model reads: fields of the examples in braces, and {mask} for the label-word head; the end of
            a decoder's.
        labels: label -> label word, or text that describes it.
        shots: training examples a class.
        validation_shots: others a class, to select the prompt on.
        test_examples: how many of `test` to use, from its start; all by default.
        max_tokens: texts are padded to this length, which alone is public.
        truncate: cut longer texts, instead of refusing them.
    """

    pool: Located
    test: Located
    template: str
    labels: Annotated[dict[str, str], Field(min_length=2)]
    shots: Count = 16
    validation_shots: Count = 16
    test_examples: Count | None = None
    max_tokens: Annotated[int, Field(ge=4)]
    truncate: bool = False

    @field_validator("pool", "test", mode="before")
    @classmethod
    def _find(cls, value: str, info: ValidationInfo) -> Path:
        return _locate(value, info, "data_owner")

    @field_validator("labels")
    @classmethod
    def _refuse_blanks(cls, value: dict[str, str]) -> dict[str, str]:
        if blank := [label for label, word in value.items() if not label.strip() or not word.strip()]:
            raise ValueError(
                f"has {blank[0]!r}: {value[blank[0]]!r}, but a label and its word must be texts, not blank"
            )
        return value


class InitialPromptSection(_Section):
    """Where tuning starts: p0 in p = A z + p0. One of the keys, or none for the embeddings of randomly drawn words.

    Attributes:
        words: a text, whose tokens are repeated until there are enough.
        run: the folder of an earlier run on the same model, whose tuned prompt it is.
        peft: the folder of a PEFT adapter for prompt tuning on the same model.
    """

    words: str | None = None
    run: Located | None = None
    peft: Located | None = None

    @field_validator("run", "peft", mode="before")
    @classmethod
    def _find(cls, value: str | None, info: ValidationInfo) -> Path | None:
        return None if value is None else _locate(value, info, "data_owner")

    @model_validator(mode="after")
    def _check(self) -> InitialPromptSection:
        if len(named := [key for key, value in self if value is not None]) > 1:
            raise ValueError(f"tuning.initial_prompt: names {' and '.join(named)}: write one of them alone")
        return self


class TuningSection(_Section):
    """Forward-only tuning.

    Attributes:
        optimizer: "cma" (CMA-ES); "sep-cma" (its separable kind); "xnes" (natural evolution strategies); "de"
            (differential evolution); "spsa"; "random" (search); "gauss-newton": steps on all logits, not on losses.
        prompt_tokens: vectors of the soft prompt.
        initial_prompt: `random`, or a section that says where p0 comes from. It is the data owner's secret.
        intrinsic_dim: length of z in p = A z + p0.
        population: candidates a generation.
        generations: how many; a run can be resumed with more.
        loss: of the logits of the label words.
        sigma: the first generation's standard deviation, or length of its steps.
        alpha: scales A, whose entries have the standard deviation alpha * sd(word embeddings) / (sqrt(d) * sigma).
        candidates_per_call: candidates in one forward pass; by default as many as fit half the memory that is free at
            the compute party that has the least. Where a pass would not fit, texts are split too.
        seed: of the few-shot draw, p0, A and the optimizer; masks are never seeded. Who knows it knows the first
            generation's prompts, so in a cluster it is the data owner's secret, which by default draws one and keeps it
            in its checkpoint.
    """

    optimizer: OptimizerKind = "cma"
    prompt_tokens: Count
    initial_prompt: InitialPromptSection = InitialPromptSection()
    intrinsic_dim: Annotated[int, Field(ge=2, le=10_000)]
    population: Annotated[int, Field(ge=4, le=10_000)]
    generations: Count
    loss: Literal["cross_entropy", "hinge"] = "cross_entropy"
    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    candidates_per_call: Count | None = None
    seed: Annotated[int, Field(ge=0)] | None = None

    @field_validator("initial_prompt", mode="before")
    @classmethod
    def _read_initial_prompt(cls, value: object) -> object:
        if isinstance(value, str) and value != "random":
            raise ValueError(f"is {value!r}, but must be random, {{words: TEXT}}, {{run: FOLDER}} or {{peft: FOLDER}}")
        return {} if value == "random" else value

    @model_validator(mode="after")
    def _check_population(self) -> TuningSection:
        least = LEAST_POPULATION.get(self.optimizer, 0)
        if self.population < least:
            raise ValueError(
                f"tuning.population: is {self.population}, but the optimizer {self.optimizer} takes {least} or more"
            )
        return self


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


class ListenSection(_Section):
    """Where a party listens, if the others reach it at another address: behind Docker, NAT or a cloud's public address.

    Attributes:
        control: `host:port`, such as 0.0.0.0:9100 for all of the machine's addresses; by default the address itself.
        compute: the same.
    """

    control: Address | None = None
    compute: Address | None = None


class AddressSection(_Section):
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


class TlsSection(_Section):
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
        return _locate(value.replace("{party}", party) if isinstance(value, str) and party else value, info)


LIMITS_FILE = "~/.local/state/secp-spu/limits.json"
"""Where a model owner's counts are kept unless `cluster.limits.file` says otherwise."""

Limit = Annotated[int, Field(ge=0)]


class LimitsSection(_Section):
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
        return _own_file(given, info)

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


def _own_file(value: str, info: ValidationInfo) -> Path:
    """A file that this party writes; `{party}` in its path stands for the party's name, ~ for its home."""
    party = (info.context or {}).get("party")
    if isinstance(value, str) and party:
        value = value.replace("{party}", party)
    return Path(value).expanduser() if isinstance(value, str) and value.startswith("~") else _place(value, info)


class ClusterSection(_Section):
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
        return None if value is None else _own_file(value, info)

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


class Config(_Section):
    """Everything that a run is made of.

    Attributes:
        protocol: "aby3": three parties of which any two are honest; "semi2k": two or more parties, of which the first
            deals the multiplication triples; "plaintext": no MPC, for comparison.
        parties: how many compute parties.
        correlations: "joint": made by the parties together; "dealt": by a dealer who knows every mask, so it must be no
            compute party and see no opening.
        trusted_first_party: must be true for semi2k: SPU's published wheels let the first party deal the triples, and
            it could open everything with them.
        cluster: SecretFlow's parties; without it all parties are threads of one process.
    """

    protocol: Literal["aby3", "semi2k", "plaintext"] = "aby3"
    parties: Annotated[int, Field(ge=2)] = 3
    correlations: Literal["joint", "dealt"] = "joint"
    trusted_first_party: bool = False
    cluster: ClusterSection | None = None
    model: ModelSection
    task: TaskSection
    tuning: TuningSection

    @model_validator(mode="after")
    def _check_trust(self) -> Config:
        if self.protocol == "aby3" and self.parties != 3:
            raise ValueError(f"parties: is {self.parties}, but aby3 runs among 3")
        if self.protocol == "semi2k" and not self.trusted_first_party:
            raise ValueError(
                "trusted_first_party: is false, but under semi2k the first party deals the multiplication triples and "
                "could open every secret with them: set it to true if that party may be trusted, or take aby3"
            )
        if self.cluster:
            self._check_cluster(self.cluster)
        if self.model.head == "label_words" and "{mask}" not in self.task.template:
            raise ValueError("task.template: has no {mask}, where the label-word head reads")
        return self

    def _check_cluster(self, cluster: ClusterSection) -> None:
        if self.protocol == "plaintext":
            raise ValueError("cluster: protocol plaintext has no use for it; leave it out, or set cluster: null")
        if len(cluster.compute) != self.parties:
            raise ValueError(f"cluster.compute: names {len(cluster.compute)} parties, but parties is {self.parties}")
        if self.correlations == "dealt" and cluster.dealer is None:
            raise ValueError(
                "cluster.dealer: is missing, but correlations are dealt: name a party that is neither an owner nor a "
                "compute party"
            )
        if self.correlations == "joint" and cluster.dealer is not None:
            raise ValueError(f"cluster.dealer: is {cluster.dealer}, but correlations are joint: leave it out")

    def agreed(self) -> dict[str, Any]:
        """What the configurations of all parties of a cluster must have in common, by dotted key.

        Not among it: paths and where a party listens, which each party has of its own, the data owner's secrets, its
        seed and initial prompt, and the model owner's limits.
        """
        content = self.model_dump(mode="json")
        for address in ((content["cluster"] or {}).get("addresses") or {}).values():
            del address["listen"]
        own = {
            **{"model": {"folder"}, "task": {"pool", "test"}, "tuning": {"seed", "initial_prompt"}},
            "cluster": {"tls", "limits", "log"},
        }
        flat: dict[str, Any] = {"cluster.tls": self.cluster is not None and self.cluster.tls is not None}
        for key, value in content.items():
            if isinstance(value, dict):
                flat |= {f"{key}.{k}": v for k, v in value.items() if k not in own.get(key, set())}
            else:
                flat[key] = value
        return flat

    def digest(self) -> str:
        """SHA-256 of all values that decide a run's course; `generations` may grow when a run is resumed.

        Where the parties are and how they link up does not decide it, nor do paths, but what they lead to: a run may go
        on elsewhere (`tuning.contents`).
        """
        content = self.model_dump(mode="json")
        del content["tuning"]["generations"], content["cluster"]
        del content["model"]["folder"], content["task"]["pool"], content["task"]["test"]
        content["task"]["labels"] = list(content["task"]["labels"].items())  # their order numbers the classes
        initial = content["tuning"]["initial_prompt"]
        initial |= {key: initial[key] is not None for key in ("run", "peft")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def save_config(config: Config, path: Path) -> None:
    """Write what `load_config` reads, with all defaults, and paths as they were found; it may hold the secret seed."""
    content = config.model_dump(mode="json")
    write_whole(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode(), secret=True)


def load_config(
    path: Path, settings: Sequence[str] = (), *, party: str | None = None, needs: Set[Role] | None = None
) -> Config:
    """Read a configuration.

    Args:
        path: of a YAML file.
        settings: `KEY=VALUE` with dotted keys, such as `tuning.population=8`; they win over the file.
        party: of a cluster, the one that reads; only files that it needs have to be there. None: all parties.
        needs: whose files have to be there, instead of the party's.
    Raises: ConfigError naming the file and key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"configuration {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"configuration {path} holds no keys: it must be a YAML mapping")
    for setting in settings:
        _set(content, setting)
    if needs is None:
        needs = OWNERS if party is None else _roles(content, party, path)
    context = {"folder": path.resolve().parent, "roles": needs, "party": party}
    try:
        return Config.model_validate(content, context=context)
    except ValidationError as error:
        raise ConfigError(f"configuration {path}: {_explain(error.errors()[0])}") from error


def _roles(content: dict[str, Any], party: str, path: Path) -> Set[Role]:
    """What a party owns, read before validation: it decides which files have to be there."""
    cluster = content.get("cluster")
    if not isinstance(cluster, dict):
        return set()
    named = [
        cluster.get("data_owner"),
        cluster.get("model_owner"),
        cluster.get("dealer"),
        *(cluster.get("compute") or ()),
    ]
    if party not in named:
        known = ", ".join(sorted({str(name) for name in named if name}))
        raise ConfigError(f"{party!r} is no party of configuration {path}: its parties are {known}")
    return {role for role in OWNERS if cluster.get(role) == party}


def _set(content: dict[str, Any], setting: str) -> None:
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting}: write KEY=VALUE, for example --set tuning.population=8")
    *sections, name = key.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {setting}: {section} is no section")
    try:
        content[name] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        content[name] = value  # a template, such as {text} It was {mask}


def _explain(error: Any) -> str:
    """One line for what pydantic found: the key, what is wrong, and the mend."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        names = list(_section_of(error["loc"]).model_fields)
        close = get_close_matches(str(error["loc"][-1]), names, n=1)
        return f"{key} is no key: " + (f"did you mean {close[0]}?" if close else f"allowed are {', '.join(names)}")
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return message if message.startswith(key) else f"{key}: {message}"
    if error["type"] in ("model_type", "dict_type"):
        return f"{key} is {error['input']!r}, but must be a section of keys"
    if error["type"] == "float_type" and _is_number(error["input"]):
        return f"{key} is {error['input']!r}, which is text to YAML: write {float(error['input']):.1e}"
    quotes = ", in quotes (YAML reads yes, no and numbers otherwise)" if error["type"] == "string_type" else ""
    return f"{key} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}{quotes}"


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def _section_of(place: tuple) -> type[_Section]:
    """The section that a key stands in."""
    if place[:2] == ("cluster", "tls") and len(place) > 2:
        return TlsSection
    if place[:2] == ("cluster", "limits") and len(place) > 2:
        return LimitsSection
    if place[:2] == ("tuning", "initial_prompt") and len(place) > 2:
        return InitialPromptSection
    if place[:2] == ("cluster", "addresses") and len(place) > 3:
        return ListenSection if place[3] == "listen" and len(place) > 4 else AddressSection
    sections: dict[str, type[_Section]]
    sections = {"model": ModelSection, "task": TaskSection, "tuning": TuningSection, "cluster": ClusterSection}
    return sections.get(str(place[0]), Config) if len(place) > 1 else Config
