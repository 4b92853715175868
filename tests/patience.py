"""Time limits of tests. A wait ends when its condition is true; these limits only end a broken test."""

from typing import Final

# Much longer than anything takes on a busy machine, so that a slow machine does not fail a test. What has to be fast is
# checked with a clock that the test sets, with a count, or with a ratio of two times of one run.
PATIENCE_SECONDS: Final = 120.0
# For what a mutant never does. It must not pass, whether it is slow or broken.
MUTANT_SECONDS: Final = 15.0

# Deadlines of the end-to-end tests are those of a healthy machine. Another one may be slower by this factor.
SLOWER: Final = 4.0
