"""Networks: losses, augmentation, training, checkpoints and inference."""
