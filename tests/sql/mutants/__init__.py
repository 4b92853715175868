"""Broken variants of our SQL and the tests that must fail on them: proof that the suite is not vacuous."""
