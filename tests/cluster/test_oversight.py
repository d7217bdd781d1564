"""Real processes: what the parties compare at the start, what the model owner's limits refuse, and what is logged."""

import json
from contextlib import suppress

import pytest
from small import CONFIG, PARTIES, SMALL, errors_at_end, start_apart, wait_for_line

from secp_spu.config import LimitsSection, load_config
from secp_spu.tuning import RunRecord
from secp_spu.tuning.limits import Account, Amounts, LimitReached

pytestmark = pytest.mark.cluster

SETTINGS = [*SMALL, "tuning.generations=30"]

TEXTS_A_DAY = 100_000
LOSS_DIGITS = 8


def test_a_program_that_differs_ends_all_before_it_runs(tmp_path, embeddings, monkeypatch):
    monkeypatch.setenv("SECP_SPU_TEST_HOOKS", "altered")
    with start_apart(tmp_path / "run", SETTINGS, embeddings) as cluster:
        errors = errors_at_end(cluster, dict.fromkeys(PARTIES, 1))
    for name in ("alice", "carol"):
        assert "the program head differs: its SHA-256 is" in errors[name]
        assert f"at {name}, but bob has ['head', '" in errors[name]
    assert "at bob, but alice has ['head', '" in errors["bob"]
    assert RunRecord.load(tmp_path / "run").accuracy_before is None


@pytest.fixture(scope="module")
def refused(tmp_path_factory, embeddings):
    """A run that bob's limit ends in its middle, and once more when it is to go on: (folder, first, second errors).

    What fills the limit is another run of bob's, which counts in the same file.
    """
    folder = tmp_path_factory.mktemp("limits")
    bob = [f"--set=cluster.limits={{texts_a_day: {TEXTS_A_DAY}, file: {folder / 'limits.json'}}}"]
    settings = [*SETTINGS, f"cluster.log={folder}/{{party}}.jsonl"]
    with start_apart(folder / "run", settings, embeddings, bob=bob) as cluster:
        wait_for_line(cluster.parties["alice"], "generation   1")
        account = Account(LimitsSection(texts_a_day=TEXTS_A_DAY, file=str(folder / "limits.json")))
        left = TEXTS_A_DAY - _counts(folder)["texts_a_day"]
        while left > 0:
            with suppress(LimitReached):  # the run has counted in between
                account.count(Amounts(texts=left))
            left = TEXTS_A_DAY - _counts(folder)["texts_a_day"]
        first = errors_at_end(cluster, dict.fromkeys(PARTIES, 1))
    made = len(RunRecord.load(folder / "run").generations)
    with start_apart(folder / "run", settings, embeddings, alice=["--resume"], bob=bob) as cluster:
        second = errors_at_end(cluster, dict.fromkeys(PARTIES, 1))
    assert len(RunRecord.load(folder / "run").generations) == made > 0
    return folder, first, second


def _counts(folder):
    return json.loads((folder / "limits.json").read_text())["counts"]


def _events(folder, party):
    return [json.loads(line) for line in (folder / f"{party}.jsonl").read_text().splitlines()]


def test_the_model_owners_limit_ends_all_in_the_middle_and_at_the_start(refused):
    for errors in refused[1:]:
        for name in ("alice", "carol"):
            assert "bob refuses this run: it would go beyond its limit cluster.limits.texts_a_day" in errors[name]
        assert f"cluster.limits.texts_a_day is {TEXTS_A_DAY}: {TEXTS_A_DAY} were counted on" in errors["bob"]


def test_what_was_opened_stays_counted_and_no_more_was_opened(refused):
    folder = refused[0]
    for party in ("bob", "carol"):
        opened = [event for event in _events(folder, party) if event["event"] == "opened"]
        parts = [event for event in _events(folder, party) if event["event"] == "part"]
        assert {event["to"] for event in opened} == {"alice"}
        rows, numbers = (
            sum(values) for values in zip(*((e["shapes"][0][0], e["numbers"]) for e in opened), strict=True)
        )
        assert numbers == 2 * rows  # two labels
        assert rows == sum(event["texts"] for event in parts)
    counts = _counts(folder)
    for key in ("generations", "evaluations"):
        assert counts[f"{key}_a_day"] == sum(event[key] for event in parts) > 0
    assert counts["texts_a_day"] == TEXTS_A_DAY
    assert (folder / "limits.json").stat().st_mode & 0o777 == 0o600


def test_each_partys_log_says_who_asked_for_what_and_what_ran(refused):
    folder = refused[0]
    logs = {party: _events(folder, party) for party in PARTIES}
    for party, events in logs.items():
        assert (folder / f"{party}.jsonl").stat().st_mode & 0o777 == 0o600
        assert {event["party"] for event in events} == {party}
        starts = [event for event in events if event["event"] == "start"]
        assert [(event["data_owner"], event["purpose"]) for event in starts] == [("alice", "tuning")] * 2
        asked = [event for event in events if event["event"] == "asked"]
        assert asked[0]["by"] == "alice"
        assert asked[0]["generations"] == 30
        assert asked[1]["generations"] == 30 - len(RunRecord.load(folder / "run").generations)
        assert sum(sum(e["bytes_by_party"].values()) for e in events if e["event"] == "sent") > 10**6
        assert [event["outcome"] for event in events if event["event"] == "end"] == ["failed"] * 2
        assert [event["limit"] for event in events if event["event"] == "refused"] == ["texts_a_day"] * 2
    programs = [[(e["name"], e["sha256"]) for e in events if e["event"] == "program"] for events in logs.values()]
    assert programs[0] == programs[1] == programs[2]
    assert {"layer", "head", "assemble"} <= {name for name, _ in programs[0]}


def test_no_log_and_no_count_holds_a_secret(refused):
    folder = refused[0]
    record, task = RunRecord.load(folder / "run"), load_config(CONFIG).task
    secrets = [json.loads(line)["text"] for line in (task.pool.read_text() + task.test.read_text()).splitlines()]
    numbers = [*record.best, *(loss for generation in record.generations for loss in generation.losses)]
    secrets += [repr(number)[:LOSS_DIGITS] for number in numbers]
    secrets += ["accuracy", "loss", "logits", str(task.pool)]
    for path in (*folder.glob("*.jsonl"), folder / "limits.json"):
        content = path.read_text()
        assert not [secret for secret in secrets if secret in content], path
