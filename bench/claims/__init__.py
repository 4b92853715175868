"""The benchmark of claims: claim_resource and claim_batch beside a bare INSERT and what else there is."""
