"""Sampling: from noise to a clean latent, by a denoiser, guidance and a sampler along falling sigmas."""
