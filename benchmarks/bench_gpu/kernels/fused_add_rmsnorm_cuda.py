from eventide.bench.worker.nvrtc import Module

kernel = Module.from_file(__file__, "kernel.cu")["add_rmsnorm"]
EPS = float("@EPS@")  # the definition's, put in by dataset.py


def run(hidden_states, residual, weight, output):
    rows, width = hidden_states.shape
    arguments = (hidden_states, residual, weight, output, width, EPS)
    kernel(grid=(rows,), block=(512,), arguments=arguments, shared_bytes=4 * width)
