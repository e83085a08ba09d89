"""What everything stands on: processes, signals, memory, files that appear whole or not at all."""
