"""`python -m benchmarks`: every measurement of minutes. Words, turns and the soak: by themselves."""

from benchmarks import receive_path, server_load, streams

if __name__ == "__main__":
    receive_path.main([])
    server_load.main([])
    streams.main([])
