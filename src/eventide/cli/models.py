"""`eventide models`: what can be run, and what one model is made of."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from .common import console, print_json

_DESCRIPTION = """\
List the bundled models and the architectures that run; with a MODEL, its configuration and what it needs.

  eventide models
  eventide models eventide-tiny
"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("models", help="list models and architectures", description=_DESCRIPTION)
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a checkpoint directory, bundled name or hub id")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def main(args: argparse.Namespace) -> int:
    facts = _one(args.model) if args.model else _all()
    if args.json:
        print_json(facts)
        return 0
    from rich.table import Table

    if args.model:
        table = Table("", args.model, box=None, header_style="bold")
        for name, value in facts.items():
            table.add_row(name, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
    else:
        table = Table("bundled model", "architecture", "parameters", "dtype", "context", box=None, header_style="bold")
        for name, model in facts["bundled"].items():
            table.add_row(
                name, model["architecture"], f"{model['num_parameters']:,}", model["dtype"], f"{model['context']:,}"
            )
    console().print(table)
    if not args.model:
        print("\narchitectures that run (checkpoint directories, or hub ids with the extra `hub`):")
        print("  " + ", ".join(facts["architectures"]))
    return 0


def _all() -> dict[str, Any]:
    from ..models import hub, registry

    bundled = {name: _one(name) for name in hub.bundled_models()}
    return {"bundled": bundled, "architectures": list(registry.architectures())}


def _one(model: str) -> dict[str, Any]:
    from ..models import hub, registry
    from ..models.decoder import Limits, cache_bytes
    from ..models.weights import total_bytes

    directory = hub.resolve(model, weights=False)
    config = registry.load_config(directory)
    specs = registry.family_of(config).weight_specs(config)
    one = Limits(max_seqs=1, max_seq_len=1, page_size=1)
    itemsize = 4 if config.dtype == "float32" else 2
    facts = {key: value for key, value in asdict(config).items() if key != "max_position_embeddings"}
    facts["eos_token_ids"] = list(config.eos_token_ids)
    return {
        **facts,
        "context": config.max_position_embeddings,
        "num_parameters": sum(spec.num_elements for spec in specs),
        "weight_bytes": total_bytes(specs, config.dtype),
        "cache_bytes_per_token": cache_bytes(config, one, itemsize),
        "directory": str(directory),
    }
