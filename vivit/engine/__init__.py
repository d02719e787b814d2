"""Learning and measuring: losses, metrics, optimiser, checkpoints, the training loop and the evaluation."""
