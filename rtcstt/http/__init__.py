"""What `server/` and `embedded/http/` share: who may ask for what, refusals as JSON, and a server that runs
until it is stopped.

* `access`: permissions, and the authenticator.
* `guard`: the table of routes, each with its permission; hosts and origins; headers of every answer.
* `errors`: refusals.
* `giving_way`: for loops over what comes from outside.
* `serving`: connections, and the order of the end.
"""

from rtcstt.http.errors import Handler as Handler
from rtcstt.http.errors import refusal as refusal
from rtcstt.http.errors import refusals as refusals
from rtcstt.http.serving import listen as listen
from rtcstt.http.serving import run_until_stopped as run_until_stopped
