"""Sources, shares, sampler, packing, resumable stream."""
