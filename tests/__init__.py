"""Tests that concern the whole: the SQL, the cluster, and the tools that the tests of all parts share."""
