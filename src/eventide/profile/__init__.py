"""Where time and bytes go: `timeline` (what each worker did, for Perfetto), `traffic` (what each operator must move),
`bandwidth` (what the machine can), `explain` (the three together)."""
