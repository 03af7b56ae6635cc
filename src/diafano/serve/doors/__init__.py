"""The interfaces that clients already speak, each a thin view of jobs."""
