"""Methods timed alone on an idle device, interleaved, at the same model, batch, length and precision: `bench speed`.

What is measured, how, and what each column means: docs/benchmarks/method.md.
"""
