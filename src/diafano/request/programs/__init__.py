"""Other programs: the habits that make the same settings draw the same picture as there."""
