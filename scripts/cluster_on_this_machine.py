"""Runs all parties of a cluster's configuration on this machine: starts them, streams their output, ends them together.

python scripts/cluster_on_this_machine.py --config configs/cluster-aby3.yaml --out runs/cluster
python scripts/cluster_on_this_machine.py --config configs/cluster-aby3.yaml --run runs/cluster --texts FILE --out FILE

The first tunes a prompt, the second labels texts with it. Every party is a process of its own on free ports of
127.0.0.1. Where the configuration has neither `tls` nor `plain_text: true`, they get certificates of an authority that
is made for this run, in a folder that only this user can read and that is removed at the end. When one party fails, the
others get some seconds to say why and are then ended. No process is left behind, nor when this one is interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from make_test_ca import make_test_ca

from secp_spu.config import ClusterSection, load_config
from secp_spu.errors import ConfigError
from secp_spu.files import make_private_folder
from secp_spu.runtime.cgroup import oom_kills, why_killed

GRACE_SECONDS = 30
"""How long the others may go on after one party has failed; each of them notices on its own within some 20 seconds."""


def _for_owners_eyes(path: str, flags: int) -> int:
    """A party's lines hold losses."""
    return os.open(path, flags, 0o600)


class Party:
    """A party's process and its log; the processes that it starts carry the same mark in their environment."""

    def __init__(self, name: str, command: str, arguments: Sequence[str], log: Path, *, quiet: bool = False):
        self.name, self.mark = name, f"secp-spu-{os.getpid()}-{name}"
        call = [str(Path(sys.executable).parent / "secp-spu"), command, "--party", name, *arguments]
        environment = os.environ | {"SECP_SPU_CLUSTER_MARK": self.mark, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            call,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this script alone, which ends the parties in order
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, args=(log, quiet), daemon=True)
        self._reader.start()

    def _read(self, log: Path, quiet: bool) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as printed, open(log, "a", encoding="utf-8", opener=_for_owners_eyes) as file:
            os.fchmod(file.fileno(), 0o600)
            for line in printed:
                self.lines.append(line.rstrip("\n"))
                file.write(line)
                file.flush()
                if not quiet:
                    print(f"{self.name:>8} | {line}", end="", flush=True)

    def processes(self) -> list[psutil.Process]:
        """The party's process and all that it started, Ray's daemons among them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SECP_SPU_CLUSTER_MARK") == self.mark:
                    found.append(process)
        return found

    def kill(self) -> None:
        """End everything of this party at once, and read its last lines."""
        while running := [p for p in self.processes() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
            for process in running:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(running, timeout=1)
            self.process.poll()
        self.process.wait()
        self._reader.join(timeout=5)


class Cluster:
    """All parties of a configuration.

    Args:
        config: of the cluster.
        out: folder of the data owner's outputs, or its file of labels; the parties' logs go beside it, to
            OUT.logs/NAME.log.
        settings: for all parties, as --set takes them.
        texts: the data owner's run and a file of texts to label, instead of tuning.
        own: more arguments for one party, by its name.
        quiet: print nothing.
        leave_out: parties that are not started.
        ports: parties that are put on free ports; by default all are.
    """

    def __init__(
        self,
        config: Path,
        out: Path,
        settings: Sequence[str] = (),
        *,
        texts: tuple[Path, Path] | None = None,
        own: dict[str, list[str]] | None = None,
        quiet: bool = False,
        leave_out: Sequence[str] = (),
        ports: Sequence[str] | None = None,
    ):
        cluster = load_config(config, settings).cluster
        if cluster is None:
            raise ConfigError(f"{config} has no `cluster`")
        self.settings = [*settings, *_addresses(cluster, cluster.everyone if ports is None else ports)]
        self._folder = tempfile.TemporaryDirectory(prefix="secp-spu-tls-")  # mode 700
        if cluster.tls is None and not cluster.plain_text:
            self.settings.append(_certificates(cluster, Path(self._folder.name)))
        logs = out.with_name(f"{out.name}.logs")
        make_private_folder(logs)
        self.oom_kills = oom_kills()
        self.parties: dict[str, Party] = {}
        for name in cluster.everyone:
            if name in leave_out:
                continue
            arguments = [f"--set={setting}" for setting in self.settings]
            if texts and name == cluster.data_owner:
                arguments += [f"--run={texts[0]}", f"--texts={texts[1]}"]
            else:
                arguments.append(f"--config={config}")
            if name == cluster.data_owner:
                arguments.append(f"--out={out}")
            arguments += (own or {}).get(name, [])
            command = "predict" if texts else "party"
            self.parties[name] = Party(name, command, arguments, logs / f"{name}.log", quiet=quiet)

    def wait(self, timeout: float | None = None) -> dict[str, int]:
        """Exit statuses by party, when all have ended, or some seconds after the first has failed.

        Raises: TimeoutError.
        """
        start, failed_at = time.monotonic(), None
        while True:
            statuses, now = self._statuses(), time.monotonic()
            if None not in statuses.values():
                break
            if failed_at is None and any(statuses.values()):
                failed_at = now
            if failed_at is not None and now - failed_at > GRACE_SECONDS:
                break
            if timeout is not None and now - start > timeout:
                raise TimeoutError(f"after {timeout} s still running: {[n for n, s in statuses.items() if s is None]}")
            time.sleep(0.2)
        for name, status in statuses.items():
            if status == -signal.SIGKILL:  # by somebody else: this script has killed none yet
                print(f"{name} was killed, {why_killed(self.oom_kills)}", file=sys.stderr)
        self.kill()
        return {name: party.process.returncode for name, party in self.parties.items()}

    def kill(self) -> None:
        """End all parties, and everything that they have started."""
        for party in self.parties.values():
            party.kill()

    def _statuses(self) -> dict[str, int | None]:
        return {name: party.process.poll() for name, party in self.parties.items()}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._folder.cleanup()


def _addresses(cluster: ClusterSection, parties: Sequence[str]) -> list[str]:
    """Settings that put parties on free ports of this machine."""
    with contextlib.ExitStack() as held:

        def free() -> str:
            probe = held.enter_context(socket.socket())  # held until all are found, so that they differ
            probe.bind(("127.0.0.1", 0))
            return f"127.0.0.1:{probe.getsockname()[1]}"

        found = []
        for name in parties:
            found.append(f"cluster.addresses.{name}.control={free()}")
            if name in cluster.compute:
                found.append(f"cluster.addresses.{name}.compute={free()}")
        return found


def _certificates(cluster: ClusterSection, folder: Path) -> str:
    """Make an authority for this run alone; returns the setting that names its certificates."""
    make_test_ca(folder, cluster.everyone)
    files = {"ca": "ca.pem", "certificate": "{party}.pem", "key": "{party}.key"}
    return f"cluster.tls={json.dumps({key: str(folder / name) for key, name in files.items()})}"


def main() -> int:
    """Run the cluster; 0 if every party ended well, otherwise the status of one that did not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="YAML file with a `cluster`")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the data owner's outputs, or file of labels"
    )
    parser.add_argument("--run", type=Path, help="to label texts: the data owner's run")
    parser.add_argument("--texts", type=Path, help="to label texts: JSON lines")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all parties")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--seed", type=int, help="tuning.seed, for the data owner alone")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    try:
        if (arguments.run is None) != (arguments.texts is None):
            raise ConfigError("--run and --texts go together: they label texts")
        cluster_section = load_config(arguments.config, arguments.set).cluster
        data_owner = cluster_section.data_owner if cluster_section else ""
        own = ["--resume"] if arguments.resume else []
        own += [f"--set=tuning.seed={arguments.seed}"] if arguments.seed is not None else []
        texts = (arguments.run, arguments.texts) if arguments.run else None
        with Cluster(arguments.config, arguments.out, arguments.set, texts=texts, own={data_owner: own}) as cluster:
            statuses = cluster.wait()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; all parties are ended", file=sys.stderr)
        return 1
    return max(statuses.values(), key=abs)


if __name__ == "__main__":
    sys.exit(main())
