"""Trains the bundled model on generated text for a given number of minutes, then evaluates what it wrote.

    PYTHONPATH=tools python -m train_tiny.train --tokenizer src/eventide/models/bundled/eventide-tiny \
        --out build/eventide-tiny --minutes 3.3

The learning rate follows the clock (warm up, hold, fall to zero when time is over), so a faster machine sees more text
in the same minutes. Weights are kept in fp32, multiplied in bf16, and written in bf16. Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from .corpus import END_OF_TEXT, TURN_END
from .evaluate import evaluate
from .pack import ROW_LEN, new_shards, start_workers
from .train_tokenizer import MAX_LENGTH

PEAK_LEARNING_RATE = 4e-3
WARMUP_STEPS = 150
# the part of the time in which the learning rate falls
COOLDOWN = 0.45
WEIGHT_DECAY = 0.05


def new_model(tokenizer: PreTrainedTokenizerFast, layers: int) -> Qwen3ForCausalLM:
    """A Qwen3 of hidden size 256 with fresh weights, fp32."""
    turn_end, end = tokenizer.convert_tokens_to_ids([TURN_END, END_OF_TEXT])
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=2, head_dim=32, max_position_embeddings=MAX_LENGTH,
        rope_theta=10_000.0, rms_norm_eps=1e-6, tie_word_embeddings=True, attention_bias=False,
        bos_token_id=None, eos_token_id=turn_end, pad_token_id=end, attn_implementation="sdpa",
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
                projection.weight.div_(math.sqrt(2 * layers))
    # stop at the end of a turn and at the end of a document; sampling values as they read best
    model.generation_config = GenerationConfig(
        eos_token_id=[turn_end, end], pad_token_id=end, do_sample=True, temperature=0.7, top_p=0.95, top_k=50
    )
    return model


def hidden_states(model: Qwen3ForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """Last hidden states [rows, length, hidden] under a causal mask, layer by layer so that layers compile alike."""
    inner = model.model
    h = inner.embed_tokens(tokens)
    positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
    rotary = inner.rotary_emb(h, positions)
    for layer in inner.layers:
        out = layer(h, attention_mask=None, position_embeddings=rotary)
        h = out if isinstance(out, torch.Tensor) else out[0]
    return inner.norm(h)


def head_loss(h: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy in nats of the next tokens."""
    return F.cross_entropy(F.linear(h, weight).float().flatten(0, 1), targets.flatten())


def learning_rate(step: int, elapsed: float) -> float:
    """The rate at `step` when the fraction `elapsed` of the time is over."""
    return PEAK_LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS, max(0.0, (1.0 - elapsed) / COOLDOWN))


def train(args: argparse.Namespace, model: Qwen3ForCausalLM, shards: Path) -> dict[str, float | int | str | None]:
    """Train until the minutes are over; what was done, for the model card."""
    device = torch.device(args.device)
    start = time.monotonic()
    deadline = start + 60 * args.minutes
    model.to(device).train()
    loss_of = head_loss
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        for layer in model.model.layers:
            layer.compile(dynamic=False)
        loss_of = torch.compile(head_loss, dynamic=False)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.0, betas=(0.9, 0.98), eps=1e-9, fused=True,
    )  # fmt: skip
    pool = torch.empty((args.pool_rows, ROW_LEN + 1), dtype=torch.int16, device=device)
    pooled = taken = step = 0
    seen: set[str] = set()
    chooser = torch.Generator(device=device).manual_seed(args.seed)
    history = []
    while (now := time.monotonic()) < deadline and step < args.max_steps:
        if step % 16 == 0 or pooled < args.rows:
            for shard in new_shards(shards, seen):
                fits = min(len(shard), args.pool_rows - pooled)
                pool[pooled : pooled + fits] = torch.from_numpy(shard[:fits]).to(device)
                pooled += fits
            if pooled < args.rows:
                time.sleep(0.05)
                continue
        # rows in the order they came; while the workers lag behind, rows already seen
        if taken + args.rows <= pooled:
            batch = pool[taken : taken + args.rows].long()
            taken += args.rows
        else:
            batch = pool[torch.randint(pooled, (args.rows,), generator=chooser, device=device)].long()
        rate = learning_rate(step, (now - start) / (deadline - start))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16):
            h = hidden_states(model, batch[:, :-1])
            loss = loss_of(h, model.lm_head.weight, batch[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        # reading the loss also keeps the host from running far ahead of the clock
        if step % args.log_every == 0:
            history.append((step, round(loss.item(), 4)))
            rows = f"rows {taken} of {pooled}"
            print(f"step {step} loss {history[-1][1]} rate {rate:.2e} {rows} {now - start:.0f} s", flush=True)
    return {
        "steps": step, "tokens": step * args.rows * ROW_LEN, "fresh_tokens": pooled * ROW_LEN,
        "seconds": round(time.monotonic() - start, 1),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "last_training_loss": history[-1][1] if history else None,
    }  # fmt: skip


def write_config(folder: Path) -> None:
    """Rewrite `config.json` in the spelling of published Qwen3 checkpoints, which older and newer readers know."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    theta = config.pop("rope_parameters", {}).get("rope_theta", config.get("rope_theta"))
    config |= {"rope_theta": theta, "rope_scaling": None, "torch_dtype": config.pop("dtype", "bfloat16")}
    for name in ("layer_types", "transformers_version"):
        config.pop(name, None)
    path.write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    generation = json.loads((folder / "generation_config.json").read_text())
    generation.pop("transformers_version", None)
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    # published as any file of the repository, while safetensors may have been written for the owner alone
    (folder / "model.safetensors").chmod(0o644)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the bundled model on generated text.")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with the two tokenizer files")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives the checkpoint and metrics.json")
    parser.add_argument("--minutes", type=float, default=3.3, help="wall-clock time of the training itself")
    parser.add_argument("--max-steps", type=int, default=10**9)
    parser.add_argument("--rows", type=int, default=128, help=f"rows of {ROW_LEN} tokens in a step")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="processes that make text"
    )
    parser.add_argument("--shards", type=int, default=10**6, help="shards that each of them makes at most")
    parser.add_argument("--pool-rows", type=int, default=3_000_000)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--eval-count", type=int, default=500, help="problems of each task")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        workers = start_workers(args.tokenizer / "tokenizer.json", Path(folder), args.seed, args.workers, args.shards)
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(args.tokenizer)
            model = new_model(tokenizer, args.layers)
            facts = train(args, model, Path(folder))
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait()
    # a fresh instance, because a compiled one saves and generates through its compiled layers
    written = Qwen3ForCausalLM(model.config)
    written.load_state_dict(model.state_dict())
    written.generation_config = model.generation_config
    written.to(torch.bfloat16).save_pretrained(args.out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if args.tokenizer.resolve() != args.out.resolve():
            shutil.copy(args.tokenizer / name, args.out / name)
    facts["parameters"] = sum(p.numel() for p in written.parameters())
    write_config(args.out)
    print(json.dumps(facts), flush=True)
    (args.out / "metrics.json").write_text(json.dumps({"training": facts}, indent=2) + "\n")
    metrics = {"training": facts, **evaluate(args.out, args.eval_count, args.device)}
    (args.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    main()
