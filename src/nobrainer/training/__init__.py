"""Training: objective, engine, loop and checkpoints."""
