"""Around PaddleSeg's training loop: optimizer, checkpoints, curves, configs."""
