"""One small interface (base.py), many runners: each heavy library is imported by one file here."""
