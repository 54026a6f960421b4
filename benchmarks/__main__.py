"""`python -m benchmarks`: every measurement, some minutes. By themselves: words, turns, and an hour's soak."""

from benchmarks import receive_path, server_load, streams

if __name__ == "__main__":
    receive_path.main([])
    server_load.main([])
    streams.main([])
