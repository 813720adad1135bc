"""The bundle's format and its reader."""
