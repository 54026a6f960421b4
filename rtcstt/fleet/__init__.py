"""Several processes and machines as one server: where a call goes, who has it, and how it moves.

Cores (no I/O, no clock): `placement`, `ids`, `restarts`, `ownership`, `journal`, `schedule`, `rows`. Shells:
`board` (memory that workers share), `parent` (processes), `proxy` and `router` (HTTP), `store` (Redis), and
on it `shared` with `writer`, `mirrors`, `others` and `sweeper`.
"""
