"""A configuration is one validated record: every error names the key and the mend, in one line."""

import json
import re
from pathlib import Path

import pytest
import yaml

from secp_spu.cli.app import DEMO_CONFIG
from secp_spu.config import load_config, save_config
from secp_spu.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
ABY3 = CONFIGS / "cluster-aby3.yaml"
SEMI2K = CONFIGS / "cluster-semi2k.yaml"
LABEL_PAIRS = ('negative: "no"', 'positive: "yes"')
SIMULATION = CONFIGS / "simulation.yaml"


@pytest.fixture
def write(tmp_path):
    """A function that writes the demo's configuration with changes, and returns its path."""

    def write(**changes):
        content = yaml.safe_load(DEMO_CONFIG.read_text())
        for section in ("pool", "test"):
            content["task"][section] = str(DEMO_CONFIG.parent / content["task"][section])
        content["model"]["folder"] = str(DEMO_CONFIG.parent / content["model"]["folder"])
        for key, value in changes.items():
            section, _, name = key.rpartition("__")
            (content[section] if section else content)[name] = value
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def test_the_demo_is_valid_and_paths_are_found_from_its_folder():
    config = load_config(DEMO_CONFIG)
    assert (config.protocol, config.parties, config.correlations) == ("aby3", 3, "joint")
    assert config.task.pool == DEMO_CONFIG.parent / "data" / "pool.jsonl"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_is_valid(path, monkeypatch, tmp_path):
    monkeypatch.setenv("SECP_SPU_DATA", str(tmp_path))
    for name in re.findall(r"\$\{SECP_SPU_DATA\}/(\S+)", path.read_text()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    load_config(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuning__populaton": 8}, "tuning.populaton is no key: did you mean tuning.population?"),
        ({"shade": "red"}, "shade is no key: allowed are protocol, parties"),
        ({"tuning__population": "many"}, "tuning.population is 'many': input should be a valid integer"),
        (
            {"tuning__initial_prompt": "best"},
            "tuning.initial_prompt: is 'best', but must be random, {words: TEXT}, {run: FOLDER} or {peft: FOLDER}",
        ),
        (
            {"tuning__initial_prompt": {"word": "good"}},
            "tuning.initial_prompt.word is no key: did you mean tuning.initial_prompt.words?",
        ),
        ({"tuning__initial_prompt": {"words": True}}, "tuning.initial_prompt.words is True: input should be a valid"),
        ({"tuning__initial_prompt": {"run": "absent"}}, "absent does not exist"),
        (
            {"tuning__initial_prompt": {"words": "good", "run": "/"}},
            "tuning.initial_prompt: names words and run: write one of them alone",
        ),
        ({"tuning__population": 1}, "tuning.population is 1: input should be greater than or equal to 4"),
        ({"model__embedding": "both"}, "model.embedding is 'both': input should be 'data_owner' or 'private'"),
        ({"tuning__sigma": 0.0}, "tuning.sigma is 0.0: input should be greater than 0"),
        ({"protocol": "cheetah"}, "protocol is 'cheetah': input should be 'aby3', 'semi2k' or 'plaintext'"),
        ({"protocol": "semi2k"}, "trusted_first_party: is false, but under semi2k the first party deals"),
        ({"parties": 2}, "parties: is 2, but aby3 runs among 3"),
        ({"task__pool": "nowhere.jsonl"}, "task.pool: .*nowhere.jsonl does not exist"),
        ({"task__pool": "${SECP_UNSET}/x"}, "task.pool: the environment variable SECP_UNSET is not set"),
        ({"model__folder": "package:no_such_package/model"}, "the Python package 'no_such_package' is not installed"),
        ({"model__folder": 3}, "model.folder: is 3, but must be a path"),
        ({"tuning__alpha": float("inf")}, "tuning.alpha is inf: input should be less than or equal to 1000000"),
        ({"task__labels": {"a": False, "b": "x"}}, "task.labels.a is False: .* in quotes"),
        ({"task__labels": {"one": "good"}}, "task.labels has a length of 1, but must have at least 2"),
        ({"task__template": "{text}"}, "task.template: has no {mask}"),
        ({"tuning__seed": -1}, "tuning.seed is -1: input should be greater than or equal to 0"),
        ({"tuning__seed": 0.5}, "tuning.seed is 0.5: input should be a valid integer"),
        ({"model__gelu": "tanh"}, "model.gelu is no key"),
        ({"model__activation": "swish"}, "model.activation is 'swish': input should be 'checkpoint', 'gelu'"),
        (
            {"model__activation_range": 8},
            "model.activation_range: is 8.*, but only series has one and .*checkpoint",
        ),
        (
            {"model__activation": "gelu", "model__activation_terms": 4},
            "model.activation_terms: is 4, but only series has one",
        ),
        (
            {"model__activation": "series", "model__activation_range": 33},
            "model.activation_range is 33: .* to 32",
        ),
        ({"model__activation": "series", "model__activation_terms": 1}, "model.activation_terms is 1: .* equal to 2"),
        ({"model__force_activation": "yes"}, "model.force_activation is 'yes': .*boolean"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_named_in_one_line(write, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(write(**changes))
    assert "\n" not in str(error.value)


def test_all_missing_keys_are_named(tmp_path, write):
    (tmp_path / "c.yaml").write_text("protocol: aby3\n")
    with pytest.raises(ConfigError, match="model, task, tuning are missing"):
        load_config(tmp_path / "c.yaml")
    path = write()
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "pool:" not in line))
    with pytest.raises(ConfigError, match=r"task\.pool is missing"):
        load_config(path)


def test_what_a_setting_got_wrong_is_not_said_of_the_file(write):
    path = write(tuning__population=4)
    with pytest.raises(ConfigError, match="^`settings` tuning.population=eight: tuning.population is 'eight': "):
        load_config(path, ["tuning.seed=1", "tuning.population=eight"])
    with pytest.raises(ConfigError, match="^`settings` tuning.generations=: tuning.generations is empty: "):
        load_config(path, ["tuning.generations="])
    with pytest.raises(ConfigError, match="^`settings` tuning.generations=: tuning.generations is empty: "):
        load_config(path, ["tuning.generations=8", "tuning.generations="])
    with pytest.raises(ConfigError, match="^`settings` task.pool=absent: task.pool: .*absent does not exist"):
        load_config(path, ["task.pool=absent"])
    with pytest.raises(ConfigError, match="^`settings` parties=2: parties: is 2, but aby3 runs among 3"):
        load_config(path, ["protocol=aby3", "parties=2"])
    with pytest.raises(ConfigError, match=f"^configuration {re.escape(str(path))}: tuning.population is 'eight': "):
        load_config(write(tuning__population="eight"), ["tuning.seed=1"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("protocol: aby3\nparties: 3\nprotocol: plaintext\n", "`protocol` stands on line 1 and on line 3: keep one"),
        ("tuning:\n  seed: 1\n  sigma: 1\n  seed: 2\n", "`seed` stands on line 2 and on line 4: keep one"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, content, message):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "c.yaml")


def test_what_is_not_utf8_is_said_to_be_that(tmp_path):
    (tmp_path / "c.yaml").write_bytes("protocol: aby3  # für alle".encode("latin-1"))
    with pytest.raises(ConfigError, match="c.yaml is not UTF-8 at byte 19: save it as UTF-8$"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("content", ["- a list", "", "key: [", b"\xff\xfe"])
def test_what_is_no_configuration_is_refused(tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load_config(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.yaml: No such file"):
        load_config(tmp_path / "absent.yaml")


def test_settings_win_over_the_file(write):
    config = load_config(write(), ["tuning.population=5", "task.truncate=true", "protocol=plaintext"])
    assert (config.tuning.population, config.task.truncate, config.protocol) == (5, True, "plaintext")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("tuning.population", "write KEY=VALUE"),
        ("protocol.name=x", "protocol is no section"),
        ("protocol=[", r"protocol is '\['"),
    ],
)
def test_bad_settings_are_named(write, setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(), [setting])


def test_semi2k_is_allowed_in_words(write):
    assert load_config(write(protocol="semi2k", parties=2, trusted_first_party=True)).parties == 2


def test_the_digest_tells_runs_apart_but_lets_them_grow(write):
    path = write()
    digest = load_config(path).digest()
    assert load_config(path, ["tuning.generations=99"]).digest() == digest
    assert load_config(path, ["tuning.seed=99"]).digest() != digest
    assert load_config(path, ["task.template={text} is {mask}"]).digest() != digest
    assert load_config(path, ["tuning.seed=null"]).digest() != digest


def test_by_default_there_is_no_seed_and_no_cluster(tmp_path, write):
    content = yaml.safe_load(write().read_text())
    del content["tuning"]["seed"]
    (tmp_path / "unseeded.yaml").write_text(yaml.safe_dump(content))
    config = load_config(tmp_path / "unseeded.yaml")
    assert (config.tuning.seed, config.cluster) == (None, None)


# Clusters


def _refusal(path, *settings, party=None):
    """What is said of a configuration, after where it came from: the file, or a setting. Always one line."""
    with pytest.raises(ConfigError) as error:
        load_config(path, settings, party=party)
    message = str(error.value)
    assert "\n" not in message
    origins = [f"configuration {path}: ", *(f"`settings` {setting}: " for setting in settings)]
    (origin,) = [origin for origin in origins if message.startswith(origin)]
    return message.removeprefix(origin)


def test_a_cluster_is_read_with_its_parties_and_roles():
    config = load_config(SEMI2K)
    cluster = config.cluster
    assert (cluster.data_owner, cluster.model_owner, cluster.compute, cluster.dealer) == (
        "alice",
        "bob",
        ["alice", "bob"],
        "carol",
    )
    assert cluster.everyone == ["alice", "bob", "carol"]
    assert [cluster.roles(party) for party in cluster.everyone] == [{"data_owner"}, {"model_owner"}, set()]
    assert (cluster.addresses["bob"].control, cluster.addresses["carol"].compute) == ("127.0.0.1:21502", None)
    assert (cluster.tls, cluster.plain_text) == (None, False)


def test_owners_need_not_compute():
    config = load_config(SIMULATION, ["cluster.compute=[carol, dave, erin]"])
    assert config.cluster.everyone == ["alice", "bob", "carol", "dave", "erin"]


NAMES = [
    ("data_owner=Alice", "cluster.*'Alice' is no name"),
    ("data_owner=a-b", "cluster.*'a-b' is no name"),
    ("data_owner=''", "cluster.*'' is no name"),
    ("model_owner=1st", "cluster.*'1st' is no name"),
    ("compute=[alice, bob, _carol]", "cluster.*'_carol' is no name"),
    ("dealer=the dealer", "cluster.*'the dealer' is no name"),
    ('data_owner="alice\\n"', r"cluster.*'alice\\n' is no name"),
    ("data_owner=no", r"cluster\.data_owner is False: .* in quotes"),
    ("data_owner=7", r"cluster\.data_owner is 7: .* in quotes"),
    ("model_owner=null", r"cluster\.model_owner is empty"),
    ("compute=[alice, bob, 3]", r"cluster\.compute\.2 is 3: .* in quotes"),
    ("data_owner=[alice]", r"cluster\.data_owner is \['alice'\]"),
]


@pytest.mark.parametrize(("setting", "message"), NAMES)
def test_a_party_has_a_name(setting, message):
    assert re.match(message, _refusal(SIMULATION, f"cluster.{setting}"))


PARTIES = [
    (SIMULATION, "model_owner=alice", r"cluster\.model_owner: .*data owner"),
    (SIMULATION, "compute=[bob, alice, carol]", r"cluster\.compute: .*\['alice', 'bob', 'carol'\]"),
    (SIMULATION, "compute=[alice, bob, bob]", r"cluster\.compute: .*names a party twice"),
    (SIMULATION, "compute=[alice]", r"cluster\.compute has a length of 1, but must have at least 2"),
    (SIMULATION, "compute=alice", r"cluster\.compute is 'alice': .*list"),
    (SIMULATION, "compute=[alice, bob]", r"cluster\.compute: names 2 parties, but parties is 3"),
    (SIMULATION, "compute=[alice, bob, carol, dave]", r"cluster\.compute: names 4 parties, but parties is 3"),
    (SIMULATION, "dealer=dave", r"cluster\.dealer: is dave, but correlations are joint"),
    (SEMI2K, "dealer=alice", r"cluster\.dealer: is alice, .*name another party"),
    (SEMI2K, "dealer=bob", r"cluster\.dealer: is bob, .*name another party"),
    (SEMI2K, "{dealer: carol, compute: [alice, carol]}", r"cluster\.dealer: is carol, .*name another party"),
    (SEMI2K, "{dealer: null}", r"cluster\.dealer: is missing, but correlations are dealt"),
    (SEMI2K, "{dealer: ''}", r"cluster.*''"),
]


@pytest.mark.parametrize(("path", "setting", "message"), PARTIES)
def test_parties_must_fit_their_roles(path, setting, message):
    if setting.startswith("{"):
        changes = {"data_owner": "alice", "model_owner": "bob", "compute": ["alice", "bob"]} | yaml.safe_load(setting)
        setting = "=" + yaml.safe_dump(changes, default_flow_style=True, width=1000).strip()
    else:
        setting = "." + setting
    assert re.match(message, _refusal(path, f"cluster{setting}"))


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        (SIMULATION, ["protocol=plaintext"], "cluster: .*plaintext"),
        (SIMULATION, ["correlations=dealt"], r"cluster\.dealer: is missing, but correlations are dealt"),
        (SEMI2K, ["correlations=joint"], r"cluster\.dealer: is carol, but correlations are joint"),
        (SEMI2K, ["parties=3"], r"cluster\.compute: names 2 parties, but parties is 3"),
        (SEMI2K, ["trusted_first_party=false"], "trusted_first_party: is false"),
        (SIMULATION, ["parties=2"], "parties: is 2, but aby3 runs among 3"),
    ],
)
def test_protocol_and_cluster_must_fit(path, settings, message):
    assert re.match(message, _refusal(path, *settings))


def test_the_protocol_of_a_cluster_may_be_changed_with_its_parties():
    settings = ["protocol=semi2k", "trusted_first_party=true", "parties=2", "cluster.compute=[alice, bob]"]
    assert load_config(SIMULATION, settings).cluster.everyone == ["alice", "bob"]
    dealt = load_config(SIMULATION, ["correlations=dealt", "cluster.dealer=dave"])
    assert dealt.cluster.everyone == ["alice", "bob", "carol", "dave"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "addresses.dave={control: 'localhost:1'}",
            r"cluster\.addresses: have dave, no party; the parties are alice, bob, carol",
        ),
        ("addresses={alice: {control: 'localhost:1'}}", r"cluster\.addresses: lack bob, carol; the parties"),
        ("addresses={}", r"cluster\.addresses: lack alice, bob, carol; the parties"),
        ("addresses=here", r"cluster\.addresses is 'here'"),
        ("addresses.bob=here", r"cluster\.addresses\.bob is 'here'"),
        (
            "addresses.bob={control: 'localhost:1'}",
            r"cluster\.addresses\.bob\.compute: is missing, and bob is a compute",
        ),
        ("addresses.bob.compute=null", r"cluster\.addresses\.bob\.compute: is missing"),
        ("addresses.bob={compute: 'localhost:1'}", r"cluster\.addresses\.bob\.control is missing"),
        ("addresses.bob.compute=127.0.0.1:21402", r"cluster\.addresses: 127\.0\.0\.1:\d+ stands there twice"),
        ("addresses.bob.control=127.0.0.1:21411", r"cluster\.addresses: 127\.0\.0\.1:\d+ stands there twice"),
        ("addresses.bob.control=2140", r"cluster\.addresses\.bob\.control is 2140: .* in quotes"),
        ("addresses.bob.control=12:30", r"cluster\.addresses\.bob\.control is 750: .* in quotes"),
        ("addresses.bob.control=null", r"cluster\.addresses\.bob\.control is empty"),
    ],
)
def test_every_party_has_addresses_of_its_own(setting, message):
    assert re.match(message, _refusal(ABY3, f"cluster.{setting}"))


@pytest.mark.parametrize("field", ["control", "compute"])
@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:x",
        ":80",
        "127.0.0.1 :80",
        "127.0.0.1:80 ",
        "127.0.0.1:80\n",
        "127.0.0.1:123456",
        "127.0.0.1:-1",
        "http://127.0.0.1:80",
        "127.0.0.1:80/x",
        "[::1]:80",
        "::1:80",
    ],
    ids=repr,
)
def test_an_address_is_host_and_port(field, address):
    message = _refusal(ABY3, f'cluster.addresses.bob.{field}="{address}"'.replace("\n", "\\n"))
    assert message.startswith(f"cluster.addresses.bob.{field}: is {address!r}, but must be host:port, such as ")


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_a_port_has_its_range(port):
    message = _refusal(ABY3, f"cluster.addresses.bob.control=localhost:{port}")
    where = "cluster.addresses.bob.control: "
    assert message == f"{where}is 'localhost:{port}', but a port is a number from 1 to 65535"


@pytest.mark.parametrize("port", [1, 65535])
def test_the_last_ports_are_ports(port):
    config = load_config(ABY3, [f"cluster.addresses.bob.control=localhost:{port}"])
    assert config.cluster.addresses["bob"].control == f"localhost:{port}"


# Links between machines


def _tls(folder, *parties):
    """A setting with the paths of certificates, of which those of some parties are there."""
    folder.mkdir(exist_ok=True)
    for name in ["ca.pem", *(f"{party}.{kind}" for party in parties for kind in ("pem", "key"))]:
        (folder / name).touch()
    paths = {"ca": "ca.pem", "certificate": "{party}.pem", "key": "{party}.key"}
    return "cluster.tls={" + ", ".join(f'{key}: "{folder}/{name}"' for key, name in paths.items()) + "}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.2", "bob.example.org"])
def test_no_connection_is_opened_in_plain_text_unless_that_is_asked_for(tmp_path, host):
    """Not on this machine either: every user of it can reach its ports."""
    setting = f"cluster.addresses.bob.control={host}:1"
    with pytest.raises(ConfigError, match=r"^cluster\.tls: is missing: .* set cluster\.plain_text: true "):
        load_config(ABY3, [setting]).cluster.refuse_plain_text()
    for more in ("cluster.plain_text=true", _tls(tmp_path / "tls")):
        load_config(ABY3, [setting, more]).cluster.refuse_plain_text()
    load_config(SIMULATION).cluster.refuse_plain_text()


LISTEN = "cluster.addresses.bob.listen"


def test_a_party_listens_where_it_is_reached_or_where_it_says():
    bob = load_config(ABY3).cluster.addresses["bob"]
    assert (bob.bound("control"), bob.bound("compute")) == ("127.0.0.1:21402", "127.0.0.1:21412")
    bob = load_config(ABY3, [f"{LISTEN}.control=0.0.0.0:9100"]).cluster.addresses["bob"]
    assert (bob.bound("control"), bob.bound("compute")) == ("0.0.0.0:9100", "127.0.0.1:21412")
    assert (bob.control, bob.listens_apart("control"), bob.listens_apart("compute")) == ("127.0.0.1:21402", True, False)
    carol = load_config(SEMI2K, ["cluster.addresses.carol.listen.control=0.0.0.0:1"]).cluster.addresses["carol"]
    assert (carol.bound("control"), carol.bound("compute")) == ("0.0.0.0:1", None)


def test_where_a_party_listens_is_its_own_affair():
    listening = load_config(ABY3, [f'{LISTEN}={{control: "0.0.0.0:1", compute: "0.0.0.0:2"}}'])
    assert listening.agreed() == load_config(ABY3).agreed()
    assert listening.digest() == load_config(ABY3).digest()


LISTENS = [
    (ABY3, "bob.listen.control=9100", r"bob\.listen\.control is 9100: .* in quotes"),
    (ABY3, "bob.listen.control=0.0.0.0", r"bob\.listen\.control: is '0\.0\.0\.0', but must be host:port"),
    (ABY3, "bob.listen.control='[::]:9100'", r"bob\.listen\.control: is '\[::\]:9100', but must be host:port"),
    (ABY3, "bob.listen=0.0.0.0:9100", r"bob\.listen is '0\.0\.0\.0:9100', but must be a section"),
    (
        ABY3,
        "bob.listen.controll=x",
        r"bob\.listen\.controll is no key: did you mean cluster\.addresses\.bob\.listen\.control\?",
    ),
    (ABY3, "bob.listen.compute=127.0.0.1:21402", r"bob: listen: 127\.0\.0\.1:21402 stands there twice"),
    (SEMI2K, "carol.listen.compute=0.0.0.0:1", r"carol: listen\.compute: is set, but compute is not"),
    (ABY3, "bob.control=0.0.0.0:1", r"bob: control: is 0\.0\.0\.0:1, at which nobody .*listen: \{control: 0\.0"),
    (ABY3, "bob.compute=0.0.0.0:1", r"bob: compute: is 0\.0\.0\.0:1, at which nobody .*listen: \{compute: 0\.0"),
    (ABY3, "bob.control=the_host:1", r"bob\.control: is 'the_host:1', .* has letters, digits, \. and - alone"),
]


@pytest.mark.parametrize(("path", "setting", "message"), LISTENS)
def test_where_nobody_could_listen_or_be_reached_is_refused(path, setting, message):
    assert re.match(rf"cluster\.addresses\.{message}", _refusal(path, f"cluster.addresses.{setting}"))


@pytest.mark.parametrize("value", ["yes please", "1", "'true'"])
def test_plain_text_is_asked_for_in_so_many_words(value):
    assert _refusal(ABY3, f"cluster.plain_text={value}").startswith("cluster.plain_text is ")


def test_each_party_reads_certificates_of_its_own(tmp_path):
    setting = _tls(tmp_path / "tls", "alice", "carol")
    for party in ("alice", "carol"):
        tls = load_config(ABY3, [setting], party=party).cluster.tls
        assert tls.certificate == tmp_path / "tls" / f"{party}.pem"
        assert tls.key == tmp_path / "tls" / f"{party}.key"
        assert tls.ca == tmp_path / "tls" / "ca.pem"
    message = _refusal(ABY3, setting, party="bob")
    assert message == f"cluster.tls.certificate: {tmp_path / 'tls' / 'bob.pem'} does not exist"


@pytest.mark.parametrize(("name", "key"), [("ca.pem", "ca"), ("bob.pem", "certificate"), ("bob.key", "key")])
def test_a_certificate_that_is_missing_is_named(tmp_path, name, key):
    setting = _tls(tmp_path / "tls", "bob")
    (tmp_path / "tls" / name).unlink()
    assert _refusal(ABY3, setting, party="bob") == f"cluster.tls.{key}: {tmp_path / 'tls' / name} does not exist"


def test_certificates_are_found_from_the_configurations_folder(tmp_path):
    _tls(tmp_path / "tls", "carol")
    path = tmp_path / "config.yaml"
    content = yaml.safe_load(ABY3.read_text())
    names = {"ca": "tls/ca.pem", "certificate": "tls/{party}.pem", "key": "tls/{party}.key"}
    content["cluster"]["tls"] = names
    path.write_text(yaml.safe_dump(content))
    assert load_config(path, party="carol").cluster.tls.key == tmp_path / "tls" / "carol.key"


@pytest.mark.parametrize("party", [None, "bob", "carol"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{certificate: x, key: x}", r"cluster\.tls\.ca is missing"),
        ("{ca: 3, certificate: x, key: x}", r"cluster\.tls\.ca: is 3, but must be a path"),
        ("{ca: '', certificate: x, key: x}", r"cluster\.tls\.ca: is '', but must be a path"),
        ("true", r"cluster\.tls is True"),
    ],
)
def test_certificates_are_all_there_or_none(value, message, party):
    assert re.match(message, _refusal(ABY3, f"cluster.tls={value}", party=party))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("adresses=x", "cluster.adresses is no key: did you mean cluster.addresses?"),
        ("dataowner=x", "cluster.dataowner is no key: did you mean cluster.data_owner?"),
        ("plaintext=true", "cluster.plaintext is no key: did you mean cluster.plain_text?"),
        ("shade=red", "cluster.shade is no key: allowed are data_owner, model_owner, compute"),
        (
            "addresses.bob.controll=x",
            "cluster.addresses.bob.controll is no key: did you mean cluster.addresses.bob.control?",
        ),
        ("addresses.bob.port=1", "cluster.addresses.bob.port is no key: allowed are control, compute, listen"),
        ("tls={ca: x, certificate: x, key: x, keys: x}", "cluster.tls.keys is no key: did you mean cluster.tls.key?"),
        ("tls={ca: x, certificate: x, key: x, shade: x}", "cluster.tls.shade is no key: allowed are ca, certificate"),
        ("start_seconds=0", "cluster.start_seconds is 0: "),
        ("timeout_seconds=soon", "cluster.timeout_seconds is 'soon': "),
    ],
)
def test_other_keys_of_a_cluster_are_refused(setting, message):
    assert _refusal(ABY3, f"cluster.{setting}").startswith(message)


@pytest.mark.parametrize(
    ("value", "message"),
    [("true", "cluster is True"), ("{}", "cluster.data_owner, cluster.model_owner, cluster.compute are missing")],
)
def test_what_is_no_cluster_is_refused(value, message):
    assert _refusal(ABY3, f"cluster={value}").startswith(message)


# What a party needs


@pytest.mark.parametrize(
    ("key", "needed_by"),
    [("model.folder", {"alice", "bob"}), ("task.pool", {"alice"}), ("task.test", {"alice"})],
)
@pytest.mark.parametrize("value", ["absent", "${SECP_UNSET}/x", "package:no_such_package/x"])
def test_a_file_has_to_be_where_it_is_read(key, needed_by, value):
    for party in ("alice", "bob", "carol", None):
        if party is None or party in needed_by:
            assert _refusal(ABY3, f"{key}={value}", party=party).startswith(f"{key}: ")
        else:
            section, name = key.split(".")
            config = load_config(ABY3, [f"{key}={value}"], party=party)
            assert getattr(getattr(config, section), name) == Path(value)


def test_roles_and_not_names_decide_what_is_read():
    settings = ["cluster.data_owner=bob", "cluster.model_owner=alice"]
    load_config(ABY3, [*settings, "task.pool=absent"], party="alice")
    assert _refusal(ABY3, *settings, "task.pool=absent", party="bob").startswith("task.pool: ")


def test_what_is_no_path_is_refused_everywhere():
    assert _refusal(ABY3, "task.pool=3", party="carol").startswith("task.pool: is 3, but must be a path")


# What parties agree on


def test_parties_agree_whatever_their_own_paths_and_seeds(tmp_path):
    setting = _tls(tmp_path / "tls", "alice", "bob", "carol")
    alice = load_config(ABY3, [setting, "tuning.seed=3"], party="alice")
    bob = load_config(ABY3, [setting, "task.pool=/x", "task.test=/y"], party="bob")
    carol = load_config(ABY3, [setting, "task.pool=/z", "model.folder=/w"], party="carol")
    assert alice.agreed() == bob.agreed() == carol.agreed()
    assert not set(alice.agreed()) & {"tuning.seed", "model.folder", "task.pool", "task.test"}
    assert str(tmp_path) not in repr(alice.agreed())


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("tuning.population=8", "tuning.population"),
        ("tuning.generations=9", "tuning.generations"),
        ("tuning.loss=hinge", "tuning.loss"),
        ("task.template={text} is {mask}", "task.template"),
        ("task.max_tokens=14", "task.max_tokens"),
        ("task.labels={negative: bad, positive: good}", "task.labels"),
        ("model.activation=gelu", "model.activation"),
        ("model.force_activation=true", "model.force_activation"),
        ("cluster.timeout_seconds=9", "cluster.timeout_seconds"),
        ("cluster.addresses.bob.control=localhost:9", "cluster.addresses"),
        ("cluster.plain_text=true", "cluster.plain_text"),
    ],
)
def test_what_differs_is_found_by_its_key(setting, key):
    ours, theirs = (load_config(ABY3, settings).agreed() for settings in ([], [setting]))
    assert [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)] == [key]


def test_a_party_without_certificates_does_not_agree(tmp_path):
    ours, theirs = (load_config(ABY3, settings).agreed() for settings in ([], [_tls(tmp_path / "tls")]))
    assert (ours.pop("cluster.tls"), theirs.pop("cluster.tls")) == (False, True)
    assert ours == theirs


def test_what_is_agreed_can_be_sent():
    agreed = load_config(SEMI2K).agreed()
    assert json.loads(json.dumps(agreed)) == agreed
    assert agreed["correlations"] == "dealt"


def test_a_run_may_go_on_elsewhere(tmp_path):
    """Where the parties are does not decide a run's course; nor, in masks, do their certificates."""
    digest = load_config(ABY3).digest()
    for settings in (["cluster=null"], ["cluster.addresses=null"], ["cluster.start_seconds=9"], [_tls(tmp_path / "t")]):
        assert load_config(ABY3, settings).digest() == digest
    assert load_config(ABY3, party="alice").digest() == digest
    assert load_config(ABY3, ["tuning.alpha=3.5"]).digest() != digest


def test_the_order_of_labels_decides_a_runs_course():
    """It numbers the classes, whose losses a resumed run would mix up."""
    there, back = ("task.labels={" + ", ".join(pair) + "}" for pair in (LABEL_PAIRS, LABEL_PAIRS[::-1]))
    assert load_config(ABY3, [there]).digest() != load_config(ABY3, [back]).digest()


def test_a_saved_configuration_is_the_same_one(write, tmp_path):
    config = load_config(write(tuning__initial_prompt={"words": "a good visit"}, tuning__alpha=1e-5))
    (tmp_path / "elsewhere").mkdir()
    save_config(config, tmp_path / "elsewhere" / "config.yaml")
    assert load_config(tmp_path / "elsewhere" / "config.yaml") == config


def test_random_is_the_initial_prompt_by_default(write):
    assert load_config(write(tuning__initial_prompt="random")) == load_config(write())


def test_the_initial_prompt_is_the_data_owners_alone(write):
    """The parties need not agree on it, and another party has no such folder."""
    with_words, without = load_config(write(tuning__initial_prompt={"words": "good"})), load_config(write())
    assert with_words.agreed() == without.agreed()
    assert with_words.digest() != without.digest()
    elsewhere = load_config(ABY3, ["tuning.initial_prompt={run: absent}"], party="bob")
    assert elsewhere.tuning.initial_prompt.run == Path("absent")
    with pytest.raises(ConfigError, match="absent does not exist"):
        load_config(ABY3, ["tuning.initial_prompt={run: absent}"], party="alice")


def test_whose_files_are_needed_can_be_said(write):
    path = write(task__pool="absent.jsonl")
    assert load_config(path, needs={"model_owner"}).task.pool == Path("absent.jsonl")
    with pytest.raises(ConfigError, match="absent.jsonl does not exist"):
        load_config(path)


# Limits and logs


def test_a_path_may_begin_with_the_home_folder(write, monkeypatch):
    path = write()
    home = load_config(path).task.pool.parent
    monkeypatch.setenv("HOME", str(home))
    assert load_config(path, ["task.pool=~/pool.jsonl"]).task.pool == home / "pool.jsonl"
    with pytest.raises(ConfigError, match="task.pool: is '~nobody-here/x', but there is no such home folder: write"):
        load_config(path, ["task.pool=~nobody-here/x"])


def test_limits_and_logs_are_read_where_they_are_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = ["cluster.limits.texts_a_day=5", "cluster.log=~/{party}.jsonl"]
    bob, alice = (load_config(ABY3, settings, party=party).cluster for party in ("bob", "alice"))
    assert bob.limits.by_name == {"texts_a_day": 5}
    assert bob.limits.file == tmp_path / ".local/state/secp-spu/limits.json"
    assert (bob.log, alice.log) == (tmp_path / "bob.jsonl", tmp_path / "alice.jsonl")
    beside = ["cluster.limits={predictions_a_day: 0, file: counts.json}", "cluster.log=logs/{party}.jsonl"]
    bob = load_config(ABY3, beside, party="bob").cluster
    assert bob.limits.file == ABY3.parent / "counts.json"
    assert bob.log == ABY3.parent / "logs" / "bob.jsonl"
    assert load_config(ABY3, beside, party="alice").cluster.limits.file == Path("counts.json")
    assert load_config(ABY3).cluster.limits is load_config(ABY3).cluster.log is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "cluster.limits.texts_a_day=-1",
            "cluster.limits.texts_a_day is -1: input should be greater than or equal to 0",
        ),
        ("cluster.limits.texts_a_day=many", "cluster.limits.texts_a_day is 'many': input should be a valid integer"),
        (
            "cluster.limits.text_a_day=1",
            "cluster.limits.text_a_day is no key: did you mean cluster.limits.texts_a_day?",
        ),
        ("cluster.limits={}", "cluster.limits: names no limit: set one of generations_a_day, evaluations_a_day"),
        ("cluster.limits={file: x}", "cluster.limits: names no limit: set one of"),
        ("cluster.limits={texts_a_day: 1, file: 5}", "cluster.limits.file: is 5, but must be a path"),
        ("cluster.limits=5", "cluster.limits is 5, but must be a section of keys"),
        ("cluster.log=''", "cluster.log: is '', but must be a path"),
        ("cluster.log='{role}.jsonl'", "cluster.log: has {role}, but {party} is all that stands for something"),
        ("cluster.log=${NOT_SET}/x", "cluster.log: the environment variable NOT_SET is not set"),
        ("cluster.log=$NOT_SET/x", "cluster.log: the environment variable NOT_SET is not set"),
    ],
)
def test_limits_and_logs_that_cannot_be_are_refused(setting, message):
    assert _refusal(ABY3, setting, party="bob").startswith(message)


@pytest.mark.parametrize("key", ["limits", "log"])
def test_limits_and_logs_that_would_do_nothing_are_refused(key):
    value = {"limits": "{texts_a_day: 1}", "log": "x.jsonl"}[key]
    refusal = _refusal(SIMULATION, f"cluster.{key}={value}")
    assert refusal.startswith(
        f"cluster.{key}: is there, but without cluster.addresses one process simulates all parties"
    )


def test_paths_do_not_decide_a_run_but_what_they_lead_to(write, tmp_path):
    """What they lead to is compared by `tuning.contents`."""
    digest = load_config(write()).digest()
    for key in ("task.pool", "task.test", "model.folder"):
        (tmp_path / "elsewhere").touch()
        assert load_config(write(), [f"{key}={tmp_path / 'elsewhere'}"]).digest() == digest


def test_a_template_that_looks_like_a_yaml_mapping_is_a_text():
    """Its key would be a mapping."""
    assert load_config(DEMO_CONFIG, ["task.template={text} : {mask}"]).task.template == "{text} : {mask}"
