"""AUTOMATIC1111's interface (``/sdapi/v1``), as its clients use it."""
