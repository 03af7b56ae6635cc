"""Training: three stages (autoencoder, text encoder, UNet), one loop."""
