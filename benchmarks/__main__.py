"""`python -m benchmarks`: every measurement, some minutes."""

from benchmarks import receive_path, server_load

if __name__ == "__main__":
    receive_path.main([])
    server_load.main([])
