"""One queue for everything that draws: what is asked, where it is kept, whose turn it is, who draws it."""
