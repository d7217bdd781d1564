"""Softmax attention and attention by random and by learned features, by length (arXiv 2506.15307, figure 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from secp_spu.bench.mpc_setting import MpcSetting
from secp_spu.bench.parts import Part, attention_part
from secp_spu.bench.records import Case, Record
from secp_spu.inference import sequence_bytes
from secp_spu.model import ATTENTIONS, AttentionKind, TransformerConfig


def attention_cases(
    setting: MpcSetting,
    config: TransformerConfig,
    lengths: Sequence[int],
    features: Sequence[int],
    *,
    variants: Sequence[AttentionKind] = tuple(ATTENTIONS),
) -> Iterator[Case]:
    """One layer's attention on one sequence, from queries, keys and values to the heads' output.

    Args:
        setting: what to run under.
        config: gives heads and head_dim.
        lengths: tokens a sequence.
        features: frequencies a head of "rfa" and "fourier".
        variants: which.
    """
    for length in lengths:
        sizes = {"seq_len": length, "heads": config.heads, "head_dim": config.head_dim, "batch": 1}
        key = {"bench": "attention", **setting.key, **sizes}
        if "softmax" in variants:
            yield _case({**key, "variant": "softmax"}, setting, replace(config, attention="softmax"))
        for kind in variants:
            for count in features if kind != "softmax" else ():
                of_count = replace(config, attention=kind, features=count)
                yield _case({**key, "variant": kind, "features": count}, setting, of_count)


def _case(key: Record, setting: MpcSetting, config: TransformerConfig) -> Case:
    length = key["seq_len"]
    memory = setting.parties * sequence_bytes(replace(config, intermediate=0), length)  # attention alone
    return Case(key, lambda: _part(setting, config, length).measure(setting), memory_bytes=memory)


def _part(setting: MpcSetting, config: TransformerConfig, length: int) -> Part:
    return attention_part(config, 1, length, protocol=setting.protocol, folded=True)
