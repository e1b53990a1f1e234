"""What surrounds PaddleSeg's training loop: optimizer, checkpoints, curves, configs."""
