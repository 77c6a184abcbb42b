"""The data set that `run.py` measures: official definitions, workloads of our own, the kernels of this folder.

The official definitions are read from where they lie (flashinfer-bench's data set, Apache-2.0) and are not part of this
repository. Workloads whose official tensors are not published beside them get initialisers instead.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from eventide.bench import Definition, Solution, Trace, TraceSet

KERNELS = Path(__file__).resolve().parent / "kernels"
ATTENTION = ("paged_decode", "paged_prefill", "ragged_prefill")
SCALE = 0.08838834764831845  # 1 / sqrt(128)

PAGED_INIT = {
    "kv_indptr": {"kind": "indptr", "total": "num_kv_indices"},
    "kv_indices": {"kind": "integers", "low": 0, "high": "num_pages"},
}
RAGGED_INIT = {
    "qo_indptr": {"kind": "indptr", "total": "total_q"},
    "kv_indptr": {"kind": "indptr", "total": "total_kv"},
}
TOP_P_INIT = {"top_p": {"kind": "uniform", "low": 0.5, "high": 0.95}}
TOP_K_INIT = {"top_k": {"kind": "integers", "low": 10, "high": 100}}


def _paged(batch: int, tokens: int) -> dict[str, Any]:
    axes = {"batch_size": batch, "num_pages": 32768, "len_indptr": batch + 1, "num_kv_indices": batch * tokens}
    return {"axes": axes, "scalars": {"sm_scale": SCALE}, "init": PAGED_INIT}


# every sequence has more keys than there are queries in all, so none has more queries than keys
_PAGED_PREFILL = {
    "axes": {"len_indptr": 5, "total_q": 512, "num_kv_indices": 8192, "num_pages": 32768},
    "scalars": {"sm_scale": SCALE},
    "init": {
        "qo_indptr": {"kind": "indptr", "total": "total_q"},
        "kv_indptr": {"kind": "indptr", "total": "num_kv_indices", "min_len": 512},
        "kv_indices": {"kind": "integers", "low": 0, "high": "num_pages"},
    },
}

# one sequence: two random row pointers could give a sequence more queries than keys
_PREFILL = {
    "axes": {"len_indptr": 2, "total_q": 512, "total_kv": 2048},
    "scalars": {"sm_scale": SCALE},
    "init": RAGGED_INIT,
}

# scales that keep activations near 1 between the products
_MOE = {
    "axes": {"seq_len": 128},
    "scalars": {"local_expert_offset": 96, "routed_scaling_factor": 2.5},
    "init": {
        "routing_bias": {"kind": "normal", "std": 0.1},
        "hidden_states_scale": {"kind": "uniform", "low": 0.5, "high": 1.5},
        "gemm1_weights_scale": {"kind": "uniform", "low": 0.006, "high": 0.018},
        "gemm2_weights_scale": {"kind": "uniform", "low": 0.03, "high": 0.09},
    },
}

PLAN: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "rmsnorm/rmsnorm_h4096": ("rmsnorm", [{"axes": {"batch_size": 4096}}]),
    "gemm/gemm_n4096_k4096": ("gemm", [{"axes": {"M": 16}}, {"axes": {"M": 2048}}]),
    "gqa_paged/gqa_paged_decode_h32_kv8_d128_ps1": ("paged_decode", [_paged(16, 1024)]),
    "sampling/top_p_sampling_from_probs_v128256": ("top_p", [{"axes": {"batch_size": 16}, "init": TOP_P_INIT}]),
    "moe/moe_fp8_block_scale_ds_routing_topk8_ng8_kg4_e32_h7168_i2048": ("moe", [_MOE]),
    "gqa_paged/gqa_paged_prefill_causal_h32_kv8_d128_ps1": ("paged_prefill", [_PAGED_PREFILL]),
    "gqa_ragged/gqa_ragged_prefill_causal_h32_kv8_d128": ("ragged_prefill", [_PREFILL]),
    "rmsnorm/fused_add_rmsnorm_h4096": ("fused_add_rmsnorm", [{"axes": {"batch_size": 4096}}]),
    "sampling/top_k_sampling_from_probs_v128256": ("top_k", [{"axes": {"batch_size": 16}, "init": TOP_K_INIT}]),
    "gqa_paged/gqa_paged_decode_h32_kv4_d128_ps1": ("paged_decode", [_paged(16, 1024)]),
    "gemm/gemm_n6144_k4096": ("gemm", [{"axes": {"M": 128}}]),
    "rmsnorm/rmsnorm_h2048": ("rmsnorm", [{"axes": {"batch_size": 4096}}]),
}
"""Folder and name of the definition: the kernels' name, and the workloads. In the order of measuring."""


def _text(name: str, values: dict[str, str]) -> str:
    text = (KERNELS / name).read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def _solutions(definition: Definition, kernel: str) -> list[Solution]:
    """The Triton and the CUDA solution; the constant of a norm is the reference's."""
    found = re.search(r"EPS = (\S+)", definition.reference)
    counts = {"top_k": ("True", "1", "int"), "top_p": ("False", "0", "float")}.get(kernel, ("", "", ""))
    values = dict(zip(("COUNT", "COUNT_INT", "LIMIT"), counts)) | {"EPS": found[1] if found else ""}
    base = {"top_k": "sampling", "top_p": "sampling"}.get(kernel, kernel)
    cuda_file = "attention_cuda.cu" if base in ATTENTION else f"{base}_cuda.cu"
    sources = {
        "triton": {"main.py": _text(f"{base}_triton.py", values)},
        "cuda": {"kernel.cu": _text(cuda_file, values)},
    }
    entry = {"triton": "main.py::run", "cuda": "kernel.cu::run"}
    if (KERNELS / f"{base}_cuda.py").exists():
        sources["cuda"]["launch.py"] = _text(f"{base}_cuda.py", values)
        entry["cuda"] = "launch.py::run"
    return [
        Solution.model_validate(
            {
                "name": f"{definition.name}_{language}",
                "definition": definition.name,
                "author": "eventide",
                "spec": {"language": language, "target_hardware": ["NVIDIA H200"], "entry_point": entry[language]},
                "sources": [{"path": p, "content": c} for p, c in sources[language].items()],
            }
        )
        for language in ("triton", "cuda")
    ]


def _workload(definition: Definition, number: int, plan: dict[str, Any]) -> Trace:
    inputs: dict[str, Any] = {name: {"type": "random"} for name in definition.inputs}
    inputs |= {name: {"type": "scalar", "value": value} for name, value in plan.get("scalars", {}).items()}
    workload: dict[str, Any] = {"axes": plan["axes"], "inputs": inputs, "uuid": f"eventide-{definition.name}-{number}"}
    if "init" in plan:
        workload["eventide"] = {"version": 1, "init": plan["init"]}
    return Trace.model_validate({"definition": definition.name, "workload": workload})


def make(official: Path, root: Path) -> TraceSet:
    """Write the data set to `root`, or add to it what is missing; traces that are there stay."""
    data = TraceSet.load(root) if root.exists() else TraceSet(root=root)
    for place, (kernel, plans) in PLAN.items():
        definition = Definition.model_validate(json.loads((official / "definitions" / f"{place}.json").read_text()))
        if definition.name not in data.definitions:
            data.add_definition(definition)
        for solution in _solutions(definition, kernel):
            if solution.name not in data.solution_names:
                data.add_solution(solution)
        known = {t.uuid for t in data.workloads[definition.name]}
        missing = [_workload(definition, n, plan) for n, plan in enumerate(plans)]
        data.add_traces([t for t in missing if t.uuid not in known])
    return data
