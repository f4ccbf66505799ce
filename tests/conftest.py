"""Settings that every test shares."""

import os

from hypothesis import settings

# No test asserts a time, so no example has a deadline; the build machine draws the same examples each time.
settings.register_profile("agentref", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("agentref")
