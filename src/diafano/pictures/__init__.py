"""Input and output: picture files, pixels, masks, and the settings that a picture carries."""
