"""The log: lines, targets, the writer, end reasons."""
