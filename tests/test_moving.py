"""Real callers whose server is killed, or drains, while they speak: they go on at another one.

With real speech and the embedded recogniser, whose words differ a little with how the audio is cut; so the
exact claims (no word lost, none twice) are those of test_restored.py, and here it is that nothing is missing
that should not be, that turns and numbers go on, and that the text is that of one server.
"""

from __future__ import annotations
