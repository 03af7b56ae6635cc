"""Training stages: one for each part that is trained."""
