"""The networks and their settings; imports nothing of the other wings."""
