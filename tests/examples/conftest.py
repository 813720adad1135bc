"""The hand-made bundle, and what the Python examples work on."""

from tests.models import bundles

tiny_bundle = bundles.tiny_bundle
