"""A model owner's limits: counted across runs and processes, refused beyond, told to all."""

import json
import multiprocessing
import threading
from datetime import date, timedelta

import pytest

from secp_spu.config import LimitsSection
from secp_spu.runtime import Journal
from secp_spu.tuning import limits as module
from secp_spu.tuning.limits import FILE, GRANTED, Account, Allowance, Amounts, ClusterAllowance, LimitReached

TODAY = date(2025, 3, 1)
ONE = Amounts(generations=1, evaluations=8, texts=100)


def _account(tmp_path, day=TODAY, **limits):
    section = LimitsSection(**(limits or {"texts_a_day": 250}), file=str(tmp_path / "counts" / "limits.json"))
    return Account(section, lambda: day)


def _counts(tmp_path):
    return json.loads((tmp_path / "counts" / "limits.json").read_text())["counts"]


def test_counts_are_kept_across_runs_and_refused_beyond(tmp_path):
    _account(tmp_path).count(ONE)
    _account(tmp_path).count(ONE)  # another process would begin so
    with pytest.raises(LimitReached) as error:
        _account(tmp_path).count(ONE)
    assert error.value.limit == "texts_a_day"
    assert str(error.value) == (
        "cluster.limits.texts_a_day is 250: 200 were counted on 2025-03-01 (UTC, in "
        f"{tmp_path / 'counts' / 'limits.json'}), and 100 more are asked for: refused"
    )
    assert _counts(tmp_path) == {
        "generations_a_day": 2,
        "evaluations_a_day": 16,
        "texts_a_day": 200,
        "predictions_a_day": 0,
    }
    _account(tmp_path).count(Amounts(texts=50))  # exactly up to the limit
    with pytest.raises(LimitReached):
        _account(tmp_path).count(Amounts(texts=1))


@pytest.mark.parametrize("key", ["generations", "evaluations", "texts", "predictions"])
def test_each_limit_is_of_its_own_amount(tmp_path, key):
    account = _account(tmp_path, **{f"{key}_a_day": 1})
    others = {name: 9 for name in ("generations", "evaluations", "texts", "predictions") if name != key}
    account.count(Amounts(**others, **{key: 1}))
    account.count(Amounts(**others))
    with pytest.raises(LimitReached, match=f"{key}_a_day is 1: 1 were counted"):
        account.count(Amounts(**others, **{key: 1}))


def test_a_limit_of_zero_refuses_everything(tmp_path):
    account = _account(tmp_path, predictions_a_day=0)
    account.check(ONE)
    with pytest.raises(LimitReached, match="predictions_a_day is 0"):
        account.check(Amounts(predictions=1, texts=1))


def test_checking_counts_nothing(tmp_path):
    _account(tmp_path).check(ONE)
    assert set(_counts(tmp_path).values()) == {0}
    with pytest.raises(LimitReached):
        _account(tmp_path).check(Amounts(texts=251))


def test_a_new_day_begins_anew_and_an_earlier_one_is_refused(tmp_path):
    _account(tmp_path).count(Amounts(texts=250))
    tomorrow = TODAY + timedelta(days=1)
    _account(tmp_path, tomorrow).count(Amounts(texts=250))
    with pytest.raises(LimitReached, match="counts for 2025-03-02, and today is 2025-03-01") as error:
        _account(tmp_path).count(Amounts(texts=1))
    assert error.value.limit == FILE
    assert _counts(tmp_path)["texts_a_day"] == 250


def test_the_file_is_for_its_owners_eyes_alone(tmp_path):
    _account(tmp_path).count(ONE)
    files = list((tmp_path / "counts").iterdir())
    assert {path.name for path in files} == {"limits.json", "limits.json.lock"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "counts").stat().st_mode & 0o777 == 0o700, "who can write the folder can take the file away"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"day": "2025-03-01", "counts": {}}',
        '{"day": "today", "counts": {"generations_a_day": 0}}',
        '{"day": 1, "counts": {}}',
        *(
            json.dumps({"day": "2025-03-01", "counts": dict.fromkeys(module.LIMITED, bad)})
            for bad in (-1, "1", None, 0.5, True)
        ),
    ],
)
def test_a_damaged_file_is_a_refusal_and_no_reset(tmp_path, content):
    path = tmp_path / "counts" / "limits.json"
    path.parent.mkdir()
    path.write_text(content)
    for act in ("check", "count"):
        with pytest.raises(LimitReached, match="is damaged .*: see what was given away, and remove it") as error:
            getattr(_account(tmp_path), act)(ONE)
        assert error.value.limit == FILE
        assert "\n" not in str(error.value)
    assert path.read_text() == content


def test_a_file_that_cannot_be_written_is_a_refusal(tmp_path):
    (tmp_path / "counts").write_text("a file")
    with pytest.raises(LimitReached, match="cannot be written"):
        _account(tmp_path).check(ONE)
    (tmp_path / "counts").unlink()
    (tmp_path / "counts" / "limits.json").mkdir(parents=True)
    with pytest.raises(LimitReached, match="is damaged"):
        _account(tmp_path).check(ONE)


def _count_often(folder, times):
    for _ in range(times):
        _account(folder, texts_a_day=10**6).count(Amounts(texts=1))


def test_two_runs_at_once_lose_no_count(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count_often, args=(tmp_path, 50)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert _counts(tmp_path)["texts_a_day"] == 100


def test_a_file_that_another_process_holds_is_waited_for_and_then_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.3)
    account = _account(tmp_path)
    with account._turn():
        said = []

        def ask():
            with pytest.raises(LimitReached, match="is held by another process") as error:
                _account(tmp_path).count(ONE)
            said.append(error.value.limit)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert said == [FILE]
    _account(tmp_path).count(ONE)


def test_an_amount_below_zero_gives_nothing_back(tmp_path):
    account = _account(tmp_path)
    account.count(ONE)
    with pytest.raises(ValueError, match="below zero"):
        account.count(Amounts(texts=-100))
    assert _counts(tmp_path)["texts_a_day"] == 100


# What the parties of a cluster tell each other


class _Parties:
    """Drivers of all parties, each in a thread; a gather gives each what all have passed."""

    def __init__(self, tmp_path, account, lies=None):
        self._barrier, self._passed, self._lies = threading.Barrier(3), {}, lies or {}
        self.said = {}
        self.journals = {name: tmp_path / f"{name}.jsonl" for name in ("alice", "bob", "carol")}
        self._allowances = {
            name: ClusterAllowance(
                self._gather(name), "bob", "alice", account if name == "bob" else None, Journal(path, name)
            )
            for name, path in self.journals.items()
        }

    def _gather(self, name):
        def gather(value):
            self._passed[name] = self._lies.get(name, value)
            self._barrier.wait(10)
            found = dict(self._passed)
            self._barrier.wait(10)
            return found

        return gather

    def run(self, *amounts):
        def drive(name, allowance):
            try:
                allowance.begin(amounts[0])
                for part in amounts[1:]:
                    allowance.take(part)
                self.said[name] = "done"
            except LimitReached as error:
                self.said[name] = str(error)

        threads = [threading.Thread(target=drive, args=item) for item in self._allowances.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return self.said


def test_all_parties_end_when_the_model_owner_refuses_at_the_start(tmp_path):
    said = _Parties(tmp_path, _account(tmp_path)).run(Amounts(texts=300), ONE)
    for name in ("alice", "carol"):
        assert said[name] == (
            "bob refuses this run: it would go beyond its limit cluster.limits.texts_a_day; ask for less, wait for the "
            "next day (UTC), or ask bob"
        )
    assert "texts_a_day is 250: 0 were counted" in said["bob"]
    assert not (tmp_path / "counts" / "limits.json").exists()


def test_and_when_a_run_takes_more_than_it_asked_for(tmp_path):
    """The data owner's word at the start binds nothing: what is taken is counted."""
    parties = _Parties(tmp_path, _account(tmp_path))
    said = parties.run(Amounts(texts=1), ONE, ONE, ONE)
    assert all("texts_a_day" in line for line in said.values())
    assert "200 were counted" in said["bob"]
    assert _counts(tmp_path)["texts_a_day"] == 200
    for path in parties.journals.values():
        events = [json.loads(line) for line in path.read_text().splitlines()]
        assert [event["event"] for event in events] == ["asked", "part", "part", "refused"]
        assert events[-1]["limit"] == "texts_a_day"
        assert events[0]["by"] == "alice"
        assert "250" not in str([{**event, "time": None} for event in events])  # milliseconds may be any number


def test_without_limits_nothing_is_asked_after_the_start(tmp_path):
    assert set(_Parties(tmp_path, None).run(ONE, ONE, ONE).values()) == {"done"}


@pytest.mark.parametrize("lie", [GRANTED, None, "texts_a_day"])
def test_no_other_party_can_grant_or_refuse(tmp_path, lie):
    lies = {"alice": lie, "carol": lie}
    assert set(_Parties(tmp_path, _account(tmp_path), lies).run(ONE, ONE, ONE).values()) == {"done"}
    (tmp_path / "counts" / "limits.json").unlink()
    said = _Parties(tmp_path, _account(tmp_path), lies).run(ONE, ONE, ONE, ONE)
    assert all("texts_a_day" in line for line in said.values())


@pytest.mark.parametrize("verdict", [FILE, "x" * 10_000, 7, {"a": 1}])
def test_a_model_owner_that_cannot_count_or_says_something_else_ends_all(tmp_path, verdict):
    said = _Parties(tmp_path, None, {"bob": verdict}).run(ONE)
    assert set(said.values()) == {"bob refuses this run: it cannot count what it gives away; see its own output"}


def test_one_process_is_never_refused():
    Allowance().begin(Amounts(texts=10**9))
    Allowance().take(Amounts(texts=10**9))
