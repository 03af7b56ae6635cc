"""Networks: autoencoder, UNet, ControlNet, and the layers and adapters they are made of."""
