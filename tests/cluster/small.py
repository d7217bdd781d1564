"""A run that is small enough for a cluster on one machine, its start and its end: what tests of clusters share."""

import signal
import sys
import time
from pathlib import Path

from cluster_on_this_machine import Cluster, Party

from secp_spu.config import load_config
from secp_spu.progress import Progress
from secp_spu.runtime import PlaintextRuntime
from secp_spu.tuning import DATA_OWNER, DataOwner, ModelOwner, set_up, tune

COMMAND = Path(sys.executable).parent / "secp-spu"
CONFIG = Path("configs/cluster-aby3.yaml").absolute()
PARTIES = ("alice", "bob", "carol")
SMALL = ["task.shots=2", "task.validation_shots=2", "task.test_examples=6", "tuning.population=4"]
SEED = "tuning.seed=4"
"""For alice alone. Its losses have a clear order, see test_tune."""

SECONDS = 240
"""A cluster that ends by itself has done so by then, start included, on a busy machine."""


def tls(folder):
    """The setting that gives each party its certificate and its key in the folder."""
    paths = f"ca: {folder}/ca.pem, certificate: '{folder}/{{party}}.pem', key: '{folder}/{{party}}.key'"
    return f"cluster.tls={{{paths}}}"


def start_apart(out, settings, embeddings, *, ports=None, **own):
    """Parties of which none has a file that is another's: alice has no weights, bob no texts, carol neither."""
    no_texts = ["--set=task.pool=none", "--set=task.test=none"]
    theirs = {
        "alice": [f"--set={SEED}", f"--set=model.folder={embeddings}"],
        "bob": no_texts,
        "carol": [*no_texts, "--set=model.folder=none"],
    }
    theirs = {name: [*arguments, *own.get(name, [])] for name, arguments in theirs.items()}
    return Cluster(CONFIG, out, settings, own=theirs, quiet=True, ports=ports)


def wait_for_line(party: Party, text: str, seconds: float = SECONDS) -> None:
    """Wait until the party has printed a line with this text."""
    end = time.monotonic() + seconds
    while not any(text in line for line in party.lines):
        assert party.process.poll() is None, party.lines
        assert time.monotonic() < end, party.lines
        time.sleep(0.05)


def errors_at_end(cluster, statuses, seconds=SECONDS):
    """All parties end by themselves, in time, with these statuses; returns the error of each, which is one line."""
    start = time.monotonic()
    while None in [party.process.poll() for party in cluster.parties.values()]:
        assert time.monotonic() - start < seconds, {n: p.lines for n, p in cluster.parties.items()}
        time.sleep(0.1)
    cluster.kill()
    lines = {name: party.lines for name, party in cluster.parties.items()}
    assert {name: party.process.returncode for name, party in cluster.parties.items()} == statuses, lines
    errors = {name: [line for line in found if line.startswith("error")] for name, found in lines.items()}
    for name, status in statuses.items():
        assert len(errors[name]) == (0 if status == -signal.SIGKILL else 1), lines[name]
        assert not any("Traceback" in line for line in lines[name])
    return {name: found[0] for name, found in errors.items() if found}


def tune_in_plaintext(folder, settings):
    """The run of a cluster's configuration in plaintext and in this process, which proposes the same candidates."""
    config = load_config(CONFIG, [*settings, SEED, "protocol=plaintext", "cluster=null"])
    with PlaintextRuntime() as runtime:
        owner = runtime.actor(DATA_OWNER, DataOwner, config, folder, resume=False)
        tune(set_up(runtime, config, owner, runtime.actor("model_owner", ModelOwner, config), Progress()))
