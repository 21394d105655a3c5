"""The CGN of BigGAN and U2-Net: losses, training, weights."""
