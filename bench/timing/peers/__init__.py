"""Side by side on one machine: Trainer + PEFT and this harness on the same work; `python -m bench bench` runs it.

What is measured, how, and what each column means: docs/benchmarks/method.md. peft and accelerate are imported only by
the peers' files (`contenders/_peer.py`, `peer_sweep.py`).
"""
