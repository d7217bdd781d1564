"""What texts and prompts cost where the data owner embeds them at home, and where tokens are looked up under MPC."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np

from secp_spu.bench.measure_iteration import Iteration
from secp_spu.bench.mpc_setting import OWNER
from secp_spu.bench.records import Case, Record
from secp_spu.bench.scaling import add
from secp_spu.bench.shapes import RandomModel, RandomTexts
from secp_spu.bench.tables import Table, cost_cells, groups, of_bench, setting_name, workload
from secp_spu.inference import SHIFT_BITS, PrivateEmbedding, encoded_words, one_hot, other_tables
from secp_spu.model import HIDDEN_BITS
from secp_spu.progress import Progress
from secp_spu.protocol import FRACTION_BITS, to_storage
from secp_spu.runtime import Owned, PlaintextRuntime, Runtime, Stored
from secp_spu.trees import Tree

What = Literal["texts", "prompt"]


def embedding_cases(iteration: Iteration, progress: Progress) -> Iterator[Case]:
    """Embedding the texts, once a run, and a prompt, in every evaluation; and a forward pass, to compare with.

    Tables are in the set-up phase, everything that is done for the texts or the prompt in the online phase.

    Args:
        iteration: a forward pass: gives model, texts and setting.
        progress: told of every layer of the pass.
    """
    key = {"bench": "embedding", **iteration.key}
    del key["variant"]
    for what in ("texts", "prompt"):
        yield Case({**key, "variant": f"{what}, data_owner"}, partial(_measure, iteration, _at_home, what))
        yield Case({**key, "variant": f"{what}, private"}, partial(_measure, iteration, _under_mpc, what))
    layers = {"measured_layers": iteration.layers, "extrapolated": iteration.extrapolate}
    measure, memory = partial(iteration.measure, progress), iteration.memory_bytes()
    yield Case({**key, "variant": "forward pass", **layers}, measure, iteration.layers, memory)


def _measure(iteration: Iteration, embed: Callable[[Iteration, What, Runtime], Stored], what: What) -> Record:
    with PlaintextRuntime() as runtime:
        expected = runtime.open_to(OWNER, embed(iteration, what, runtime)).value
    with iteration.setting.runtime() as runtime:
        result = embed(iteration, what, runtime)
        costs, found = runtime.ledger.report(), runtime.open_to(OWNER, result).value
    return {**costs, "max_abs_error": float(np.abs(found - expected).max()) * 2.0 ** (FRACTION_BITS - HIDDEN_BITS)}


def _at_home(iteration: Iteration, what: What, runtime: Runtime) -> Stored:
    texts = RandomTexts(iteration.config, iteration.batch, iteration.seq_len)
    hidden = texts.prompts() if what == "prompt" else texts.embedded(iteration.seq_len - texts.prompt_tokens)
    shared: Stored = _share(runtime, to_storage(hidden, HIDDEN_BITS))
    return shared


def _under_mpc(iteration: Iteration, what: What, runtime: Runtime) -> Stored:
    config = iteration.config
    texts, params = RandomTexts(config, iteration.batch, iteration.seq_len), RandomModel(config).embeddings()
    tokens = iteration.seq_len - texts.prompt_tokens
    ids = texts.token_ids(tokens, config.vocab_size).ravel()
    with runtime.ledger.phase("setup"):
        tables = PrivateEmbedding(
            runtime,
            config,
            lambda rows: _share(runtime, encoded_words(params, rows)),
            _share(runtime, other_tables(params)),
        )

    def share_one_hot(some: range, rows: range) -> Stored:
        shared: Stored = _share(runtime, one_hot(ids[some.start : some.stop], rows))
        return shared

    if what == "texts":
        words = tables.look_up(range(len(ids)), share_one_hot)
        keep = _share(runtime, np.ones((iteration.batch, tokens), np.int32))
        return tables.embed(words, keep, texts.prompt_tokens)
    with runtime.ledger.phase("setup"):
        prompts = tables.prompts(tables.look_up(range(texts.prompt_tokens), share_one_hot))
    return prompts.embed(_share(runtime, to_storage(texts.prompts(), SHIFT_BITS)))


def _share(runtime: Runtime, values: Tree) -> Tree:
    return runtime.share(Owned(OWNER, values))


def embedding_tables(records: Iterable[Record]) -> list[Table]:
    """Texts and prompts embedded by the data owner and under MPC, beside a forward pass."""
    found = groups(of_bench(records, "embedding"), lambda r: (workload(r), setting_name(r)))
    return [_table(key, group) for key, group in found]


def _table(key: tuple[str, str], records: Sequence[Record]) -> Table:
    rows = []
    for record in records:
        tables = record["setup"] if record["variant"].endswith("private") else None
        cells = [
            f"{tables['bytes'] / 1e6:,.1f}" if tables else "",
            *cost_cells(add([record["offline"], record["online"]])),
        ]
        often = "once" if record["variant"].startswith("texts") else "every evaluation"
        rows.append([record["variant"], often, *cells, _shared(record), f"{record['max_abs_error']:.1e}"])
    columns = ["what", "how often", "tables MB", "MB", "sends", "s", "from the owner MB", "max error"]
    note = (
        "MB and sends: mean over the parties, offline and online together. Tables: what the model owner shares, once a "
        "run. From the owner: how much of the MB is shared by the data owner, as one-hot rows or embedded."
    )
    return Table(f"Embedding, {': '.join(key)}", columns, rows, [note], words=2)


def _shared(record: Record) -> str:
    return f"{record['online']['programs']['share']['bytes'] / 1e6:,.2f}"
