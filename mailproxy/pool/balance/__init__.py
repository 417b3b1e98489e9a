"""The methods that choose a server: least connections, round robin, source, random, first."""
