"""Between the processes of one proxy: channels for messages, and shared memory for counts."""
