"""How long tests wait for what has to happen. A wait ends by what is waited for; these only end a broken test."""

from typing import Final

# Far beyond what anything takes on a busy machine, so that no slow one is taken for a broken product. What has to be
# fast is judged by a clock that the test turns, by a count, or by a ratio of two times of one run.
PATIENCE_SECONDS: Final = 120.0
# For what a broken variant never does. Whether it is slow or broken is all the same: it must not pass.
MUTANT_SECONDS: Final = 15.0

# Deadlines of the end-to-end tests are given as a healthy machine needs them; a machine may be so much slower.
SLOWER: Final = 4.0
