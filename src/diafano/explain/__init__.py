"""A run made visible: filmstrip of its steps, previews while it goes on."""
