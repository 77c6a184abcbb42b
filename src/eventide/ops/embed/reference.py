def tile(t):  # type: ignore[no-untyped-def]
    t.y[...] = t.w[t.tokens[t.seq, t.pos]]
