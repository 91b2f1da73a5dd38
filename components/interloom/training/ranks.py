"""What the ranks of one stage do once for all."""

from collections.abc import Callable

from interloom.core.artifacts import ArtifactKind, ArtifactRef


def commit_once(kind: ArtifactKind, commit: Callable[[], ArtifactRef]) -> ArtifactRef:
    """Let rank 0 commit and tell the others the reference; alone, just commit.

    Every rank must call it, after training has joined them.
    """
    import torch
    from torch import distributed

    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return commit()
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    digest = torch.zeros(32, dtype=torch.uint8, device=device)
    if distributed.get_rank() == 0:
        ref = commit()
        digest.copy_(torch.tensor(list(bytes.fromhex(ref.id)), dtype=torch.uint8))
    distributed.broadcast(digest, src=0)
    return ArtifactRef(kind, bytes(digest.cpu().tolist()).hex())
