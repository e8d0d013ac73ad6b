"""The page's server as a process of its own, to be killed: `python tests/collecting_server.py URL PORT ITEMS OVERLAP`."""

import sys

from collecting import KEY, some_items
from trainyard_trainer.collecting.database import open_database
from trainyard_trainer.collecting.server import serve
from trainyard_trainer.collecting.settings import ServerSettings

if __name__ == "__main__":
    url, port, items, overlap = sys.argv[1], *map(int, sys.argv[2:])
    database = open_database(url)
    database.load(some_items(items), overlap, repeats=0.1)
    settings = ServerSettings(
        title="Collected by tests", guidelines="Read both.\n\n- one\n- two", votes_per_minute=100_000
    )
    tally = serve(database, settings, KEY, port, host="127.0.0.1", ready=lambda port: print("ready", flush=True))
    print(tally, flush=True)
