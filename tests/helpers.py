"""What test files share beside fixtures."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from diafano.errors import Notes, collect_notes


@contextmanager
def told(match: str) -> Iterator[Notes]:
    """As `pytest.warns`, of notes: inside, something is noted that matches."""
    with collect_notes() as noted:
        yield noted
    assert any(re.search(match, sentence) for sentence in noted), f"{match!r} is not among {noted}"
