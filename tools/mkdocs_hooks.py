"""Links from the documentation to other files of the repository become their paths; a site has none."""

from __future__ import annotations

import re

LINK = re.compile(r"\[([^\]]*)\]\((?:\.\./)+([^)]+)\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    return LINK.sub(lambda link: f"{link[1]} (`{link[2]}`)" if link[2] not in link[1] else link[1], markdown)
