"""Backends: what runs a plan. `interp` defines its meaning, `null` needs no hardware, `cpu` and `cuda` are fast."""
