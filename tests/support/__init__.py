"""What the tests import by name: helpers, servers and programs; no tests."""
