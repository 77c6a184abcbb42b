"""The engine: requests, steps, sampling, and the loop that turns them into tokens."""
