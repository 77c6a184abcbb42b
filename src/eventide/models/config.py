"""What a decoder-only model is: the numbers that config.json gives, checked, under one set of names.

    config = registry.load_config(directory)
    config.num_heads, config.head_dim, config.rope_scaling
    config.q_rows, config.kv_rows            rows of the query and of the key (or value) projection

`parse_decoder_config` reads what Qwen, Llama and their relatives write alike, in the spelling of transformers 4
(``torch_dtype``, ``rope_theta`` and ``rope_scaling`` at the top) and of transformers 5 (``dtype``,
``rope_parameters``). What differs between families is passed in by the family's file. A feature that Eventide doesn't
compute raises `UnsupportedModelError` here, before any weight is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from eventide.errors import CheckpointError, UnsupportedModelError
from eventide.models.jsonfile import Fields

__all__ = ["Llama3Scaling", "ModelConfig", "parse_decoder_config"]

_MAX_LAYERS = 10_000
_MOE_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")


@dataclass(frozen=True)
class Llama3Scaling:
    """RoPE scaling of Llama 3.1 and later (``rope_type: llama3``): long wavelengths are stretched by `factor`."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of one checkpoint. Sizes count elements; token ids are ids in its vocabulary."""

    architecture: str  # the class name in config.json, such as Qwen3ForCausalLM
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    qkv_bias: bool
    qk_norm: bool
    tie_word_embeddings: bool
    max_position_embeddings: int
    dtype: str  # what the weights were saved as
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None

    @property
    def q_rows(self) -> int:
        """Rows of the query projection: num_heads · head_dim (may differ from hidden_size)."""
        return self.num_heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        """Rows of the key projection, and of the value projection: num_kv_heads · head_dim."""
        return self.num_kv_heads * self.head_dim


def parse_decoder_config(
    fields: Fields,
    *,
    architecture: str,
    qkv_bias: bool = False,
    qk_norm: bool = False,
    default_head_dim: int | None = None,
    max_position_embeddings: int = 2048,
    rejected_flags: tuple[str, ...] = ("attention_bias", "mlp_bias"),
) -> ModelConfig:
    """Read config.json of a pre-norm decoder with RoPE, grouped-query attention and a SiLU-gated MLP.

    `default_head_dim` and `max_position_embeddings` hold where the file leaves the key out (None: hidden_size / heads);
    `rejected_flags` are keys that must not be true.
    Raises `CheckpointError` for a missing or senseless value and `UnsupportedModelError` for a feature not computed.
    """
    _reject_unsupported(fields, architecture, rejected_flags)
    hidden_size = fields.integer("hidden_size", minimum=1)
    num_heads = fields.integer("num_attention_heads", minimum=1)
    num_kv_heads = fields.integer("num_key_value_heads", num_heads, minimum=1)
    if num_heads % num_kv_heads:
        raise CheckpointError(
            f"{fields.source}: num_attention_heads ({num_heads}) must be a multiple of "
            f"num_key_value_heads ({num_kv_heads})"
        )
    head_dim = fields.integer("head_dim", default_head_dim, minimum=1)
    if head_dim is None:
        if hidden_size % num_heads:
            raise CheckpointError(
                f"{fields.source}: without head_dim, hidden_size ({hidden_size}) must be a multiple of "
                f"num_attention_heads ({num_heads})"
            )
        head_dim = hidden_size // num_heads
    if head_dim % 2:
        raise CheckpointError(f"{fields.source}: head_dim must be even for RoPE, got {head_dim}")
    rope_theta, rope_scaling = _parse_rope(fields, architecture)
    num_layers = fields.integer("num_hidden_layers", minimum=1)
    if num_layers > _MAX_LAYERS:  # a list of so many weights would take minutes before it is found wrong
        raise fields.fail("num_hidden_layers", f"an integer of at most {_MAX_LAYERS}")
    _reject_sliding_window(fields, architecture, num_layers)
    pad_token_id = fields.integer("pad_token_id", None, minimum=-1)
    if pad_token_id == -1:  # old Llama files write -1 for none
        pad_token_id = None
    return ModelConfig(
        architecture=architecture,
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size", minimum=1),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        vocab_size=fields.integer("vocab_size", minimum=1),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6, above=True),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
        max_position_embeddings=fields.integer("max_position_embeddings", max_position_embeddings, minimum=1),
        dtype=_parse_dtype(fields, architecture),
        bos_token_id=next(iter(fields.token_ids("bos_token_id")), None),
        eos_token_ids=fields.token_ids("eos_token_id"),
        pad_token_id=pad_token_id,
    )


def unsupported(architecture: str, feature: str, way_out: str = "") -> UnsupportedModelError:
    """The error for a feature of a known architecture that Eventide doesn't compute."""
    return UnsupportedModelError(f"{architecture}: {feature} isn't supported" + (f"; {way_out}" if way_out else ""))


def _reject_unsupported(fields: Fields, architecture: str, rejected_flags: tuple[str, ...]) -> None:
    if fields.raw.get("quantization_config") is not None:
        raise unsupported(architecture, "quantization (quantization_config)", "take the unquantized one")
    for key in _MOE_KEYS:
        if fields.raw.get(key):
            raise unsupported(architecture, f"a mixture of experts ({key}={fields.raw[key]})")
    activation = fields.string("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise unsupported(architecture, f"hidden_act {activation!r}", "only 'silu' is")
    for key in rejected_flags:
        if fields.boolean(key, False):
            raise unsupported(architecture, f"{key}=true")


def _reject_sliding_window(fields: Fields, architecture: str, num_layers: int) -> None:
    layer_types = fields.strings("layer_types")
    for layer_type in layer_types:
        if layer_type != "full_attention":
            raise unsupported(architecture, f"the layer type {layer_type!r} (sliding window or linear attention)")
    windowed = fields.boolean("use_sliding_window", False) and fields.raw.get("sliding_window") is not None
    # layers below max_window_layers attend to everything, so a window that starts past the last layer is not in use
    if windowed and not layer_types and fields.integer("max_window_layers", 0) < num_layers:
        raise unsupported(architecture, "sliding-window attention (use_sliding_window=true)")


def _parse_rope(fields: Fields, architecture: str) -> tuple[float, Llama3Scaling | None]:
    # transformers 5 writes rope_parameters, with the base inside; 4 writes rope_scaling beside rope_theta
    rope = fields.nested("rope_parameters") or fields.nested("rope_scaling") or Fields({}, fields.source)
    if any(isinstance(value, dict) for value in rope.raw.values()):
        raise unsupported(architecture, "RoPE parameters that differ between layers")
    theta = (rope if rope.raw.get("rope_theta") is not None else fields).number("rope_theta", 10000.0, above=True)
    for source in (rope, fields):
        if source.number("partial_rotary_factor", 1.0) != 1.0:
            raise unsupported(architecture, "RoPE on a part of the head (partial_rotary_factor)")
    rope_type = rope.string("rope_type", None) or rope.string("type", "default")
    if rope_type == "default":
        return theta, None
    if rope_type != "llama3":
        raise unsupported(architecture, f"the RoPE type {rope_type!r}", "'default' and 'llama3' are")
    scaling = Llama3Scaling(
        factor=rope.number("factor", minimum=1.0),
        low_freq_factor=rope.number("low_freq_factor", above=True),
        high_freq_factor=rope.number("high_freq_factor", above=True),
        original_max_position_embeddings=rope.integer("original_max_position_embeddings", minimum=1),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise rope.fail("high_freq_factor", f"above low_freq_factor ({scaling.low_freq_factor:g})")
    return theta, scaling


def _parse_dtype(fields: Fields, architecture: str) -> str:
    key = "dtype" if fields.raw.get("dtype") is not None else "torch_dtype"
    name: str = fields.string(key, "float32").removeprefix("torch.")
    if name not in ("float32", "bfloat16", "float16"):
        raise unsupported(architecture, f"the dtype {name!r}", "float32, bfloat16 and float16 are")
    return name
