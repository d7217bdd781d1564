"""Reads and writes Hugging Face's config.json."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from secp_spu.model.activation import ACTIVATIONS, activation_class, is_function
from secp_spu.model.attention import ATTENTIONS, attention_class
from secp_spu.model.hub.families import FAMILIES
from secp_spu.model.hub.families.family import ConfigFields, Family
from secp_spu.model.transformer_config import ActivationKind, TransformerConfig
from secp_spu.protocol import GeluSeries, fit_gelu
from secp_spu.protocol.gelu import LIMITS, TERMS
from secp_spu.trees import Json, JsonObject

Choice = TypeVar("Choice")


class CheckpointError(ValueError):
    """A folder that cannot be read as an encoder, or variables that cannot be written as one."""


EXTRAS = {"features": (1, 2**16), "feature_seed": (0, 2**63 - 1)}
"""Fields of TransformerConfig under the key "secp_spu", for attention by features: smallest and largest value."""

UNADAPTED: JsonObject = {"attention": "softmax"}
"""What the key "secp_spu" says of a model of Hugging Face's own, which lacks the key."""


def read_config(folder: Path) -> tuple[JsonObject, TransformerConfig]:
    """config.json as it is, and what it says about the model."""
    path = folder / "config.json"
    hub = read_json(path)
    family = FAMILIES[_choice(hub, "model_type", FAMILIES, path)]
    for key, value in family.fixed.items():
        _choice(hub, key, [value], path, default=value)
    _choice(hub, "tie_word_embeddings", [True, False], path, default=True)
    sizes = _read_sizes(hub, family, path)
    padding_id = family.padding_id
    if padding_id is not None:
        padding_id = _integer(hub, "pad_token_id", (0, sizes["vocab_size"] - 1), path, default=padding_id)
    act_key, default_act = family.activation
    functions = _hidden_acts()
    hidden_act = functions[_choice(hub, act_key, functions, path, default=default_act)]
    epsilon_key, default_epsilon = family.epsilon
    epsilon = hub.get(epsilon_key, default_epsilon)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise CheckpointError(f"{path}: {epsilon_key} is {epsilon!r}, allowed are numbers between 0 and 1")
    fields: ConfigFields = {
        **sizes,
        **family.fixed_fields(padding_id, hidden_act),
        "activation": hidden_act,
        **_read_extras(hub.get("secp_spu", UNADAPTED), path),
    }
    return hub, TransformerConfig(**fields, layer_norm_epsilon=epsilon)


def _hidden_acts() -> dict[str, ActivationKind]:
    """Values of hidden_act, and our names of the activations."""
    return {name: kind for kind, activation in ACTIVATIONS.items() for name in activation.hub_names}


def _read_sizes(hub: JsonObject, family: Family, path: Path) -> dict[str, int]:
    """Sizes of a TransformerConfig; a decoder's feed-forward layer is four times as wide unless it says."""
    sizes: dict[str, int] = {}
    for field, key in family.sizes.items():
        default = 4 * sizes["width"] if family.causal and field == "intermediate" else None
        sizes[field] = _integer(hub, key, (1, 2**31), path, default=default)
    if sizes["width"] % sizes["heads"]:
        width, heads = family.sizes["width"], family.sizes["heads"]
        raise CheckpointError(f"{path}: {width} is {sizes['width']}, allowed are multiples of {heads} {sizes['heads']}")
    return sizes


def _read_extras(extras: Json, path: Path) -> ConfigFields:
    """Fields of TransformerConfig under the key "secp_spu"."""
    allowed = ["attention", *EXTRAS, "activation", "activation_range", "activation_terms", "adapted"]
    if not isinstance(extras, dict) or not extras.keys() <= set(allowed):
        raise CheckpointError(f"{path}: secp_spu is {extras!r}, allowed are the keys {', '.join(allowed)}")
    if not isinstance(extras.get("adapted", {}), dict):  # for people to read: how the checkpoint was made
        raise CheckpointError(f"{path}: adapted is {extras['adapted']!r}, it must be an object")
    fields: ConfigFields = {"attention": _choice(extras, "attention", ATTENTIONS, path)}
    if ATTENTIONS[fields["attention"]].has_features:
        fields |= {key: _integer(extras, key, span, path) for key, span in EXTRAS.items()}
    if "activation" in extras:
        adapted = [kind for kind in ACTIVATIONS if not ACTIVATIONS[kind].hub_names]
        fields["activation"] = _choice(extras, "activation", adapted, path)
        if ACTIVATIONS[fields["activation"]].uses_series:
            fields["series"] = _read_series(extras, path)
    return fields


def _read_series(extras: JsonObject, path: Path) -> GeluSeries:
    terms = _integer(extras, "activation_terms", TERMS, path)
    limit = extras.get("activation_range")
    least, most = LIMITS
    if not isinstance(limit, int | float) or isinstance(limit, bool) or not least <= limit <= most:
        raise CheckpointError(f"{path}: activation_range is {limit!r}, allowed are numbers from {least} to {most}")
    return fit_gelu(float(limit), terms)


def _choice(hub: JsonObject, key: str, allowed: Iterable[Choice], path: Path, default: Choice | None = None) -> Choice:
    value = default if hub.get(key) is None else hub[key]
    for choice in allowed:
        if choice == value:
            return choice
    raise CheckpointError(f"{path}: {key} is {value!r}, allowed: {', '.join(map(repr, allowed))}")


def _integer(hub: JsonObject, key: str, span: tuple[int, int], path: Path, default: int | None = None) -> int:
    value = default if hub.get(key) is None else hub[key]
    if not isinstance(value, int) or isinstance(value, bool) or not span[0] <= value <= span[1]:
        raise CheckpointError(f"{path}: {key} is {value!r}, allowed are whole numbers from {span[0]} to {span[1]}")
    return value


def write_config(config: TransformerConfig, model_type: str, special_ids: Mapping[str, int]) -> JsonObject:
    """config.json for an encoder; what the model type cannot express is an error."""
    if model_type not in FAMILIES:
        raise CheckpointError(f"model_type is {model_type!r}, allowed: {', '.join(map(repr, FAMILIES))}")
    family = FAMILIES[model_type]
    if family.padding_id is not None:
        special_ids = {"pad": family.padding_id, **special_ids}
    padding_id = special_ids.get("pad")
    fields = asdict(config)
    function = config.activation if is_function(config.activation) else config.head_activation
    for field, value in family.fixed_fields(padding_id, function).items():
        if fields[field] != value:
            raise CheckpointError(
                f"config.{field} is {fields[field]!r}, a {model_type} model with activation {function} and "
                f"padding id {padding_id} has {value!r}: choose another model_type or config"
            )
    extras = _write_extras(config)
    return {
        "model_type": model_type,
        **{key: fields[field] for field, key in family.sizes.items()},
        **family.fixed,
        family.activation[0]: ACTIVATIONS[function].hub_names[0],
        family.epsilon[0]: config.layer_norm_epsilon,
        **{f"{name}_token_id": token for name, token in special_ids.items()},
        **({"secp_spu": extras} if extras else {}),
    }


def _write_extras(config: TransformerConfig) -> JsonObject:
    """What Hugging Face has no word for; nothing for a model that it knows."""
    extras: JsonObject = {"attention": config.attention}
    if attention_class(config).has_features:
        extras |= {key: getattr(config, key) for key in EXTRAS}
    if not activation_class(config).hub_names:
        extras["activation"] = config.activation
    if config.series is not None:
        extras |= {"activation_range": config.series.limit, "activation_terms": config.series.terms}
    return {} if extras == UNADAPTED else extras


def read_json(path: Path) -> JsonObject:
    """The object in a JSON file."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        folder = path.parent
        wrong = f"has no {path.name}" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(
            f"{folder} {wrong}: give a Hugging Face folder, with config.json, model.safetensors and tokenizer.json"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, it must hold an object")
    return content
