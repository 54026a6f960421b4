"""The vendor's own Python examples, run from the text of their page: PAGE FUNCTION [WAV].

The base URL comes from the environment (CARTESIA_BASE_URL), so that nothing in them is changed.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
import textwrap
from pathlib import Path

from cartesia import AsyncCartesia, Cartesia

page, name, *paths = sys.argv[1:]
blocks = re.findall(r"```python[^\n]*\n(.*?)```", Path(page).read_text(), re.DOTALL)
code = next(block for block in blocks if f"def {name}(" in block)
names = {"Cartesia": Cartesia, "AsyncCartesia": AsyncCartesia}
exec(textwrap.dedent(code), names)
example = names[name]


async def run_async() -> None:
    async with AsyncCartesia(api_key="sesame") as client:
        await example(client, *paths)


if inspect.iscoroutinefunction(example):
    asyncio.run(run_async())
else:
    example(Cartesia(api_key="sesame"), *paths)
