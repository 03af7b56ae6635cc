"""Jobs: many pictures from one call."""
