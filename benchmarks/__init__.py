"""Side-by-side timings. Never imported by the library or the tests."""
