"""HTTP: one queue, and the interfaces (doors) by which clients ask it for pictures."""
