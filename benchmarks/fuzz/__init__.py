"""Made-up input until something breaks: checkpoints' hyperparameters, COCO annotations, label maps and configs.

    python -m benchmarks.fuzz [checkpoints] [annotations] [masks] [configs] [--examples 2000] [--seed 0]

A fault is an example that ends in anything but a result or one sentence, runs code, or takes too long; hypothesis makes
it as small as it can and shows it.
"""
